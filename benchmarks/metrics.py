"""Metrics of a million predictions of ten classes, over scikit-learn's and torchmetrics' on the same arrays.

Ours check what they are given, as theirs do. The last rows are our seconds for all of classification, from
probabilities or scores to numbers. Torchmetrics is asked where it is installed.
"""

import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdl import metrics
from benchmarks._timing import Row, Settings, compare, rival, run

GOAL_SECONDS = 2.0


class Data:
    """Made-up predictions, right in about half of the cases, and a rare event."""

    def __init__(self, size: int):
        rng = np.random.default_rng(0)
        self.labels = rng.integers(0, 10, size)
        logits = rng.normal(size=(size, 10)).astype(np.float32)
        logits[np.arange(size), self.labels] += 1.5
        self.probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        self.predicted = self.probs.argmax(-1)
        self.event = rng.random(size) < 0.1
        self.scores = (rng.normal(size=size) + 1.5 * self.event).astype(np.float32)
        self.reference = np.roll(self.probs, 1, 0)
        self.wrong = self.predicted != self.labels
        self.uncertainty = -self.probs.max(-1)
        self.thresholds = np.linspace(-3, 4, 101, dtype=np.float32)

    def for_jax(self) -> "Data":
        """The same as arrays of JAX, as `bdl.predict` returns them; the others get their own kind, too."""
        ours = copy.copy(self)
        ours.__dict__ = {name: jnp.asarray(array) for name, array in vars(self).items()}
        return ours


OF_COUNTS = (
    metrics.accuracy, metrics.precision, metrics.recall, metrics.f1, metrics.balanced_accuracy,
    metrics.matthews_correlation, metrics.cohen_kappa, metrics.g_mean, metrics.iou, metrics.mean_iou,
)  # fmt: skip
OF_EVENTS = (
    metrics.true_skill_statistic, metrics.heidke_skill_score, metrics.heidke_skill_score_1,
    metrics.gilbert_skill_score, metrics.probability_of_detection, metrics.false_alarm_ratio,
    metrics.critical_success_index,
)  # fmt: skip
OF_RANKS = (
    metrics.auroc, metrics.average_precision, metrics.fpr_at_tpr, metrics.tnr_at_tpr, metrics.detection_error,
)  # fmt: skip
OF_SELECTION = (
    metrics.risk_coverage, metrics.aurc, metrics.excess_aurc, metrics.augrc, metrics.coverage_at_risk,
    metrics.sparsification_error,
)  # fmt: skip


def from_counts(data: Data) -> list[Any]:
    confusion = metrics.confusion_matrix(data.probs, data.labels)
    return [metric(confusion) for metric in OF_COUNTS]


def sweep(data: Data) -> list[Any]:
    confusion = metrics.confusion_at_thresholds(data.scores, data.event, data.thresholds)
    return [metric(confusion, undefined=np.nan) for metric in OF_EVENTS]


def from_ranks(data: Data) -> list[Any]:
    return [metric(data.scores, data.event) for metric in OF_RANKS]


def selection(data: Data) -> list[Any]:
    return [metric(data.uncertainty, data.wrong) for metric in OF_SELECTION]


def fidelity(data: Data) -> list[Any]:
    return [metric(data.probs, data.reference) for metric in (metrics.agreement, metrics.total_variation)]


def detection(data: Data) -> dict[str, Any]:
    return metrics.detection(data.scores[~data.event], data.scores[data.event], positive="out")


def scores(data: Data) -> list[Any]:
    return [metric(data.probs, data.labels) for metric in (metrics.log_likelihood, metrics.brier)]


def calibration(data: Data) -> list[Any]:
    found = [metrics.expected_calibration_error(data.probs, data.labels, classwise=each) for each in (False, True)]
    return [
        *found,
        metrics.maximum_calibration_error(data.probs, data.labels),
        metrics.calibration_noise_floor(data.probs),
    ]


def kernel(data: Data) -> Any:
    return metrics.kernel_calibration_error(data.probs, data.labels, block_size=64)


GROUPS = (from_counts, sweep, from_ranks, selection, fidelity, detection, scores, calibration, kernel)


