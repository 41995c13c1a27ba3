"""Kendall and Gal (2017) on small data: does each part of the uncertainty do what it is said to do?

    python -m benchmarks.kendall_gal --data DIR                        # all five, an hour on two cores
    python -m benchmarks.kendall_gal labels --data DIR --posterior normal

* `regression`: their Table 3 on the power plant (9,568 × 4, split 0), `HeteroscedasticNormal`. On 1/4, 1/2 and all of
  the training examples; out of the data: the test inputs moved by 4 standard deviations in a random direction.
* `digits`: the same with MNIST (LeNet, `HeteroscedasticCategorical`), on 2,500, 5,000 and 10,000 images; out of the
  data: notMNIST. As in the paper, aleatoric is the expected entropy and epistemic the variance of the logits.
* `labels`: Fashion-MNIST, 10,000 images, where 20 % of the T-shirts and of the shirts are labelled as the other. Plain
  against heteroscedastic classification, with test labels that are confused likewise and with the true ones.
* `humans`: a ResNet-8 trained on 10,000 images of CIFAR-10; its expected entropy on the 10,000 test images against the
  entropy of the labels that about fifty people gave each of them (CIFAR-10H).
* `annotators`: the same network, trained on the labels that paid annotators gave (CIFAR-10N): the true ones, the
  majority of three, one, and the worst of three. The aleatoric uncertainty beside the rate of wrong labels.

The posterior is Monte Carlo dropout (`--posterior dropout`, on the dense layers; of the residual network on its last
two stages and the head) or mean field (`normal`, on the last layer; see `--help`).
DIR is the folder above `uci`, `mnist`, `notmnist`, `fashion_mnist` and `cifar10`.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from scipy.stats import spearmanr

import bdl
from benchmarks import _command
from benchmarks._timing import environment
from benchmarks.uci import part as uci_part
from benchmarks.uci import read as read_uci

# The rows of a study: a label and what computes it, so that rows which are there already need not be run again.
Rows = Iterator[tuple[str, Callable[[], dict[str, float]]]]
CLASSES, SWAPPED, SHARE = 10, (0, 6), 0.2

# Likelihood and outputs of either kind of classification.
KINDS = {
    "plain": (bdl.likelihoods.Categorical(), CLASSES),
    "heteroscedastic": (bdl.likelihoods.HeteroscedasticCategorical(10), 2 * CLASSES),
}


def fit(network: Any, likelihood: Any, families: Any, x: Any, y: Any, args: argparse.Namespace, steps: int) -> Any:
    """Posterior and model after `steps` steps on batches of 128."""
    key = jax.random.key(args.seed)
    posterior, model = bdl.variational(network.params, families), bdl.Model(network, likelihood)
    algorithm = bdl.inference.vi(optax.adam(optax.cosine_decay_schedule(2e-3, steps)))
    fitted = bdl.fit(key, algorithm, posterior, model, (x, y), num_steps=steps, batch_size=128, progress=False)
    return fitted.posterior, fitted.model


def predict(fitted: Any, x: np.ndarray, args: argparse.Namespace) -> Any:
    posterior, model = fitted
    draws = args.draws if posterior.families else None
    return bdl.predict(jax.random.key(args.seed + 1), posterior, model, x, num_samples=draws, batch_size=500)


def families(args: argparse.Namespace, wide: list[str], head: str) -> dict[str, Any]:
    if args.posterior == "dropout":
        return dict.fromkeys(wide, bdl.families.bernoulli_dropout(args.rate))
    return {head: bdl.families.normal(0.05)}


def _split(inside: Any, outside: Any, epistemic: Callable[[Any], Any]) -> dict[str, float]:
    found = {}
    for where, prediction in (("in", inside), ("out", outside)):
        found[f"aleatoric_{where}"] = float(np.mean(prediction.aleatoric))
        found[f"epistemic_{where}"] = float(np.mean(epistemic(prediction)))
        found[f"ratio_{where}"] = found[f"epistemic_{where}"] / found[f"aleatoric_{where}"]
    return found


def regression(args: argparse.Namespace) -> Rows:
    """Table 3 for a regression; variances in the square of the standardised target's unit."""
    data = uci_part(read_uci(args.data / "uci", "power-plant"), validation=False)
    x, y, x_new, y_new = (a[0] for a in (data.x, data.y, data.x_new, data.y_new))
    direction = np.random.default_rng(args.seed).normal(size=x_new.shape)
    far = (x_new + 4 * direction / np.linalg.norm(direction, axis=1, keepdims=True)).astype(np.float32)

    def row(count: int) -> dict[str, float]:
        network = bdl.networks.mlp(jax.random.key(args.seed), x[:1], 2, widths=(50, 50))
        chosen = families(args, ["Dense_1/kernel", "head/kernel"], "head/*")
        likelihood = bdl.likelihoods.HeteroscedasticNormal()
        fitted = fit(network, likelihood, chosen, x[:count], y[:count], args, 6 * args.steps)
        found, outside = (predict(fitted, inputs, args) for inputs in (x_new, far))
        rmse = float(np.sqrt(np.mean((found.mean - y_new) ** 2)))
        return {"rmse": rmse} | _split(found, outside, lambda p: p.epistemic)

    for share in (4, 2, 1):
        yield str(len(x) // share), partial(row, len(x) // share)


def _lenet(x: np.ndarray, args: argparse.Namespace, heads: int) -> tuple[Any, dict[str, Any]]:
    network = bdl.networks.lenet(jax.random.key(args.seed), x[:1], heads)
    return network, families(args, ["Dense_1/kernel", "head/kernel"], "head/*")


def digits(args: argparse.Namespace) -> Rows:
    """Table 3 for a classification: expected entropy in nats, and the variance of the logits."""
    data = _command.arrays(args.data / "mnist/mnist.npz")
    x, y = _command.grey_images(data["x_train"]), data["y_train"].astype(np.int32)
    x_new, y_new = _command.grey_images(data["x_test"]), data["y_test"]
    others = _command.arrays(args.data / "notmnist/notmnist_t10k.npz")
    far = _command.grey_images(next(a for a in others.values() if a.ndim >= 2 and a[0].size == 784))

    def row(count: int) -> dict[str, float]:
        likelihood, heads = KINDS["heteroscedastic"]
        network, chosen = _lenet(x, args, heads)
        fitted = fit(network, likelihood, chosen, x[:count], y[:count], args, args.steps)
        found, outside = (predict(fitted, inputs, args) for inputs in (x_new, far))
        return (
            {"error": float(np.mean(np.argmax(found.probs, 1) != y_new))}
            | _split(found, outside, lambda p: p.logit_variance)
            | {"information_in": float(found.epistemic.mean()), "information_out": float(outside.epistemic.mean())}
        )

    for count in (2_500, 5_000, 10_000):
        yield str(count), partial(row, count)


def _confused(labels: np.ndarray, seed: int) -> np.ndarray:
    """Labels of which 20 % of two classes are those of the other."""
    swap = np.random.default_rng(seed).random(len(labels)) < SHARE
    first, second = SWAPPED
    other = np.where(labels == first, second, np.where(labels == second, first, labels))
    return np.where(swap, other, labels).astype(np.int32)


def labels(args: argparse.Namespace) -> Rows:
    """Label noise in two classes: what the noise model makes of it."""
    data = _command.arrays(args.data / "fashion_mnist/fashion_mnist.npz")
    x, y = _command.grey_images(data["x_train"][:10_000]), _confused(data["y_train"][:10_000], 0)
    x_new, true = _command.grey_images(data["x_test"]), data["y_test"].astype(np.int32)
    noisy = _confused(true, 1)
    two = np.isin(true, SWAPPED)

    def row(likelihood: Any, heads: int) -> dict[str, float]:
        network, chosen = _lenet(x, args, heads)
        found = predict(fit(network, likelihood, chosen, x, y, args, args.steps), x_new, args)
        probs = np.asarray(found.probs)
        nll = lambda given: float(-np.log(probs[np.arange(len(given)), given] + 1e-30).mean())
        return {
            "nll": nll(noisy),
            "nll_true_labels": nll(true),
            "error_true_labels": float(np.mean(probs.argmax(1) != true)),
            "ece": float(bdl.metrics.expected_calibration_error(probs, noisy)),
            "aleatoric_confused": float(np.mean(found.aleatoric[two])),
            "aleatoric_others": float(np.mean(found.aleatoric[~two])),
        }

    for name, kind in KINDS.items():
        yield name, partial(row, *kind)


def _photographs(args: argparse.Namespace) -> tuple[Any, Any, Any, Any]:
    """10,000 training images of CIFAR-10 with their mirror images, and the test images."""
    files = ("cifar10_train_first10k.npz", "cifar10_test.npz")
    train, test = (_command.arrays(args.data / "cifar10" / name) for name in files)
    x, x_new = ((pixels / 255 - 0.47) / 0.25 for pixels in (train["x_train"], test["x_test"]))
    x = np.concatenate([x, x[:, :, ::-1]]).astype(np.float32)
    return x, train["y_train"], x_new.astype(np.float32), test["y_test"]


def _resnet(kind: str, args: argparse.Namespace, x: np.ndarray, y: np.ndarray, x_new: np.ndarray) -> Any:
    """The prediction of a ResNet-8 after training; `y` are the labels without those of the mirror images."""
    likelihood, heads = KINDS[kind]
    network = bdl.networks.resnet(jax.random.key(args.seed), x[:1], heads, depth=8)
    chosen = families(args, ["ResidualBlock_1/*/kernel", "ResidualBlock_2/*/kernel", "head/kernel"], "head/*")
    return predict(fit(network, likelihood, chosen, x, np.tile(y.astype(np.int32), 2), args, args.steps), x_new, args)


def humans(args: argparse.Namespace) -> Rows:
    """Expected entropy against the entropy of what people say."""
    x, y, x_new, true = _photographs(args)
    counts = _command.arrays(args.data / "cifar10" / "cifar10h_counts.npz")["counts"]
    people = counts / counts.sum(1, keepdims=True)
    entropy = -np.sum(people * np.log(np.maximum(people, 1e-12)), 1)

    def row(kind: str) -> dict[str, float]:
        found = _resnet(kind, args, x, y, x_new)
        probs = np.asarray(found.probs)
        return {
            "error": float(np.mean(probs.argmax(1) != true)),
            "rank_correlation_aleatoric": float(spearmanr(found.aleatoric, entropy).statistic),
            "rank_correlation_epistemic": float(spearmanr(found.epistemic, entropy).statistic),
            "mean_aleatoric": float(np.mean(found.aleatoric)),
            "mean_entropy_of_people": float(entropy.mean()),
            "cross_entropy_to_people": float(-(people * np.log(probs + 1e-30)).sum(1).mean()),
            "ece": float(bdl.metrics.expected_calibration_error(probs, true)),
        }

    for kind in KINDS:
        yield kind, partial(row, kind)


def annotators(args: argparse.Namespace) -> Rows:
    """Aleatoric uncertainty against the rate at which those who labelled the training images were wrong."""
    x, y, x_new, true = _photographs(args)
    labels = _command.arrays(args.data / "cifar10" / "cifar10n_train_labels.npz")

    def row(name: str) -> dict[str, float]:
        given = labels[f"{name}_label{'1' * (name == 'random')}"][: len(y)]
        found = _resnet("heteroscedastic", args, x, given, x_new)
        probs, aleatoric, wrong = np.asarray(found.probs), np.asarray(found.aleatoric), given != y
        by_class = [[a[of == k].mean() for k in range(CLASSES)] for a, of in ((aleatoric, true), (wrong, y))]
        return {
            "noise_rate": float(wrong.mean()),
            "error_true_labels": float(np.mean(probs.argmax(1) != true)),
            "one_minus_confidence": float(np.mean(1 - probs.max(1))),
            "mean_aleatoric": float(aleatoric.mean()),
            "rank_correlation_of_classes": float(spearmanr(*by_class).statistic) if wrong.any() else np.nan,
        }

    for name in ("clean", "aggre", "random", "worse"):
        yield name, partial(row, name)


STUDIES = {"regression": regression, "digits": digits, "labels": labels, "humans": humans, "annotators": annotators}


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _command.parser(__doc__, ".")
    parser.add_argument("studies", nargs="*", choices=[[], *STUDIES], default=[], help="default: all five")
    parser.add_argument("--posterior", choices=("dropout", "normal"), default="dropout", help="default: %(default)s")
    parser.add_argument("--rate", type=float, default=0.2, help="of dropout, default: %(default)s")
    parser.add_argument(
        "--steps", type=int, default=2_000, help="of a fit, six times as many in `regression`; default: %(default)s"
    )
    parser.add_argument("--draws", type=int, default=50, help="of the weights at prediction, default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="folder of kendall_gal.json; what is in it is not run again")
    parser.add_argument("--fast", action="store_true", help="5 steps, 2 draws: does it run?")
    args = _command.parse(parser, argv)
    if args.fast:
        args.steps, args.draws = 5, 2
    return args


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run what the command line asks for, save after every row, print the tables."""
    args = _arguments(argv)
    results = _command.Results(args.output, "kendall_gal.json")
    results["environment"] = environment()
    for name in args.studies or STUDIES:
        label = f"{name}, {args.posterior}"
        results.has(label, _command.settings(args, "rate", "steps", "draws", "seed"))
        rows = results.setdefault(label, {})
        for row, compute in STUDIES[name](args):
            if row not in rows:
                rows[row] = compute()
                results.save()
        print(f"\n{label}\n\n{_command.table(results[label], '.4g')}", flush=True)
    return results


if __name__ == "__main__":
    main(sys.argv[1:])
