"""Variational weights on MNIST: sparse variational dropout, and Bayes by backprop.

    python -m benchmarks.mnist sparse --data DIR              # minutes, on one CPU core
    python -m benchmarks.mnist bbb --data DIR --validation    # scored on 10,000 training images, to choose settings

`sparse` is Molchanov, Ashukha and Vetrov (2017), https://arxiv.org/abs/1701.05369: LeNet-300-100 with sparse dropout on
its kernels under the log-uniform prior, biases as point masses. After training the weights with log alpha > 3 are set
to zero. Compression is the number of kernel weights over the number of those kept; biases are not counted, as there.
They report 1.92 % test error at 68-fold compression.

`bbb` is Blundell et al. (2015), https://arxiv.org/abs/1505.05424: two hidden layers of 400 ReLU units, a mean-field
Normal over all weights and biases, a scale mixture of two Normals as the prior. They report 1.36 % after 600 epochs.

Departures from the papers, of both: He's initial weights; Adam with a learning rate that falls to 0 linearly; the KL's
weight rises from 0 to 1 linearly over the first part of the training, where `bbb` had weights that fall from batch to
batch of an epoch; batches run on from one epoch into the next. `sparse` learns log σ where the paper learned log σ²,
and does not clip log alpha. `bbb` has local noise (a draw of the weights for each example, by the local
reparameterisation) where the paper had one for each batch, with one more draw at each step for the KL; fewer epochs.

Settings were chosen with --validation: trained on 50,000 of the training images, scored on the other 10,000, a fixed
random split. Without it all 60,000 are trained on and the test images are scored, once. The error is given of the
predictive mean over draws of the weights, and of the one network of mean weights.

DIR holds mnist.npz with the arrays x_train [60000, 28, 28] and x_test [10000, 28, 28] of bytes, y_train and y_test.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax

import bdl
from benchmarks import _command
from benchmarks._timing import environment

NUM_VALIDATION = 10_000


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a network is trained."""

    widths: tuple[int, ...]
    pixel: float  # what bytes are divided by
    epochs: int
    batch: int
    learning_rate: float
    warm_up: float  # the part of the training in which the KL's weight rises
    scale: float  # the initial standard deviation of the weights


CHOSEN = {
    "sparse": Settings((300, 100), 255.0, 300, 128, 3e-3, 0.05, 0.03),
    "bbb": Settings((400, 400), 126.0, 20, 128, 2e-3, 0.5, 0.02),
}


class Part(NamedTuple):
    """The examples that are trained on and those that are scored, images as rows of [0, 255 / pixel]."""

    x: np.ndarray  # [N, 784]
    y: np.ndarray  # [N]
    x_new: np.ndarray
    y_new: np.ndarray


def read(folder: Path, pixel: float, *, validation: bool) -> Part:
    """The training images against the test images, or against 10,000 of themselves."""
    names = "x_train", "y_train", "x_test", "y_test"
    x, y, x_new, y_new = _command.arrays(folder / "mnist.npz", *names).values()
    if validation:
        train, new = np.split(np.random.default_rng(0).permutation(len(x)), [len(x) - NUM_VALIDATION])
        x, y, x_new, y_new = x[train], y[train], x[new], y[new]
    x, x_new = (a.reshape(len(a), -1).astype(np.float32) / pixel for a in (x, x_new))
    return Part(x, y.astype(np.int32), x_new, y_new.astype(np.int32))


def build(name: str, settings: Settings, key: Any, num_steps: int) -> tuple[Any, Any, Any]:
    """The posterior before training, the model and the algorithm."""
    he = nn.initializers.he_normal()
    layers = [part for width in settings.widths for part in (nn.Dense(width, kernel_init=he), nn.relu)]
    module = nn.Sequential([*layers, nn.Dense(10, kernel_init=he)])
    network = bdl.from_linen(module, module.init(key, np.zeros((1, 784), np.float32)))
    if name == "sparse":
        prior: Any = {"*/kernel": bdl.priors.log_uniform()}
        family = bdl.families.sparse_dropout(settings.scale)
    else:
        prior = bdl.priors.scale_mixture(weight=0.5, wide=1.0, narrow=float(np.exp(-8)))
        family = bdl.families.normal(settings.scale)
    rate = optax.linear_schedule(settings.learning_rate, 0.0, num_steps)
    kl_weight = optax.linear_schedule(0.0, 1.0, max(1, round(settings.warm_up * num_steps)))
    algorithm = bdl.inference.vi(optax.adam(rate), kl_weight=kl_weight)
    return bdl.variational(network.params, family), bdl.Model(network, bdl.likelihoods.Categorical(), prior), algorithm


