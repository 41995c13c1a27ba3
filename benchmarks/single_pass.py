"""Out-of-distribution detection in a single pass: SNGP on Fashion-MNIST, against digits (MNIST) and letters (notMNIST).

    taskset -c 1 python -m benchmarks.single_pass --data DIR --output DIR

A small residual network in five forms, each trained for one pass over the 60,000 images and tested on the 10,000 of the
test set against 10,000 digits and 10,000 letters:

* SNGP: the body spectrally normalised, a Gaussian process of random features as its last layer. Scores: the variance of
  the logits (as the paper has it, and with every training example counted alike), and the Dempster-Shafer score and the
  maximum probability of the mean-field logits.
* plain: the same body with a dense layer. Scores: the maximum probability, the energy, and Mahalanobis' distance of the
  features.
* dropout: the plain network with dropout before both of its dense layers; the mutual information of 10 draws.
* ensemble: five plain networks; their mutual information.

Published, of DUQ with its own network and 30 epochs (van Amersfoort et al. 2020, https://arxiv.org/abs/2003.02037):
0.955 against digits. DIR of the data is the folder above `fashion_mnist`, `mnist` and `notmnist`.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.special import entr, logsumexp

import bdl
from bdl import ood
from bdl.metrics import detection
from benchmarks import _command
from benchmarks._timing import environment

MEMBERS, DRAWS, FEATURES = 5, 10, 64
Images = dict[str, np.ndarray]


class Body(nn.Module):
    """Three residual blocks at 14, 7 and 4 pixels, the mean over these, and a dense layer: [N, num_outputs]."""

    num_outputs: int
    width: int = 8

    @nn.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        norm = lambda x: nn.BatchNorm(not train, momentum=0.9)(x)
        x = nn.relu(norm(nn.Conv(self.width, (4, 4), strides=(2, 2), use_bias=False)(x)))
        for stage in range(3):
            width, stride = self.width * 2**stage, 2 if stage else 1
            y = nn.relu(norm(nn.Conv(width, (3, 3), strides=(stride, stride), use_bias=False)(x)))
            y = norm(nn.Conv(width, (3, 3), use_bias=False)(y))
            x = jnp.pad(x[:, ::stride, ::stride], [(0, 0), (0, 0), (0, 0), (0, width - x.shape[-1])])
            x = nn.relu(x + y)
        return nn.Dense(self.num_outputs, name="features")(x.mean(axis=(1, 2)))


class Classifier(nn.Module):
    """The body, and a dense layer of 10 classes."""

    @nn.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        return nn.Dense(10, name="head")(nn.relu(Body(FEATURES, name="body")(x, train)))


@dataclasses.dataclass(frozen=True)
class Study:
    """Arguments, algorithm, training data, labels of the test set, and what is scored: "in", "digits", "letters"."""

    args: argparse.Namespace
    algorithm: Any
    x: np.ndarray
    y: np.ndarray
    labels: np.ndarray
    scored: Images

    def fit(self, seed: int, network: Any, families: Any, prior: Any = None) -> bdl.Fitted:
        """A network of this seed, fitted."""
        model = bdl.Model(network, bdl.likelihoods.Categorical(), prior)
        return bdl.fit(
            jax.random.key(seed), self.algorithm, bdl.variational(network.params, families), model, (self.x, self.y),
            num_steps=self.args.steps, batch_size=64, progress=False, block_size=100,
        )  # fmt: skip

    def row(self, log_probs: np.ndarray, score: dict[str, Any]) -> dict[str, float]:
        """Accuracy and negative log-likelihood (nats) of log-probabilities, AUROC of scores."""
        nll = -log_probs[np.arange(len(self.labels)), self.labels].mean()
        row = {"accuracy": float((log_probs.argmax(1) == self.labels).mean()), "nll": float(nll)}
        for kind in ("digits", "letters"):
            row[f"auroc_{kind}"] = float(detection(score["in"], score[kind], positive="in")["auroc"])
        return row


def log_softmax(logits: Any) -> np.ndarray:
    """In float64."""
    logits = np.asarray(logits, np.float64)
    return logits - logsumexp(logits, axis=-1, keepdims=True)


def sngp(study: Study, seed: int) -> dict[str, dict[str, float]]:
    """The rows of SNGP, and what its parts took."""
    key, x = jax.random.key(seed), study.x
    module = Body(FEATURES)
    body = bdl.from_linen(module, module.init(key, x[:1]))
    body = ood.spectral_norm(key, body, x[:1], coefficient=study.args.coefficient)
    network = ood.random_features(key, body, x[:1], 10, num_features=study.args.num_features)
    prior = {"head/*": bdl.priors.normal(scale=1.0), "*": bdl.priors.fan_in()}
    fitted = study.fit(seed, network, bdl.families.point, prior)

    start = time.process_time()
    params = fitted.posterior.sample(key)
    kernel = params["head"]["kernel"]
    network = dataclasses.replace(fitted.model.network, params=params)
    features = ood.layer_features(network, "random_features", batch_size=1_000)
    weighted = alike = None
    for i in range(0, len(x), 10_000):
        batch = features(x[i : i + 10_000])
        more = ood.last_layer_curvature(batch, kernel), ood.last_layer_curvature(batch)
        weighted, alike = more if weighted is None else (weighted.merge(more[0]), alike.merge(more[1]))
    gp, counted = ood.gaussian_process(weighted, kernel), ood.gaussian_process(alike)
    print(f"SNGP {seed}: the pass over the data took {time.process_time() - start:.0f} s", flush=True)

    found = {kind: features(images) for kind, images in study.scored.items()}
    each = lambda score: {kind: score(f) for kind, f in found.items()}
    mean_field = log_softmax(gp.score.logits(found["in"]))
    scores = {
        "variance": each(gp),
        "variance, examples alike": each(counted),
        "Dempster-Shafer": each(lambda f: ood.dempster_shafer(gp.score.logits(f))),
        "max p": each(lambda f: ood.max_softmax(gp.score.logits(f))),
    }
    return {f"SNGP, {name}": study.row(mean_field, score) for name, score in scores.items()}


def plain(study: Study, seed: int) -> tuple[dict[str, dict[str, float]], Images]:
    """The rows of a plain network, and its log-probabilities."""
    module = Classifier()
    network = bdl.from_linen(module, module.init(jax.random.key(seed), study.x[:1]))
    fitted = study.fit(seed, network, bdl.families.point)
    params = fitted.posterior.sample(jax.random.key(seed))
    network = dataclasses.replace(fitted.model.network, params=params)
    features = ood.layer_features(network, "body", activation=jax.nn.relu, batch_size=1_000)
    mahalanobis = ood.mahalanobis(features(study.x), study.y)
    found = {kind: features(images) for kind, images in study.scored.items()}
    head = params["head"]
    logits = {kind: np.asarray(f @ head["kernel"] + head["bias"]) for kind, f in found.items()}
    scores = {
        "max p": {kind: ood.max_softmax(f) for kind, f in logits.items()},
        "energy": {kind: ood.energy(f) for kind, f in logits.items()},
        "Mahalanobis": {kind: mahalanobis(f) for kind, f in found.items()},
    }
    log_probs = {kind: log_softmax(f) for kind, f in logits.items()}
    rows = {f"plain, {name}": study.row(log_probs["in"], score) for name, score in scores.items()}
    return rows, log_probs


def dropout(study: Study, seed: int) -> dict[str, dict[str, float]]:
    """The row of Monte Carlo dropout."""
    module = Classifier()
    network = bdl.from_linen(module, module.init(jax.random.key(seed), study.x[:1]))
    dropped = bdl.families.bernoulli_dropout(rate=study.args.rate)
    fitted = study.fit(seed, network, {"body/features/kernel": dropped, "head/kernel": dropped})
    predict = lambda x: bdl.predict(
        jax.random.key(seed), fitted.posterior, fitted.model, x, num_samples=DRAWS, chunk_size=1, batch_size=1_000
    )
    found = {kind: predict(images) for kind, images in study.scored.items()}
    score = {kind: ood.mutual_information(prediction) for kind, prediction in found.items()}
    return {"dropout, mutual information": study.row(np.log(np.asarray(found["in"].probs) + 1e-30), score)}


def ensemble(study: Study, members: Sequence[Images]) -> dict[str, dict[str, float]]:
    """The row of an ensemble, of its members' log-probabilities."""
    probs = {kind: np.exp([member[kind] for member in members]) for kind in study.scored}
    # H(mean p) − mean H(p)
    score = {kind: entr(p.mean(0)).sum(-1) - entr(p).sum(-1).mean(0) for kind, p in probs.items()}
    return {"ensemble, mutual information": study.row(np.log(probs["in"].mean(0)), score)}


