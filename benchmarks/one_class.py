"""One class of Fashion-MNIST against the nine others: nearest neighbours, rotation prediction, CSI and Deep SVDD.

    python -m benchmarks.one_class --data DIR --output DIR                    # three minutes of one core for a class
    python -m benchmarks.one_class --data DIR --output DIR --classes 0 1 2 3 4 5 6 7 8 9

Trained on the 6,000 training images of one class and on no label, tested on its 1,000 test images against the 9,000 of
the others: the AUROC of each, and the mean over the classes.

* `kNN, pixels`: the distance to the fifth nearest training image.
* `rotation`: a network that tells by how many quarter turns an image was rotated, and the cross-entropy of its answers.
* `kNN, rotation`: the distance to the fifth nearest training image among that network's features.
* `CSI` with rotations, and with halves exchanged in their place, of the same network with a longer last layer.
* `Deep SVDD`: the squared distance to the centre, of a LeNet without biases, from initial weights.

DIR of the data is the folder above `fashion_mnist`.
"""

import argparse
import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax

import bdl
from bdl.metrics import auroc
from bdl.ood import nearest_neighbours, through, training
from benchmarks import _command
from benchmarks._timing import environment

CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
NEIGHBOUR, BATCH = 5, 500


class Convolutions(nn.Module):
    """Four convolutions, the mean over pixels, and a dense layer."""

    num_outputs: int

    @nn.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        for channels, stride in ((16, 2), (32, 1), (32, 2), (64, 1)):
            x = nn.Conv(channels, (3, 3), stride, use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(not train, momentum=0.9)(x))
        x = nn.relu(nn.Dense(64, name="features")(x.mean((1, 2))))
        return nn.Dense(self.num_outputs, name="head")(x)


def fitted_network(
    args: argparse.Namespace, likelihood: Any, num_outputs: int, algorithm: Any, data: Any, steps: int, batch_size: int
) -> tuple[Any, Any]:
    """A posterior that is one point, and its model."""
    network = bdl.from_linen(
        Convolutions(num_outputs), Convolutions(num_outputs).init(jax.random.key(args.seed), data[0][:1])
    )
    posterior = bdl.variational(network.params, bdl.families.point)
    fitted = bdl.fit(
        jax.random.key(args.seed + 1), algorithm, posterior, bdl.Model(network, likelihood),
        data, num_steps=steps, batch_size=batch_size, progress=False, block_size=50,
    )  # fmt: skip
    return fitted.posterior, fitted.model


def adam(rate: float, steps: int) -> Any:
    return optax.adam(optax.cosine_decay_schedule(rate, steps))


def pixels(args: argparse.Namespace, x: Any) -> dict[str, Any]:
    flat = lambda a: a.reshape(len(a), -1)
    return {"kNN, pixels": through(flat, nearest_neighbours(flat(x), k=NEIGHBOUR, normalise=False), batch_size=BATCH)}


def rotation(args: argparse.Namespace, x: Any) -> dict[str, Any]:
    posterior, model = fitted_network(
        args, bdl.likelihoods.Categorical(), 4, bdl.inference.vi(adam(2e-3, args.steps)),
        training.shifted(x), args.steps, 128,
    )  # fmt: skip
    key = jax.random.key(args.seed)
    logits = bdl.function_draw(key, posterior, model)
    inner = dataclasses.replace(model, network=bdl.networks.features(model.network, "features"))
    both = bdl.function_draw(key, posterior, inner)
    features = jax.jit(lambda a: jax.nn.relu(both(a)[1]["features"]))
    bank = np.concatenate([features(x[i : i + BATCH]) for i in range(0, len(x), BATCH)])
    return {
        "rotation": training.shift_score(logits, batch_size=BATCH),
        "kNN, rotation": through(features, nearest_neighbours(bank, k=NEIGHBOUR), batch_size=BATCH),
    }


def csi(args: argparse.Namespace, x: Any, shifts: Any, name: str) -> dict[str, Any]:
    augment = functools.partial(training.augmented, area=(args.area, 1.0))
    algorithm = training.csi(adam(2e-3, args.csi_steps), augment, shifts=shifts)
    posterior, model = fitted_network(
        args, training.CategoricalWithEmbedding(4), 64 + 4, algorithm,
        (x, np.zeros(len(x), np.float32)), args.csi_steps, 32,
    )  # fmt: skip
    function = bdl.function_draw(jax.random.key(args.seed), posterior, model)
    return {name: training.csi_score(function, x, shifts=shifts, batch_size=BATCH)}