def scikit_learn(data: Data, ours: Data) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Theirs and ours, by the figure's name."""
    import sklearn.metrics as theirs

    def confusion() -> Any:
        return theirs.confusion_matrix(data.labels, data.probs.argmax(-1))

    def f1() -> Any:
        return theirs.f1_score(data.labels, data.probs.argmax(-1), average="macro")

    def curves() -> Any:
        fpr, tpr, _ = theirs.roc_curve(data.event, data.scores)
        return (
            theirs.auc(fpr, tpr), theirs.average_precision_score(data.event, data.scores),
            theirs.average_precision_score(~data.event, -data.scores), fpr[np.argmax(tpr >= 0.95)],
            np.min(1 - tpr + fpr) / 2,
        )  # fmt: skip

    def matrix() -> Any:
        return metrics.confusion_matrix(ours.probs, ours.labels)

    return {
        "confusion matrix": (confusion, matrix),
        "macro F1": (f1, lambda: metrics.f1(matrix())),
        "MCC": (
            lambda: theirs.matthews_corrcoef(data.labels, data.probs.argmax(-1)),
            lambda: metrics.matthews_correlation(matrix()),
        ),
        "Cohen's kappa": (
            lambda: theirs.cohen_kappa_score(data.labels, data.probs.argmax(-1)),
            lambda: metrics.cohen_kappa(matrix()),
        ),
        "mean IoU": (
            lambda: theirs.jaccard_score(data.labels, data.probs.argmax(-1), average="macro"),
            lambda: metrics.mean_iou(matrix()),
        ),
        "AUROC": (
            lambda: theirs.roc_auc_score(data.event, data.scores),
            lambda: metrics.auroc(ours.scores, ours.event),
        ),
        "average precision": (
            lambda: theirs.average_precision_score(data.event, data.scores),
            lambda: metrics.average_precision(ours.scores, ours.event),
        ),
        "AUROC, both AUPR, FPR95 and error": (curves, lambda: detection(ours)),
    }


def torchmetrics(data: Data, ours: Data) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Theirs and ours, by the figure's name."""
    import torch
    import torchmetrics.functional.classification as theirs

    probs, labels = torch.tensor(data.probs), torch.tensor(data.labels)
    scores, event = torch.tensor(data.scores).sigmoid(), torch.tensor(data.event).long()
    return {
        "confusion matrix": (
            lambda: theirs.multiclass_confusion_matrix(probs, labels, 10).numpy(),
            lambda: metrics.confusion_matrix(ours.probs, ours.labels),
        ),
        "macro F1": (
            lambda: theirs.multiclass_f1_score(probs, labels, 10, average="macro").numpy(),
            lambda: metrics.f1(metrics.confusion_matrix(ours.probs, ours.labels)),
        ),
        "AUROC": (
            lambda: theirs.binary_auroc(scores, event).numpy(),
            lambda: metrics.auroc(ours.scores, ours.event),
        ),
        "average precision": (
            lambda: theirs.binary_average_precision(scores, event).numpy(),
            lambda: metrics.average_precision(ours.scores, ours.event),
        ),
    }


def seconds(figure: str, function: Callable[[], Any], settings: Settings, goal: float | None = None) -> Row:
    """What a call takes, as a multiple of one second."""
    times = []
    for _ in range(settings.pairs + 2):
        start = settings.clock()
        jax.block_until_ready(function())
        times.append(settings.clock() - start)
    low, middle, high = (float(q) for q in np.quantile(times[2:], (0.25, 0.5, 0.75)))
    return Row(figure, None if settings.fast else goal, middle, (low, high), 1.0)


def rows(settings: Settings) -> Iterator[Row]:
    data = Data(2_000 if settings.fast else 1_000_000)
    ours = data.for_jax()
    for name, pair in scikit_learn(data, ours).items():
        yield compare(f"{name}, over scikit-learn", *pair, settings, 1.0)
    built = functools.cache(lambda: torchmetrics(data, ours))
    for name in ("confusion matrix", "macro F1", "AUROC", "average precision"):
        pair = lambda name=name: built()[name]
        yield rival(
            f"{name}, over torchmetrics", ("torch", "torchmetrics"),
            lambda pair=pair: pair()[0](), lambda pair=pair: pair()[1], settings,
        )  # fmt: skip
    for group in GROUPS:
        yield seconds(f"seconds, {group.__name__}", lambda group=group: group(ours), settings)
    yield seconds("seconds, all", lambda: [group(ours) for group in GROUPS], settings, GOAL_SECONDS)


if __name__ == "__main__":
    run(__doc__, rows)
