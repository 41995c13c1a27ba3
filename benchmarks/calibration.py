"""Guo et al. (2017) on small data: what a network that was trained too long says, and what calibration makes of it.

    python -m benchmarks.calibration --data DIR         # a few minutes on two cores

A LeNet is trained on 10,000 images of Fashion-MNIST under a very wide prior until it knows them by heart. 5,000 other
training images fit the calibrators; the 10,000 test images score them. Beside it a network with Monte Carlo dropout
under the same prior. ECE: 15 bins of equal width, the most probable class. Then both under ten corruptions of five
severities, means over the corruptions. DIR is the folder above `fashion_mnist`.
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
    images = [_command.grey_images(found[f"x_{part}"]) for part in ("train", "test")]
    return images[0], found["y_train"].astype(np.int32), images[1], found["y_test"].astype(np.int32)


def fit(families: Any, args: argparse.Namespace, train: Any) -> Any:
    """What was fitted, under a prior that is too wide to matter."""
    key = jax.random.key(args.seed)
    network = bdl.networks.lenet(key, train[0][:1], 10)
    model = bdl.Model(network, bdl.likelihoods.Categorical(), bdl.priors.fan_in(gain=1_000.0))
    posterior, algorithm = bdl.variational(network.params, families), bdl.inference.vi(optax.adam(1e-3))
    return bdl.fit(key, algorithm, posterior, model, train, num_steps=args.steps, batch_size=128)


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


def study(name: str, args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """One network before and after every calibrator, and under ten corruptions of five severities."""
    x, y, x_test, y_test = read(args.data)
    held_out = slice(TRAIN, TRAIN + FIT)
    fitted = fit(NETWORKS[name], args, (x[:TRAIN], y[:TRAIN]))
    key, draws = jax.random.key(args.seed), args.draws if fitted.posterior.families else None
    predict = lambda x: bdl.predict(key, fitted.posterior, fitted.model, x, num_samples=draws, batch_size=1_000)
    probs, probs_test = (np.asarray(predict(inputs).probs) for inputs in (x[held_out], x_test))
    rows = {"uncalibrated": row(probs_test, y_test)}
    for calibrator, calibrate in CALIBRATORS.items():
        rows[calibrator] = row(np.asarray(calibrate(probs, y[held_out])(probs_test)), y_test)
    some = x_test[: args.shifted], y_test[: args.shifted]
    shift = bdl.diagnostics.under_shift(key, fitted.posterior, fitted.model, some, num_samples=draws)
    figures = {"accuracy": shift.accuracy, "nll": shift.negative_log_likelihood, "ece": shift.calibration_error}
    means = {figure: np.asarray(values).mean(0) for figure, values in figures.items()}
    return rows, {
        str(severity): {figure: float(mean[i]) for figure, mean in means.items()}
        for i, severity in enumerate(shift.severities)
    }


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run what the command line asks for, save after every network, print the tables."""
    parser = _command.parser(__doc__, ".")
    parser.add_argument("--steps", type=int, default=4_000, help="of either fit, default: %(default)s")
    parser.add_argument("--draws", type=int, default=50, help="of the weights at prediction, default: %(default)s")
    parser.add_argument("--shifted", type=int, default=500, help="test images to corrupt, default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="folder of calibration.json; what is in it is not run again")
    parser.add_argument("--fast", action="store_true", help="5 steps, 2 draws: does it run?")
    args = _command.parse(parser, argv)
    if args.fast:
        args.steps, args.draws, args.shifted = 5, 2, 20
    results = _command.Results(args.output, "calibration.json")
    results["environment"] = environment()
    for name in NETWORKS:
        labels = name, f"{name}, by severity of corruptions"
        if not results.has(labels[1], _command.settings(args, "steps", "draws", "shifted", "seed")):
            results.update(zip(labels, study(name, args), strict=True))
            results.save()
        for label in labels:
            print(f"\n{label}\n\n{_command.table(results[label])}", flush=True)
    return results


if __name__ == "__main__":
    main(sys.argv[1:])
