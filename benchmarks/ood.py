"""Out-of-distribution detection on small images: which score finds which outliers, after training on inliers alone.

    python -m benchmarks.ood --data DIR --output DIR             # all four studies, half an hour on two cores
    python -m benchmarks.ood fashion --seeds 3 --data DIR --pictures DIR

* `baseline`: the first table of Hendrycks and Gimpel (2017): MNIST, three dense layers of 256 GELUs, inputs in [0, 1];
  the softmax baseline, the inliers those test images that are classified correctly.
* `mnist`, `fashion`: LeNet, trained on 55,000 images of either; every score of `bdl.ood` that needs no other training.
* `unseen`: LeNet, trained on the digits 0 to 5 of MNIST; the outliers are the digits 6 to 9.

Outliers: near: the other of MNIST and Fashion-MNIST, letters (notMNIST), characters (Omniglot); far: photographs
(CIFAR-10, grey), uniform noise, Normal noise. FPR95 is the share of outliers taken for inliers where 95 % of the
inliers are kept; its classes count as they are. Means over seeds ± standard errors.

DIR is the folder above `mnist`, `fashion_mnist`, `notmnist`, `omniglot` and `cifar10`.
"""

import argparse
import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import bdl
from bdl import ood
from bdl._in_batches import in_batches, joined
from benchmarks import _command
from benchmarks._timing import environment

STUDIES = "baseline", "mnist", "fashion", "unseen"
GROUPS = {"near": ["other", "letters", "characters"], "far": ["photographs", "uniform", "normal"]}
MEMBERS, HELD_OUT = 3, 5_000


def read(args: argparse.Namespace, name: str) -> tuple[np.ndarray, ...]:
    """Training images and labels, test images and labels, of MNIST or Fashion-MNIST."""
    data = _command.arrays(args.data / name / f"{name}.npz")
    x, y, x_new, y_new = (data[k] for k in ("x_train", "y_train", "x_test", "y_test"))
    return _command.grey_images(x), y.astype(np.int32), _command.grey_images(x_new), y_new.astype(np.int32)


def outliers(args: argparse.Namespace, other: str | None) -> dict[str, np.ndarray]:
    """All kinds of outliers; `other` is one of the two sets that the network was not trained on."""
    rng, images = np.random.default_rng(args.seed), _command.grey_images
    count = 100 if args.fast else None
    photographs = _command.arrays(args.data / "cifar10/cifar10_test.npz", "x_test")["x_test"]
    grey = photographs.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    found = {} if other is None else {"other": read(args, other)[2]}
    found |= {
        "letters": images(_command.arrays(args.data / "notmnist/notmnist_t10k.npz", "x_test")["x_test"]),
        "characters": images(_command.arrays(args.data / "omniglot/images_background_small1_28x28.npz", "x")["x"]),
        "photographs": images(np.asarray(jax.image.resize(grey, (len(grey), 28, 28), "linear"))),
        "uniform": rng.uniform(size=(2_000, 28, 28, 1)).astype(np.float32),
        "normal": rng.normal(size=(2_000, 28, 28, 1)).astype(np.float32),
    }
    return {name: x[:count] for name, x in found.items()}


def train(
    key: Any, network: Any, families: Any, x: Any, y: Any, args: argparse.Namespace, steps: int, size: int
) -> Any:
    """Posterior and model after some steps of Adam; point masses without weight decay, as in the papers."""
    posterior = bdl.variational(network.params, families)
    model = bdl.Model(network, bdl.likelihoods.Categorical(), bdl.priors.fan_in(gain=50.0))
    algorithm = adam(args.learning_rate, steps, 0.0 if families is bdl.families.point else 1.0)
    return bdl.fit(key, algorithm, posterior, model, (x, y), num_steps=steps, batch_size=size, progress=False)


@functools.cache
def adam(rate: float, steps: int, kl_weight: float) -> Any:
    """Made once, so that networks of one kind share a program."""
    return bdl.inference.vi(optax.adam(optax.cosine_decay_schedule(rate, steps)), kl_weight=kl_weight)


