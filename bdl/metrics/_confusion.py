"""Confusion matrices: how often each class was taken for each. They are added over batches."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdl._data_checks import is_traced
from bdl.metrics._checks import check_labels, classes, weigh
from bdl.metrics._ranking import checked_events


def confusion_matrix(predicted: Any, labels: Any, num_classes: int | None = None, *, mask: Any = None) -> jax.Array:
    """How many examples of each class (row) were predicted as each class (column).

    Matrices of batches are added to that of the whole; `accuracy`, `f1`, `mean_iou` and others take it.

    Args:
        predicted: probabilities [..., K], of which the largest is the prediction and the first of equals, or predicted
            classes [...], integers.
        labels: [...], integers in 0, …, K − 1.
        num_classes: K; needed where classes are given, as not every class need occur among them.
        mask: bool [...], True where an example counts: `labels != void`.

    Returns:
        [K, K], int32. Under a trace, examples with a class out of range are left out.

    Raises:
        ValueError: shapes that do not match, rows that are not probabilities, classes out of range, no example.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> bdl.metrics.confusion_matrix(jnp.array([0, 1, 1, 2]), jnp.array([0, 1, 2, 2]), 3)
        Array([[1, 0, 0],
               [0, 1, 0],
               [0, 1, 1]], dtype=int32)
    """
    if np.ndim(predicted) == np.ndim(labels):
        predicted, labels, weights = _two_labels(predicted, labels, num_classes, mask)
        return _count(predicted, labels, weights, num_classes or 0)
    probs, labels, weights = classes("confusion_matrix", predicted, labels, mask)
    if num_classes not in (None, probs.shape[-1]):
        raise ValueError(
            f"confusion_matrix: expected probs of {num_classes} classes, got {probs.shape[-1]}. Leave out num_classes."
        )
    return _count(_largest(probs), labels, weights, probs.shape[-1])


def confusion_at_thresholds(scores: Any, labels: Any, thresholds: Any, *, mask: Any = None) -> jax.Array:
    """The confusion matrices of s ≥ t as the positive prediction, for each of the thresholds t.

    They are added over batches. `true_skill_statistic(confusion_at_thresholds(...))` is a sweep.

    Args:
        scores: [...], higher for what is more likely positive.
        labels: [...], 1 or True for positives, else 0.
        thresholds: [T], in any order, in the scores' unit.
        mask: bool [...], True where an example counts.

    Returns:
        [T, 2, 2], int32: [[TN, FP], [FN, TP]].

    Raises:
        ValueError: shapes that do not match, numbers that are not finite, labels that are not 0 and 1, no example.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> scores, labels = jnp.array([0.2, 0.4, 0.6, 0.8]), jnp.array([0, 1, 0, 1])
        >>> bdl.metrics.confusion_at_thresholds(scores, labels, jnp.array([0.5]))
        Array([[[1, 1],
                [1, 1]]], dtype=int32)
    """
    if np.ndim(thresholds) != 1 or np.size(thresholds) == 0:
        raise ValueError(
            f"confusion_at_thresholds: expected thresholds [T], got the shape {np.shape(thresholds)}. A single one is "
            "jnp.array([0.5])."
        )
    if not is_traced(thresholds) and np.isnan(np.asarray(thresholds, np.float32)).any():
        raise ValueError("confusion_at_thresholds: a threshold is NaN. Pass numbers in the scores' unit.")
    scores, labels, weights = checked_events("confusion_at_thresholds", scores, labels, mask)
    return _at_thresholds(scores, labels, weights, jnp.asarray(thresholds).astype(jnp.float32))


def _two_labels(predicted: Any, labels: Any, num_classes: int | None, mask: Any) -> tuple[jax.Array, ...]:
    name = "confusion_matrix"
    if num_classes is None or num_classes < 2:
        raise ValueError(f"{name}: expected num_classes of at least 2 with predicted classes, got {num_classes}.")
    if np.shape(predicted) != np.shape(labels):
        raise ValueError(f"{name}: expected two arrays of one shape, got {np.shape(predicted)} and {np.shape(labels)}.")
    for called, array in (("predicted", predicted), ("labels", labels)):
        if jnp.issubdtype(jnp.result_type(array), np.inexact):
            raise ValueError(
                f"{name}: expected integers in {called}, got {jnp.result_type(array)}. A probability p of one of two "
                "classes is jnp.stack([1 - p, p], -1), or p >= threshold."
            )
    weights = weigh(name, mask, np.shape(labels))
    if not is_traced((predicted, labels, mask)):
        for array in (predicted, labels):
            check_labels(name, np.asarray(array)[... if mask is None else np.asarray(mask)], num_classes)
    return jnp.asarray(predicted).astype(jnp.int32), jnp.asarray(labels).astype(jnp.int32), weights


@jax.jit
def _largest(probs: jax.Array) -> jax.Array:
    return jnp.argmax(probs, -1).astype(jnp.int32)


@functools.partial(jax.jit, static_argnames="num_classes")
def _count(predicted: jax.Array, labels: jax.Array, weights: jax.Array, num_classes: int) -> jax.Array:
    inside = (predicted >= 0) & (predicted < num_classes) & (labels >= 0) & (labels < num_classes) & (weights > 0)
    cell = jnp.where(inside, labels * num_classes + predicted, num_classes**2)
    return jnp.bincount(cell.reshape(-1), length=num_classes**2 + 1)[:-1].reshape(num_classes, num_classes)


@jax.jit
def _at_thresholds(scores: jax.Array, labels: jax.Array, weights: jax.Array, thresholds: jax.Array) -> jax.Array:
    order = jnp.argsort(thresholds)
    size = thresholds.size + 1
    # How many thresholds a score reaches; with j of them it is positive for the j lowest.
    reached = jnp.searchsorted(thresholds[order], scores, side="right", method="scan_unrolled").astype(jnp.int32)
    cell = jnp.where(weights > 0, reached + size * (labels == 1).astype(jnp.int32), 2 * size)
    by_class = jnp.bincount(cell, length=2 * size + 1)[:-1].reshape(2, size)
    below = jnp.cumsum(by_class, axis=1)[:, :-1]
    pairs = jnp.stack([below, jnp.sum(by_class, axis=1, keepdims=True) - below], -1)  # class, threshold, predicted
    return jnp.zeros_like(pairs).at[:, order].set(pairs).transpose(1, 0, 2)
