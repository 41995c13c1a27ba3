"""Forecast skill of two classes, as forecasters of the weather and of solar flares report it."""

from typing import Any

import jax

from bdl.metrics._ratios import Counts, Ratio, checked, divide


def true_skill_statistic(confusion: Any, *, undefined: float | None = None) -> jax.Array:
    """TSS = TP / (TP + FN) − FP / (FP + TN), also Hanssen-Kuipers or Youden's J (higher is better, in [−1, 1]).

    0 is chance. It does not depend on how frequent the classes are.

    Args:
        confusion: [..., 2, 2], [[TN, FP], [FN, TP]]; one for each threshold from `confusion_at_thresholds`.
        undefined: what stands where a class has no label.

    Returns:
        [...], float32. Under a trace it is NaN where it is undefined.

    Raises:
        ValueError: no confusion matrix of two classes; a class has no label, and `undefined` is None.

    Reference:
        Bloomfield et al. (2012), Toward reliable benchmarking of solar flare forecasting methods,
        https://arxiv.org/abs/1202.5995

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> round(float(bdl.metrics.true_skill_statistic(jnp.array([[80, 10], [2, 8]]))), 4)
        0.6889
    """
    return _skill("true_skill_statistic", _tss, confusion, "a class has no label", undefined)


def heidke_skill_score(confusion: Any, *, undefined: float | None = None) -> jax.Array:
    """The improvement over chance, HSS₂ (higher is better, at most 1, chance is 0):

        HSS₂ = 2 (TP TN − FP FN) / [(TP + FN) (FN + TN) + (TP + FP) (FP + TN)],

    which is Cohen's κ of two classes.

    Args:
        confusion: [..., 2, 2], [[TN, FP], [FN, TP]].
        undefined: what stands where all forecasts and all labels are of one class.

    Returns:
        [...], float32. Under a trace it is NaN where it is undefined.

    Raises:
        ValueError: no confusion matrix of two classes; all are of one class, and `undefined` is None.

    Reference:
        Bobra and Couvidat (2015), Solar flare prediction using SDO/HMI vector magnetic field data with a
        machine-learning algorithm, https://arxiv.org/abs/1411.1405

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> round(float(bdl.metrics.heidke_skill_score(jnp.array([[80, 10], [2, 8]]))), 4)
        0.5082
    """
    return _skill("heidke_skill_score", _hss2, confusion, "all forecasts and labels are of one class", undefined)


def heidke_skill_score_1(confusion: Any, *, undefined: float | None = None) -> jax.Array:
    """The improvement over the forecast that nothing ever happens, HSS₁ (higher is better, at most 1):

        HSS₁ = (TP − FP) / (TP + FN) = recall (2 − 1 / precision).

    That forecast has 0, and there is no lower bound.

    Args:
        confusion: [..., 2, 2], [[TN, FP], [FN, TP]].
        undefined: what stands where there is no event.

    Returns:
        [...], float32. Under a trace it is NaN where it is undefined.

    Raises:
        ValueError: no confusion matrix of two classes; there is no event, and `undefined` is None.

    Reference:
        Barnes and Leka (2008), Evaluating the performance of solar flare forecasting methods,
        https://doi.org/10.1086/595550; Bobra and Couvidat (2015), https://arxiv.org/abs/1411.1405

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> bdl.metrics.heidke_skill_score_1(jnp.array([[80, 10], [2, 8]]))
        Array(-0.2, dtype=float32)
    """
    return _skill("heidke_skill_score_1", _hss1, confusion, _NO_EVENT, undefined)


def gilbert_skill_score(confusion: Any, *, undefined: float | None = None) -> jax.Array:
    """Hits beyond those by chance, GS or equitable threat score (higher is better, in [−⅓, 1], chance is 0):

        GS = (TP − C) / (TP + FP + FN − C),  C = (TP + FP) (TP + FN) / N.

    Args:
        confusion: [..., 2, 2], [[TN, FP], [FN, TP]].
        undefined: what stands where no event is forecast and there is none, or where all are.

    Returns:
        [...], float32. Under a trace it is NaN where it is undefined.

    Raises:
        ValueError: no confusion matrix of two classes; the denominator is 0, and `undefined` is None.

    Reference:
        Schaefer (1990), The critical success index as an indicator of warning skill,
        https://doi.org/10.1175/1520-0434(1990)005<0570:TCSIAA>2.0.CO;2

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> round(float(bdl.metrics.gilbert_skill_score(jnp.array([[80, 10], [2, 8]]))), 4)
        0.3407
    """
    reason = "all forecasts and labels are of one class"
    return _skill("gilbert_skill_score", _gilbert, confusion, reason, undefined)


