"""Metrics of classification from a confusion matrix, which is added over batches before."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from bdl.metrics._ratios import Average, Counts, checked, divide

_Undefined = float | Literal["skip"] | None


def accuracy(confusion: Any) -> jax.Array:
    """The share of correct predictions (higher is better, in [0, 1]).

    Args:
        confusion: [..., K, K], rows true, columns predicted.

    Returns:
        [...], float32.

    Raises:
        ValueError: no confusion matrix, or one of no examples.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> bdl.metrics.accuracy(jnp.array([[3, 1], [0, 4]]))
        Array(0.875, dtype=float32)
    """
    return divide("accuracy", _accuracy, checked("accuracy", confusion), "there is no example")


def precision(confusion: Any, *, average: Average | None = "macro", undefined: _Undefined = None) -> jax.Array:
    """TP / (TP + FP), the share of what is predicted as a class that is of it (higher is better, in [0, 1]).

    Args:
        confusion: [..., K, K], rows true, columns predicted.
        average: over classes: "macro", with equal weights; "weighted", by their number of labels; "micro", of the
            counts; None for each class. Of two classes the positive one is `average=None` at [..., 1].
        undefined: what stands for a class that is never predicted; "skip" leaves it out of the mean.

    Returns:
        [...], or [..., K] where `average` is None, float32. Under a trace it is NaN where it is undefined.

    Raises:
        ValueError: no confusion matrix; a class that counts is never predicted, and `undefined` is None.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> bdl.metrics.precision(jnp.array([[3, 1], [0, 4]]), average=None)
        Array([1. , 0.8], dtype=float32)
    """
    found = checked("precision", confusion)
    return divide(
        "precision", _precision, found, "a class is never predicted", average=average, undefined=undefined
    )  # fmt: skip


def recall(confusion: Any, *, average: Average | None = "macro", undefined: _Undefined = None) -> jax.Array:
    """TP / (TP + FN), the share of a class that is predicted as it (higher is better, in [0, 1]).

    Args:
        confusion: [..., K, K], rows true, columns predicted.
        average: over classes, as in `precision`.
        undefined: what stands for a class that no label has; "skip" leaves it out of the mean.

    Returns:
        [...], or [..., K] where `average` is None, float32. Under a trace it is NaN where it is undefined.

    Raises:
        ValueError: no confusion matrix; a class that counts has no label, and `undefined` is None.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> bdl.metrics.recall(jnp.array([[3, 1], [0, 4]]), average=None)
        Array([0.75, 1.  ], dtype=float32)
    """
    return divide("recall", _recall, checked("recall", confusion), _NO_LABEL, average=average, undefined=undefined)


def f1(confusion: Any, *, average: Average | None = "macro", undefined: _Undefined = None) -> jax.Array:
    """2 TP / (2 TP + FP + FN), the harmonic mean of precision and recall (higher is better, in [0, 1]).

    It is 0 for a class that is never predicted and has labels.

    Args:
        confusion: [..., K, K], rows true, columns predicted.
        average: over classes, as in `precision`; "macro" is the mean of F1, not F1 of means.
        undefined: what stands for a class that is neither in the labels nor predicted; "skip" leaves it out.

    Returns:
        [...], or [..., K] where `average` is None, float32. Under a trace it is NaN where it is undefined.

    Raises:
        ValueError: no confusion matrix; a class that counts does not occur at all, and `undefined` is None.

    Reference:
        Opitz and Burst (2019), Macro F1 and macro F1, https://arxiv.org/abs/1911.03347

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> round(float(bdl.metrics.f1(jnp.array([[3, 1], [0, 4]]))), 4)
        0.873
    """
    reason = "a class is neither in the labels nor predicted"
    return divide("f1", _f1, checked("f1", confusion), reason, average=average, undefined=undefined)


def balanced_accuracy(confusion: Any, *, undefined: _Undefined = None) -> jax.Array:
    """The mean of the recalls of all classes (higher is better, in [0, 1], chance is 1 / K).

    Args:
        confusion: [..., K, K], rows true, columns predicted.
        undefined: what stands for a class that no label has; "skip" leaves it out of the mean.

    Returns:
        [...], float32. Under a trace it is NaN where it is undefined.

    Raises:
        ValueError: no confusion matrix; a class has no label, and `undefined` is None.

    Reference:
        Brodersen et al. (2010), The balanced accuracy and its posterior distribution,
        https://doi.org/10.1109/ICPR.2010.764

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> bdl.metrics.balanced_accuracy(jnp.array([[90, 0], [5, 5]]))
        Array(0.75, dtype=float32)
    """
    found = checked("balanced_accuracy", confusion)
    return divide("balanced_accuracy", _recall, found, _NO_LABEL, average="macro", undefined=undefined)


def matthews_correlation(confusion: Any, *, undefined: float | None = None) -> jax.Array:
    """The correlation of predicted and true classes, MCC (higher is better, at most 1, chance is 0):

        MCC = Σₖ (TPₖ TNₖ − FPₖ FNₖ) / √[Σₖ pₖ (N − pₖ) Σₖ tₖ (N − tₖ)],

    pₖ and tₖ how often class k is predicted and how often it is true. With two classes that is (TP TN − FP FN) /
    √[(TP + FP) (TP + FN) (TN + FP) (TN + FN)].

    Args:
        confusion: [..., K, K], rows true, columns predicted.
        undefined: what stands where all predictions or all labels are of one class.

    Returns:
        [...], float32. Under a trace it is NaN where it is undefined.

    Raises:
        ValueError: no confusion matrix; all predictions or all labels are of one class, and `undefined` is None.

    Reference:
        Gorodkin (2004), Comparing two K-category assignments by a K-category correlation coefficient,
        https://doi.org/10.1016/j.compbiolchem.2004.09.006

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> round(float(bdl.metrics.matthews_correlation(jnp.array([[90, 0], [5, 5]]))), 4)
        0.6882
    """
    found = checked("matthews_correlation", confusion)
    reason = "all predictions or all labels are of one class"
    return divide("matthews_correlation", _matthews, found, reason, undefined=undefined)


def cohen_kappa(confusion: Any, *, undefined: float | None = None) -> jax.Array:
    """The agreement beyond that by chance, Cohen's κ (higher is better, at most 1, chance is 0):

        κ = (p₀ − pₑ) / (1 − pₑ),

    p₀ the accuracy, pₑ that of predictions and labels with the same frequencies, independent.

    Args:
        confusion: [..., K, K], rows true, columns predicted.
        undefined: what stands where all predictions and all labels are of one class, the same.

    Returns:
        [...], float32. Under a trace it is NaN where it is undefined.

    Raises:
        ValueError: no confusion matrix; all predictions and labels are of one class, and `undefined` is None.

    Reference:
        Cohen (1960), A coefficient of agreement for nominal scales, https://doi.org/10.1177/001316446002000104

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> round(float(bdl.metrics.cohen_kappa(jnp.array([[90, 0], [5, 5]]))), 4)
        0.6429
    """
    found = checked("cohen_kappa", confusion)
    return divide("cohen_kappa", _kappa, found, "all predictions and all labels are of one class", undefined=undefined)


def g_mean(confusion: Any, *, undefined: float | None = None) -> jax.Array:
    """The geometric mean of the recalls of all classes (higher is better, in [0, 1]); 0 where one is never found.

    Args:
        confusion: [..., K, K], rows true, columns predicted.
        undefined: what stands for the recall of a class that no label has.

    Returns:
        [...], float32. Under a trace it is NaN where it is undefined.

    Raises:
        ValueError: no confusion matrix; a class has no label, and `undefined` is None.

    Reference:
        Kubat and Matwin (1997), Addressing the curse of imbalanced training sets: one-sided selection, ICML;
        Sun, Kamel and Wang (2006), https://doi.org/10.1109/ICDM.2006.29, for more than two classes

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> round(float(bdl.metrics.g_mean(jnp.array([[90, 0], [5, 5]]))), 4)
        0.7071
    """
    return _geometric(divide("g_mean", _recall, checked("g_mean", confusion), _NO_LABEL, undefined=undefined))


_NO_LABEL = "a class has no label"


def _accuracy(c: Counts) -> tuple[jax.Array, jax.Array]:
    return c.tp.sum(-1), (c.tp + c.fn).sum(-1)


def _precision(c: Counts) -> tuple[jax.Array, jax.Array]:
    return c.tp, c.tp + c.fp


def _recall(c: Counts) -> tuple[jax.Array, jax.Array]:
    return c.tp, c.tp + c.fn


def _f1(c: Counts) -> tuple[jax.Array, jax.Array]:
    return 2 * c.tp, 2 * c.tp + c.fp + c.fn


def _matthews(c: Counts) -> tuple[jax.Array, jax.Array]:
    # The terms of class k are at most pₖ (N − pₖ) and tₖ (N − tₖ), so that no digits are lost to rare classes.
    predicted = ((c.tp + c.fp) * (c.tn + c.fn)).sum(-1)
    true = ((c.tp + c.fn) * (c.tn + c.fp)).sum(-1)
    return c.covariance.sum(-1), jnp.sqrt(predicted) * jnp.sqrt(true)


def _kappa(c: Counts) -> tuple[jax.Array, jax.Array]:
    # N² (1 − pₑ) = Σ pₖ (N − tₖ)
    return c.covariance.sum(-1), ((c.tp + c.fp) * (c.tn + c.fp)).sum(-1)


@jax.jit
def _geometric(recalls: jax.Array) -> jax.Array:
    return jnp.exp(jnp.mean(jnp.log(recalls), -1))
