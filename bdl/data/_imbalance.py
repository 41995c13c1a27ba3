"""Whether a metric means anything at the class ratio at hand."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bdl.data._checks import classes

_FEW = 10  # examples: the standard error of a rate of ½ is then 0.16


class _Trouble(NamedTuple):
    above: float  # the share of the most frequent class at which it begins
    why: str
    instead: str


_INSTEAD = "true_skill_statistic, balanced_accuracy or average_precision (with the base rate beside it)"
_ACCURACY = _Trouble(0.8, "always saying class {common} scores {share:.3f}", _INSTEAD)
_RANKING = _Trouble(
    0.95,
    "a false alarm rate of 1 % is {alarms:.1f} false alarms for each example of class {rare}, and hardly moves it",
    "average_precision, or precision at the recall that you need",
)
_CALIBRATION = _Trouble(
    0.95,
    "always predicting the class frequencies scores nearly 0, without any skill",
    "a skill score against climatology, and reliability over the probabilities above the base rate",
)
_PROPER = _Trouble(
    0.95,
    "most of it comes from class {common}, and climatology is nearly as good as anything",
    "the skill score 1 − score / score of climatology",
)
_RATIO = _Trouble(
    0.95,
    "it depends on the class ratio, and is not comparable with that of data of another ratio (a balanced test set)",
    "true_skill_statistic for comparisons, or this one on test data of the true ratio",
)
_RATE = _Trouble(1.0, "", "")

_NAMES = {
    _ACCURACY: "accuracy",
    _RANKING: "auroc detection_error fpr_at_tpr tnr_at_tpr",
    _CALIBRATION: "expected_calibration_error maximum_calibration_error",
    _PROPER: "brier log_likelihood",
    _RATIO: "cohen_kappa critical_success_index f1 false_alarm_ratio gilbert_skill_score heidke_skill_score "
    "heidke_skill_score_1 matthews_correlation precision",
    _RATE: "average_precision balanced_accuracy g_mean probability_of_detection recall true_skill_statistic",
}
_TROUBLES = {name: trouble for trouble, names in _NAMES.items() for name in names.split()}


def warn_of_imbalance(
    metric: str | Callable[..., Any], labels: Any, *, num_classes: int | None = None, mask: Any = None
) -> bool:
    """Warns where a metric says little at the class ratio of these labels: which, why, and what to use instead.

    Accuracy where more than 80 % are of one class; areas under the ROC curve, calibration errors, proper scores, and
    scores that depend on the ratio, such as HSS and F1, where more than 95 % are; and every metric of classes where one
    has no example or fewer than ten.

    Args:
        metric: a function of `bdl.metrics`, or its name.
        labels: [N] integers, of the test rows.
        num_classes: K, to know of classes without labels; `None` for the largest label plus one, at least 2.
        mask: bool [N], True where a label counts; `None` for all.

    Returns:
        Whether it warned.

    Raises:
        ValueError: it knows nothing of this metric.

    Warns:
        UserWarning: as said.

    Example:
        >>> import warnings, bdl
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     bdl.data.warn_of_imbalance("accuracy", [0] * 95 + [1] * 5)
        True
        >>> str(caught[0].message)[:86]
        'accuracy: the rarest class, 1, is 5 of 100 examples (1:19 to class 0): always saying c'
    """
    name = metric if isinstance(metric, str) else getattr(metric, "__name__", repr(metric))
    if name not in _TROUBLES:
        raise ValueError(f"warn_of_imbalance: expected one of {', '.join(sorted(_TROUBLES))}, got {name!r}.")
    labels = classes("warn_of_imbalance", labels)
    if mask is not None:
        labels = labels[np.asarray(mask, bool)]
    if not len(labels) or labels.min() < 0 or (num_classes is not None and labels.max() >= num_classes):
        raise ValueError(f"warn_of_imbalance: expected labels in 0, …, K − 1, at least one, got {labels}. Mask voids.")
    counts = np.bincount(labels, minlength=num_classes or 2)
    message = _message(_TROUBLES[name], counts)
    if message:
        warnings.warn(f"{name}: {message}", UserWarning, stacklevel=2)
    return bool(message)


def _message(trouble: _Trouble, counts: np.ndarray) -> str:
    total, rare, common = counts.sum(), int(counts.argmin()), int(counts.argmax())
    few, many = counts[rare], counts[common]
    if few == 0:
        return (
            f"no example is of class {rare}, so that its rates are undefined. Use longer folds, or add up the "
            "confusion matrices of all folds before the score."
        )
    ratio = f"the rarest class, {rare}, is {few} of {total} examples (1:{many / few:.3g} to class {common})"
    if many / total > trouble.above:
        why = trouble.why.format(common=common, rare=rare, share=many / total, alarms=0.01 * (total - few) / few)
        return f"{ratio}: {why}. Use {trouble.instead}."
    if few < _FEW:
        error = 0.5 / np.sqrt(few)
        return f"{ratio}: a rate among {few} has a standard error of up to {error:.2f}. Give an interval beside it."
    return ""