def deep_svdd(args: argparse.Namespace, x: Any) -> dict[str, Any]:
    network = bdl.networks.lenet(jax.random.key(args.seed), x[:1], 32, use_bias=False)
    likelihood = training.DeepSAD(training.deep_sad_centre(network, x, batch_size=BATCH))
    model = bdl.Model(network, likelihood, bdl.priors.normal(scale=10.0))
    fitted = bdl.fit(
        jax.random.key(args.seed + 1), bdl.inference.map(adam(1e-3, args.steps)),
        bdl.variational(network.params, bdl.families.point), model, (x, np.zeros(len(x), np.int32)),
        num_steps=args.steps, batch_size=128, progress=False, block_size=50,
    )  # fmt: skip
    function = bdl.function_draw(jax.random.key(args.seed), fitted.posterior, fitted.model)
    return {"Deep SVDD": through(function, likelihood.squared_distance, batch_size=BATCH)}


# Each gives one row of the table or more.
METHODS: dict[str, Callable[[argparse.Namespace, Any], dict[str, Any]]] = {
    "pixels": pixels,
    "rotation": rotation,
    "csi": functools.partial(csi, shifts=training.rotations, name="CSI, rotations"),
    "csi-halves": functools.partial(csi, shifts=training.permuted_patches, name="CSI, halves"),
    "deep-svdd": deep_svdd,
}


def study(args: argparse.Namespace, results: _command.Results) -> dict[str, dict[str, float]]:
    """The AUROC of every method, of every class."""
    data = _command.arrays(args.data / "fashion_mnist" / "fashion_mnist.npz")
    name = f"{args.steps} and {args.csi_steps} steps, crops of {args.area} or more, seed {args.seed}"
    found = results.setdefault(name, {})
    for kind in args.classes:
        done = found.setdefault(CLASSES[kind], {})
        x = _command.grey_images(data["x_train"][data["y_train"] == kind][: args.count])
        x_new, outlier = _command.grey_images(data["x_test"][:: args.every]), data["y_test"][:: args.every] != kind
        for method in args.methods:
            if method in done:
                continue
            start = time.process_time()
            scores = {row: detector(x_new) for row, detector in METHODS[method](args, x).items()}
            done[method] = {row: float(auroc(score, outlier)) for row, score in scores.items()}
            results.save()
            told = ", ".join(f"{row} {value:.4f}" for row, value in done[method].items())
            print(f"{CLASSES[kind]}: {told} ({time.process_time() - start:.0f} s of processor time)", flush=True)
    return table_of({CLASSES[kind]: found[CLASSES[kind]] for kind in args.classes})


def table_of(found: dict[str, dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Rows by method, of columns by class and their mean."""
    rows: dict[str, dict[str, float]] = {}
    for kind, methods in found.items():
        for row, value in ((row, value) for method in methods.values() for row, value in method.items()):
            rows.setdefault(row, {})[kind] = value
    whole = {row: columns for row, columns in rows.items() if len(columns) == len(found)}
    return {row: columns | {"mean": float(np.mean(list(columns.values())))} for row, columns in whole.items()}


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _command.parser(__doc__, ".")
    parser.add_argument("--classes", type=int, nargs="+", default=[0, 1, 5, 8], help="default: 0 1 5 8")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="default: all")
    parser.add_argument("--steps", type=int, default=400, help="of rotation prediction, default: %(default)s")
    parser.add_argument("--csi-steps", type=int, default=400, help="of CSI, default: %(default)s")
    parser.add_argument("--area", type=float, default=0.3, help="the least share of a crop, default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="folder of one_class.json; what is in it is not run again")
    parser.add_argument("--fast", action="store_true", help="few steps, few images: does it run?")
    args = _command.parse(parser, argv)
    args.count, args.every = None, 1
    if args.fast:
        args.steps, args.csi_steps, args.count, args.every = 60, 60, 128, 20
    return args


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the study, save its rows as they come, print the table."""
    args = _arguments(argv)
    results = _command.Results(args.output, "one_class.json")
    results["environment"] = environment()
    rows = study(args, results)
    print(f"\n{_command.table(rows)}")
    return results


if __name__ == "__main__":
    main(sys.argv[1:])