def run(study: Study, results: _command.Results) -> dict[str, dict[str, dict[str, float]]]:
    """Rows by seed and name, saved as they come."""
    args = study.args
    rows = results.setdefault(f"{args.steps} steps, {len(study.x)} images", {})

    def add(name: str, seed: int, make: Any) -> Any:
        start = time.process_time()
        made = make()
        found, rest = made if isinstance(made, tuple) else (made, None)
        rows.setdefault(str(seed), {}).update(found)
        rows[str(seed)][f"{name}: seconds"] = time.process_time() - start
        results.save()
        for row, numbers in found.items():
            print(f"{seed} {row}: " + ", ".join(f"{key} {value:.4f}" for key, value in numbers.items()), flush=True)
        return rest

    done = lambda name, seed: f"{name}: seconds" in rows.get(str(seed), {})
    for seed in range(args.seeds):
        if not done("SNGP", seed):
            add("SNGP", seed, lambda seed=seed: sngp(study, seed))
    if not done("ensemble", 0):
        members = [add("plain", seed, lambda seed=seed: plain(study, seed)) for seed in range(MEMBERS)]
        add("ensemble", 0, lambda: ensemble(study, members))
    for seed in range(args.seeds):
        if not done("dropout", seed):
            add("dropout", seed, lambda seed=seed: dropout(study, seed))
    return rows


