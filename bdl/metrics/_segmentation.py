"""Intersection over union, from a confusion matrix of pixels."""

from typing import Any, Literal

import jax

from bdl.metrics._ratios import Counts, checked, divide

_ABSENT = "a class is neither in the labels nor predicted"


def iou(confusion: Any, *, undefined: float | None = None) -> jax.Array:
    """IoU = TP / (TP + FP + FN) of each class, the Jaccard index (higher is better, in [0, 1]).

    Args:
        confusion: [..., K, K] of pixels, rows true, columns predicted: of a whole data set, not of one image. A void
            label is left out when it is made, `confusion_matrix(probs, labels, mask=labels != void)`.
        undefined: what stands for a class that is neither in the labels nor predicted.

    Returns:
        [..., K], float32. Under a trace it is NaN where it is undefined.

    Raises:
        ValueError: no confusion matrix; a class does not occur, and `undefined` is None.

    Reference:
        Everingham et al. (2010), The PASCAL visual object classes challenge, https://doi.org/10.1007/s11263-009-0275-4

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> labels, predicted = jnp.array([[0, 0, 255], [1, 1, 1]]), jnp.array([[0, 1, 0], [1, 1, 1]])
        >>> confusion = bdl.metrics.confusion_matrix(predicted, labels, 2, mask=labels != 255)
        >>> bdl.metrics.iou(confusion)
        Array([0.5 , 0.75], dtype=float32)
    """
    return divide("iou", _iou, checked("iou", confusion), _ABSENT, undefined=undefined)


def mean_iou(confusion: Any, *, undefined: float | Literal["skip"] | None = None) -> jax.Array:
    """The mean of the classes' IoU, mIoU (higher is better, in [0, 1]).

    Args:
        confusion: [..., K, K] of pixels, as in `iou`.
        undefined: what stands for a class that is neither in the labels nor predicted; "skip" takes the mean over the
            others. A class that is predicted and has no label counts, with 0.

    Returns:
        [...], float32. Under a trace it is NaN where it is undefined.

    Raises:
        ValueError: no confusion matrix; a class does not occur, and `undefined` is None.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> bdl.metrics.mean_iou(jnp.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]]), undefined="skip")
        Array(0.775, dtype=float32)
    """
    return divide("mean_iou", _iou, checked("mean_iou", confusion), _ABSENT, average="macro", undefined=undefined)


def _iou(c: Counts) -> tuple[jax.Array, jax.Array]:
    return c.tp, c.tp + c.fp + c.fn