def baseline(args: argparse.Namespace) -> tuple[ood.Comparison, float]:
    """The softmax baseline of a multilayer perceptron, and its error."""
    x, y, x_new, y_new = read(args, "mnist")
    key, start, last = jax.random.split(jax.random.key(args.seed), 3)
    network = bdl.networks.mlp(start, x[:1], 10, widths=(256, 256, 256), activation=nn.gelu)
    fitted = train(key, network, bdl.families.point, x, y, args, args.epochs * len(x) // 100, 100)
    function = jax.jit(bdl.function_draw(last, fitted.posterior, fitted.model))
    right = np.asarray(function(x_new)).argmax(1) == y_new
    methods = {"maximum softmax": ood.through(function, ood.max_softmax)}
    return ood.compare(methods, x_new[right], outliers(args, None)), float(1 - right.mean())


def lenets(args: argparse.Namespace, x: np.ndarray, y: np.ndarray) -> tuple[list[Any], Any]:
    """Networks with their weights, the members of an ensemble; and the fit of one with dropout."""
    classes = int(y.max()) + 1
    members = []
    for member in range(MEMBERS):
        key, start, last = jax.random.split(jax.random.key(1_000 * args.seed + member), 3)
        network = bdl.networks.lenet(start, x[:1], classes)
        fitted = train(key, network, bdl.families.point, x, y, args, args.steps, 128)
        members.append(dataclasses.replace(network, params=fitted.posterior.sample(last)))
    dropout = dict.fromkeys(["Dense_1/kernel", "head/kernel"], bdl.families.bernoulli_dropout(0.2))
    network = bdl.networks.lenet(jax.random.key(args.seed), x[:1], classes)
    return members, train(jax.random.key(args.seed + 1), network, dropout, x, y, args, args.steps, 128)


def seen(members: list[Any], x: np.ndarray) -> dict[str, Any]:
    """What the scores are of: inputs, the first member's features and logits, and the members' probabilities."""
    features = ood.layer_features(members[0], "Dense_1", activation=jax.nn.relu, batch_size=1_000)
    outputs = [joined(in_batches(functools.partial(logits, member), x, 1_000)) for member in members]
    return {"x": x, "features": features(x), "logits": outputs[0], "probs": jax.nn.softmax(jnp.stack(outputs, 1), -1)}


@eqx.filter_jit
def logits(network: Any, x: Any) -> Any:
    """Compiled once for all members, which differ in their weights alone."""
    return network.apply(network.params, network.state, x)[0]


def detectors(
    members: list[Any], dropout: Any, train: Any, y: Any, held_out: Any, held_labels: Any, args: Any
) -> dict[str, Callable[..., Any]]:
    """Every method as a function of what `seen` returns."""
    head = members[0].params["head"]
    last = head["kernel"], head["bias"]
    features = train["features"]
    of_logits = {
        "maximum softmax": ood.max_softmax,
        "maximum logit": ood.max_logit,
        "energy": ood.energy,
        "entropy": ood.entropy,
        "generalised entropy": ood.generalised_entropy,
        "KL matching": ood.kl_matching(held_out["logits"], held_labels),
    }
    of_features = {
        "Mahalanobis": ood.mahalanobis(features, y),
        "relative Mahalanobis": ood.relative_mahalanobis(features, y),
        "Gaussian mixture": ood.gaussian_mixture(features, y),
        "nearest neighbours": ood.nearest_neighbours(features),
        "ViM": ood.vim(features, *last),
        "ReAct": ood.react(features, *last),
        "DICE": ood.dice(features, *last),
        "ASH": ood.ash(*last),
    }
    draws = ood.from_draws(
        jax.random.key(args.seed + 2), dropout.posterior, dropout.model, ood.mutual_information,
        num_samples=args.draws, batch_size=1_000,
    )  # fmt: skip
    of_inputs = {"ODIN": ood.odin(members[0], batch_size=1_000), "dropout, mutual information": draws}
    entropy = lambda probs: jax.scipy.special.entr(probs).sum(-1)
    both = lambda probs: entropy(probs.mean(1))
    of_members = {
        f"{MEMBERS} networks, entropy": both,
        f"{MEMBERS} networks, mutual information": lambda probs: both(probs) - entropy(probs).mean(1),
    }
    kinds = {"logits": of_logits, "features": of_features, "x": of_inputs, "probs": of_members}
    reading = lambda kind, score: lambda data: score(data[kind])
    return {name: reading(kind, score) for kind, scores in kinds.items() for name, score in scores.items()}


def classes(args: argparse.Namespace, study: str) -> tuple[ood.Comparison, float]:
    """All methods on a LeNet, and its error."""
    inside, other = ("fashion_mnist", "mnist") if study == "fashion" else ("mnist", "fashion_mnist")
    x, y, x_new, y_new = read(args, inside)
    if study == "unseen":
        far = {"other digits": x_new[y_new > 5]}
        x, y, x_new, y_new = (a[labels < 6] for a, labels in ((x, y), (y, y), (x_new, y_new), (y_new, y_new)))
    else:
        far = outliers(args, other)
    if args.fast:
        x, y, x_new, y_new = x[:1_200], y[:1_200], x_new[:100], y_new[:100]
    held = min(HELD_OUT, len(x) // 10)
    members, dropout = lenets(args, x[held:], y[held:])
    look = functools.partial(seen, members)
    inliers = look(x_new)
    methods = detectors(members, dropout, look(x[held:]), y[held:], look(x[:held]), y[:held], args)
    found = ood.compare(methods, inliers, {name: look(outside) for name, outside in far.items()})
    return found, float(np.mean(np.asarray(inliers["logits"]).argmax(1) != y_new))


def draw(found: ood.Comparison, file: Path) -> None:
    """Histograms of the scores of each method in the last run; those far beyond the inliers' are put at the edge."""
    import matplotlib.pyplot as plt

    import bdl.plots

    columns = min(4, len(found.scores))
    rows = -(-len(found.scores) // columns)
    figure, panels = plt.subplots(
        rows, columns, figsize=(3.4 * columns, 2.5 * rows), layout="constrained", squeeze=False
    )
    for ax in panels.flat[len(found.scores) :]:
        ax.axis("off")
    for ax, (method, scores) in zip(panels.flat, found.scores.items(), strict=False):
        low, high = np.quantile(scores["in"], [0.005, 0.995])
        limits = low - (high - low), high + 2 * (high - low)
        clipped = {kind: np.clip(values, *limits) for kind, values in scores.items()}
        bdl.plots.scores(clipped.pop("in"), clipped, num_bins=50, ax=ax)
        ax.set(title=method, yscale="log", xlabel="", ylabel="")
    figure.legend(*panels.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _command.parser(__doc__, ".")
    parser.add_argument("studies", nargs="*", choices=[[], *STUDIES], default=[], help="default: all")
    parser.add_argument("--seeds", type=int, default=3, help="runs, with the seeds from 0 on; default: %(default)s")
    parser.add_argument("--epochs", type=int, default=30, help="of `baseline`, default: %(default)s")
    parser.add_argument("--steps", type=int, default=2_000, help="of a LeNet, on batches of 128; default: %(default)s")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="at the start, default: %(default)s")
    parser.add_argument("--draws", type=int, default=20, help="of the weights under dropout, default: %(default)s")
    parser.add_argument("--pictures", type=Path, help="folder for histograms of the scores")
    parser.add_argument("--output", type=Path, help="folder of ood.json; what is in it is not run again")
    parser.add_argument("--fast", action="store_true", help="few images and steps: does it run?")
    args = _command.parse(parser, argv)
    if args.fast:
        args.steps, args.epochs, args.draws = 5, 1, 2
    return args


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the studies, save after each, print the tables."""
    args = _arguments(argv)
    results = _command.Results(args.output, "ood.json")
    results["environment"] = environment()
    settings = _command.settings(args, "seeds", "epochs", "steps", "learning_rate", "draws")
    for name in args.studies or STUDIES:
        if results.has(name, settings):
            print(f"{name}: already in {results.file}")
            continue
        found, errors = None, []
        for seed in range(args.seeds):
            args.seed = seed
            one, error = baseline(args) if name == "baseline" else classes(args, name)
            errors.append(error)
            found = one if found is None else found.merge(one)
        kinds = next(iter(found.metrics.values()))
        groups = {group: names for group, names in GROUPS.items() if set(names) <= set(kinds)}
        rounded = {
            method: {kind: {n: np.round(v, 5).tolist() for n, v in of.items()} for kind, of in kinds.items()}
            for method, kinds in found.metrics.items()
        }
        results[name] = {"error": errors, "metrics": rounded}
        results.save()
        print(
            f"\n## {name}: error {np.mean(errors):.4f}\n\n{found.table('auroc', groups=groups)}\n\n{found}", flush=True
        )
        if args.pictures:
            draw(found, args.pictures / f"ood-{name}.png")
    return results


if __name__ == "__main__":
    main(sys.argv[1:])