def summary(rows: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Of each row its means over seeds, and the standard errors of AUROC."""
    found: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(name for of_seed in rows.values() for name in of_seed if "seconds" not in name):
        seeds = [of_seed[name] for of_seed in rows.values() if name in of_seed]
        columns = {key: np.array([row[key] for row in seeds]) for key in seeds[0]}
        found[name] = {"seeds": len(seeds), **{key: float(values.mean()) for key, values in columns.items()}}
        error = lambda values: float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
        found[name] |= {f"se_{kind}": error(columns[f"auroc_{kind}"]) for kind in ("digits", "letters")}
    return found


def load(args: argparse.Namespace) -> Study:
    """The data, fewer of them with `--fast`."""
    pixels = _command.grey_images
    read = lambda name, *names: _command.arrays(args.data / name, *names)
    clothes = read("fashion_mnist/fashion_mnist.npz")
    x, y = pixels(clothes["x_train"]), clothes["y_train"].astype(np.int32)
    scored = {
        "in": pixels(clothes["x_test"]),
        "digits": pixels(read("mnist/mnist.npz", "x_test")["x_test"]),
        "letters": pixels(read("notmnist/notmnist_t10k.npz", "x_test")["x_test"]),
    }
    if args.fast:
        x, y, scored = x[:300], y[:300], {kind: images[:100] for kind, images in scored.items()}
    # Built once, so that the networks of one kind share a program.
    algorithm = bdl.inference.vi(optax.adam(optax.cosine_decay_schedule(3e-3, args.steps)), noise="shared")
    return Study(args, algorithm, x, y, clothes["y_test"][: len(scored["in"])], scored)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the study, save its rows as they come, print the table."""
    parser = _command.parser(__doc__, ".")
    parser.add_argument("--steps", type=int, default=900, help="of a fit, of 64 images; default: %(default)s")
    parser.add_argument("--seeds", type=int, default=3, help="of SNGP and of dropout, default: %(default)s")
    parser.add_argument("--coefficient", type=float, default=3.0, help="of the spectral norm, default: %(default)s")
    parser.add_argument("--num-features", type=int, default=1024, help="random features, default: %(default)s")
    parser.add_argument("--rate", type=float, default=0.1, help="of dropout, default: %(default)s")
    parser.add_argument("--output", type=Path, help="folder of single_pass.json; what is in it is not run again")
    parser.add_argument("--fast", action="store_true", help="3 steps, few images, 1 seed: does it run?")
    args = _command.parse(parser, argv)
    if args.fast:
        args.steps, args.seeds, args.num_features = 3, 1, 64
    results = _command.Results(args.output, "single_pass.json")
    results["environment"] = environment()
    rows = run(load(args), results)
    print("\n" + _command.table(summary(rows), ".4g"))
    return results


if __name__ == "__main__":
    main(sys.argv[1:])