def probability_of_detection(confusion: Any, *, undefined: float | None = None) -> jax.Array:
    """POD = TP / (TP + FN), the share of events that were forecast, their recall (higher is better, in [0, 1]).

    Args:
        confusion: [..., 2, 2], [[TN, FP], [FN, TP]].
        undefined: what stands where there is no event.

    Returns:
        [...], float32. Under a trace it is NaN where it is undefined.

    Raises:
        ValueError: no confusion matrix of two classes; there is no event, and `undefined` is None.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> bdl.metrics.probability_of_detection(jnp.array([[80, 10], [2, 8]]))
        Array(0.8, dtype=float32)
    """
    return _skill("probability_of_detection", _pod, confusion, _NO_EVENT, undefined)


def false_alarm_ratio(confusion: Any, *, undefined: float | None = None) -> jax.Array:
    """FAR = FP / (TP + FP), the share of forecasts that were false (lower is better, in [0, 1]).

    It is 1 − precision, and not the false alarm rate FP / (FP + TN).

    Args:
        confusion: [..., 2, 2], [[TN, FP], [FN, TP]].
        undefined: what stands where nothing is forecast, as above the highest score of a sweep: `jnp.nan` leaves a gap.

    Returns:
        [...], float32. Under a trace it is NaN where it is undefined.

    Raises:
        ValueError: no confusion matrix of two classes; no event is forecast, and `undefined` is None.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> round(float(bdl.metrics.false_alarm_ratio(jnp.array([[80, 10], [2, 8]]))), 4)
        0.5556
    """
    return _skill("false_alarm_ratio", _far, confusion, "no event is forecast", undefined)


def critical_success_index(confusion: Any, *, undefined: float | None = None) -> jax.Array:
    """CSI = TP / (TP + FP + FN), also threat score, the IoU of the events (higher is better, in [0, 1]).

    Args:
        confusion: [..., 2, 2], [[TN, FP], [FN, TP]].
        undefined: what stands where no event is forecast and there is none.

    Returns:
        [...], float32. Under a trace it is NaN where it is undefined.

    Raises:
        ValueError: no confusion matrix of two classes; no event is forecast and there is none, and `undefined` is None.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> bdl.metrics.critical_success_index(jnp.array([[80, 10], [2, 8]]))
        Array(0.4, dtype=float32)
    """
    return _skill("critical_success_index", _csi, confusion, "no event is forecast and there is none", undefined)


_NO_EVENT = "no label is an event"


def _skill(name: str, ratio: Ratio, confusion: Any, reason: str, undefined: float | None) -> jax.Array:
    return divide(name, ratio, checked(name, confusion, 2), reason, undefined=undefined)


def _tss(c: Counts) -> tuple[jax.Array, jax.Array]:
    c = c.positive()
    return c.covariance, (c.tp + c.fn) * (c.fp + c.tn)


def _hss2(c: Counts) -> tuple[jax.Array, jax.Array]:
    c = c.positive()
    return 2 * c.covariance, (c.tp + c.fn) * (c.fn + c.tn) + (c.tp + c.fp) * (c.fp + c.tn)


def _hss1(c: Counts) -> tuple[jax.Array, jax.Array]:
    c = c.positive()
    return c.tp - c.fp, c.tp + c.fn


def _gilbert(c: Counts) -> tuple[jax.Array, jax.Array]:
    c = c.positive()
    # N (TP − C) = TP TN − FP FN
    return c.covariance, c.covariance + (c.fp + c.fn) * (c.tp + c.fp + c.fn + c.tn)


def _pod(c: Counts) -> tuple[jax.Array, jax.Array]:
    c = c.positive()
    return c.tp, c.tp + c.fn


def _far(c: Counts) -> tuple[jax.Array, jax.Array]:
    c = c.positive()
    return c.fp, c.tp + c.fp


def _csi(c: Counts) -> tuple[jax.Array, jax.Array]:
    c = c.positive()
    return c.tp, c.tp + c.fp + c.fn
