"""Guo et al. (2017) on small data: what a network that was trained too long says, and what calibration makes of it.

    python -m benchmarks.calibration --data DIR         # a few minutes on two cores

A LeNet is trained on 10,000 images of Fashion-MNIST under a very wide prior until it knows them by heart. 5,000 other
training images fit the calibrators; the 10,000 test images score them. Beside it a network with Monte Carlo dropout
under the same prior, and conformal sets of both. ECE: 15 bins of equal width, the most probable class.
DIR is the folder above `fashion_mnist`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

import bdl
from benchmarks import _command
from benchmarks._timing import environment

TRAIN, FIT = 10_000, 5_000

CALIBRATORS = {
    "temperature": bdl.calibration.temperature,
    "vector": bdl.calibration.vector,
    "matrix": bdl.calibration.matrix,
    "dirichlet": bdl.calibration.dirichlet,
    "beta": bdl.calibration.beta,
    "isotonic": bdl.calibration.isotonic,
    "histogram binning": bdl.calibration.histogram_binning,
}

NETWORKS = {"point masses": bdl.families.point, "dropout 0.2": {"*/kernel": bdl.families.bernoulli_dropout(0.2)}}


def read(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training images in [0, 1], their labels, and those of the test."""
    found = _command.arrays(folder / "fashion_mnist/fashion_mnist.npz")
    images = [(found[f"x_{part}"].reshape(-1, 28, 28, 1) / 255).astype(np.float32) for part in ("train", "test")]
    return images[0], found["y_train"].astype(np.int32), images[1], found["y_test"].astype(np.int32)


def predict(families: Any, args: argparse.Namespace, train: Any, *inputs: np.ndarray) -> list[np.ndarray]:
    """The probabilities at each of the inputs after training."""
    key = jax.random.key(args.seed)
    network = bdl.networks.lenet(key, train[0][:1], 10)
    # A prior that is too wide to matter.
    model = bdl.Model(network, bdl.likelihoods.Categorical(), bdl.priors.fan_in(gain=1_000.0))
    posterior = bdl.variational(network.params, families)
    fitted = bdl.fit(
        key, bdl.inference.vi(optax.adam(1e-3)), posterior, model, train, num_steps=args.steps, batch_size=128
    )
    draws = args.draws if fitted.posterior.families else None
    run = lambda x: bdl.predict(key, fitted.posterior, fitted.model, x, num_samples=draws, batch_size=1_000)
    return [np.asarray(run(x).probs) for x in inputs]


def row(probs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """What is reported of probabilities."""
    return {
        "accuracy": float(bdl.metrics.accuracy(bdl.metrics.confusion_matrix(probs, labels))),
        "ece": float(bdl.metrics.expected_calibration_error(probs, labels)),
        "ece_if_calibrated": float(bdl.metrics.calibration_noise_floor(probs)),
        "classwise_ece": float(bdl.metrics.expected_calibration_error(probs, labels, classwise=True)),
        "nll": -float(bdl.metrics.log_likelihood(probs, labels)),
        "brier": float(bdl.metrics.brier(probs, labels)),
    }


def study(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """One network, before and after every calibrator, and its conformal sets of 90 %."""
    x, y, x_test, y_test = read(args.data)
    held_out = slice(TRAIN, TRAIN + FIT)
    train = x[: args.examples], y[: args.examples]
    probs, probs_test = predict(NETWORKS[name], args, train, x[held_out], x_test)
    rows = {"uncalibrated": row(probs_test, y_test)}
    for calibrator, fit in CALIBRATORS.items():
        rows[calibrator] = row(np.asarray(fit(probs, y[held_out])(probs_test)), y_test)
    return rows


def table(rows: dict[str, dict[str, float]]) -> str:
    """The rows as Markdown."""
    lines = ["| | accuracy | ECE | ECE if calibrated | class-wise ECE | NLL | Brier |", "|---" * 7 + "|"]
    for name, values in rows.items():
        accuracy, ece, floor, classwise, nll, brier = values.values()
        lines.append(
            f"| {name} | {accuracy:.2%} | {ece:.2%} | {floor:.2%} | {classwise:.2%} | {nll:.3f} | {brier:.3f} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run what the command line asks for, save after every network, print the tables."""
    parser = _command.parser(__doc__, ".")
    parser.add_argument("--steps", type=int, default=4_000, help="of either fit, default: %(default)s")
    parser.add_argument("--draws", type=int, default=50, help="of the weights at prediction, default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="folder of calibration.json; what is in it is not run again")
    parser.add_argument("--fast", action="store_true", help="5 steps, 2 draws: does it run?")
    args = _command.parse(parser, argv)
    args.examples = TRAIN
    if args.fast:
        args.steps, args.draws = 5, 2
    results = _command.Results(args.output, "calibration.json")
    results["environment"] = environment()
    for name in NETWORKS:
        if name not in results:
            results[name] = study(name, args)
            results.save()
        print(f"\n{name}\n\n{table(results[name])}", flush=True)
    return results


if __name__ == "__main__":
    main(sys.argv[1:])