def errors(key: Any, posterior: Any, model: Any, part: Part, draws: int) -> dict[str, float]:
    """Errors in % of the predictive mean and of the mean weights, and the mean log predictive probability in nats."""
    mean = bdl.variational(posterior.mean, bdl.families.point)
    probs = bdl.predict(key, posterior, model, part.x_new, num_samples=draws).probs
    of_mean = bdl.predict(key, mean, model, part.x_new).probs
    wrong = lambda p: 100 * float(np.mean(np.argmax(p, -1) != part.y_new))
    log_probs = np.log(np.asarray(probs)[np.arange(len(part.y_new)), part.y_new])
    return {"predictive": wrong(probs), "mean_weights": wrong(of_mean), "log_likelihood": float(log_probs.mean())}


def run(name: str, settings: Settings, folder: Path, *, validation: bool, draws: int, seed: int) -> dict[str, Any]:
    """Train one network and score it."""
    part = read(folder, settings.pixel, validation=validation)
    num_steps = max(1, round(settings.epochs * len(part.x) / settings.batch))
    init_key, fit_key, score_key = jax.random.split(jax.random.key(seed), 3)
    posterior, model, algorithm = build(name, settings, init_key, num_steps)
    start, processor = time.perf_counter(), time.process_time()
    fitted = bdl.fit(
        fit_key, algorithm, posterior, model, (part.x, part.y), num_steps=num_steps, batch_size=settings.batch
    )
    jax.block_until_ready(fitted.posterior)
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    result = {
        "scored_on": "validation" if validation else "test",
        "error": errors(score_key, fitted.posterior, fitted.model, part, draws),
        "seconds": seconds,
        "processor_seconds": processor,
        "steps": num_steps,
        "kl": float(fitted.history.kl[-1]),
        "settings": {**dataclasses.asdict(settings), "draws": draws, "seed": seed},
        "environment": environment(),
    }
    if name == "sparse":
        pruning = bdl.prune(fitted.posterior)
        print(pruning)
        result["kept"] = {row.path: [row.kept, row.total] for row in pruning.rows}
        result["compression"] = pruning.compression
        result["pruned_error"] = errors(score_key, pruning.posterior, fitted.model, part, draws)
    return result


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    rows = [
        "| network | scored on | error of the predictive mean, % | of the mean weights, % | log-likelihood "
        "| compression | minutes | processor minutes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        kinds = {name: result["error"]}
        if "pruned_error" in result:
            kinds[f"{name}, pruned"] = result["pruned_error"]
        for label, error in kinds.items():
            cells = [label, result["scored_on"]]
            cells += [f"{error['predictive']:.2f}", f"{error['mean_weights']:.2f}", f"{error['log_likelihood']:.4f}"]
            cells += [f"{result['compression']:.1f}" if "pruned" in label else "–"]
            cells += [f"{result['seconds'] / 60:.1f}", f"{result['processor_seconds'] / 60:.1f}"]
            rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _command.parser(__doc__, "mnist")
    parser.add_argument("names", nargs="+", choices=list(CHOSEN), help="which networks")
    parser.add_argument("--validation", action="store_true", help="train on 50,000 images, score the other 10,000")
    for field in ("epochs", "batch", "learning_rate", "warm_up", "scale"):
        kind = int if field in ("epochs", "batch") else float
        parser.add_argument(f"--{field.replace('_', '-')}", type=kind, help="instead of the chosen one")
    parser.add_argument("--draws", type=int, default=100, help="of the weights at prediction, default: 100")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="folder of mnist.json")
    return _command.parse(parser, argv)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run what the command line asks for, save after every network, print the table."""
    args = _arguments(argv)
    results = _command.Results(args.output, "mnist.json")
    for name in args.names:
        changed = {f.name: getattr(args, f.name, None) for f in dataclasses.fields(Settings)}
        settings = dataclasses.replace(CHOSEN[name], **{k: v for k, v in changed.items() if v is not None})
        results[name] = run(
            name, settings, args.data, validation=args.validation, draws=args.draws, seed=args.seed
        )  # fmt: skip
        results.save()
    print(table(results))
    return results


if __name__ == "__main__":
    main(sys.argv[1:])
