"""Ratios of the counts in a confusion matrix, and what is done where the divisor is 0."""

import functools
from collections.abc import Callable
from typing import Any, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bdl._data_checks import is_traced

Average = Literal["macro", "micro", "weighted"]


class Counts(eqx.Module):
    """Of each class, what was found, wrongly found, missed and rightly left, float32 [..., K]."""

    tp: jax.Array
    fp: jax.Array
    fn: jax.Array
    tn: jax.Array

    @property
    def covariance(self) -> jax.Array:
        """TP TN − FP FN, which is N TP − (TP + FP) (TP + FN) without its large parts."""
        return self.tp * self.tn - self.fp * self.fn

    def positive(self) -> "Counts":
        """Of the second of two classes, [...]."""
        return jax.tree.map(lambda count: count[..., 1], self)


Ratio = Callable[[Counts], tuple[jax.Array, jax.Array]]
"""From counts to numerator and denominator, of each class or of all."""


def checked(name: str, confusion: Any, num_classes: int | None = None) -> jax.Array:
    """A confusion matrix [..., K, K], int32 or float32.

    Raises:
        ValueError: it is not square, or a count is negative or no number, or there is no example.
    """
    shape = np.shape(confusion)
    if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] < 2 or num_classes not in (None, shape[-1]):
        size = num_classes or "K"
        raise ValueError(
            f"{name}: expected a confusion matrix [..., {size}, {size}], got the shape {shape}. Pass "
            + ("confusion_at_thresholds(...)." if num_classes else "confusion_matrix(probs, labels).")
        )
    largest = 0.0
    if not is_traced(confusion):
        counts = np.asarray(confusion, np.float64)
        if not (np.isfinite(counts).all() and (counts >= 0).all()):
            raise ValueError(f"{name}: expected counts of at least 0, got {counts[~(counts >= 0)][:1]}.")
        totals = counts.sum((-2, -1))
        if not totals.all():
            raise ValueError(f"{name}: there is no example in the confusion matrix{_where(totals == 0)}.")
        largest = totals.max()
    exact = jnp.issubdtype(jnp.result_type(confusion), np.integer) and largest < 2**31
    # A number that 32 bits do not hold must be rounded before jax cuts it off.
    confusion = confusion if exact or is_traced(confusion) else np.asarray(confusion, np.float32)
    return jnp.asarray(confusion).astype(jnp.int32 if exact else jnp.float32)


def divide(
    name: str,
    ratio: Ratio,
    confusion: jax.Array,
    reason: str,
    *,
    average: Average | None = None,
    undefined: float | Literal["skip"] | None = None,
) -> jax.Array:
    """The ratio of each class or of all, or its mean over classes.

    Args:
        name: of the metric, for the messages.
        ratio: a function at the top of a module.
        confusion: as `checked` returns it.
        reason: what is so where the denominator is 0.
        average: over classes, with equal weights, of numerators and denominators, or weighted by the labels' counts.
        undefined: what stands where the denominator is 0; "skip" leaves the class out of the mean.

    Raises:
        ValueError: a denominator is 0, and `undefined` says nothing about it; unknown policies.
    """
    if average not in (None, *get_args(Average)):
        raise ValueError(f'{name}: expected average="macro", "micro", "weighted" or None, got {average!r}.')
    if isinstance(undefined, str) and undefined != "skip":
        raise ValueError(f'{name}: expected undefined=None, a number or "skip", got {undefined!r}.')
    if undefined == "skip" and average not in ("macro", "weighted"):
        raise ValueError(f'{name}: undefined="skip" needs a mean over classes. Pass undefined=jnp.nan.')
    skip = undefined == "skip"
    fill = np.float32(np.nan if undefined is None or skip else undefined)
    found, missing = _divide(ratio, confusion, fill, average, skip)
    if not is_traced(found) and (undefined is None or skip):
        unknown = np.isnan(found)
        if unknown.any():
            options = "" if skip else ', or undefined="skip"' if average in ("macro", "weighted") else ""
            raise ValueError(
                f"{name}: undefined{_where(np.asarray(missing))}, where {reason}. Pass undefined=0.0 for 0 in its "
                f"place{options}."
            )
    return found


@functools.partial(jax.jit, static_argnames=("ratio", "average", "skip"))
def _divide(
    ratio: Ratio, confusion: jax.Array, fill: jax.Array, average: Average | None, skip: bool
) -> tuple[jax.Array, jax.Array]:
    above, below = ratio(counts(confusion))
    if average == "micro":
        above, below = above.sum(-1), below.sum(-1)
    missing = below == 0
    found = jnp.where(missing, fill, above / jnp.where(missing, 1.0, below))
    if average not in ("macro", "weighted"):
        return found, missing
    weights = confusion.sum(-1).astype(jnp.float32) if average == "weighted" else jnp.ones_like(found)
    missing = missing & (weights > 0)
    weights = jnp.where(missing, 0.0, weights) if skip else weights
    total = jnp.sum(jnp.where(weights > 0, weights * found, 0.0), -1)
    return total / weights.sum(-1), missing


def counts(confusion: jax.Array) -> Counts:
    """The counts of each class; whole numbers are subtracted before they are rounded."""
    tp = jnp.diagonal(confusion, axis1=-2, axis2=-1)
    fp, fn = confusion.sum(-2) - tp, confusion.sum(-1) - tp
    tn = confusion.sum((-2, -1))[..., None] - tp - fp - fn
    return Counts(*(count.astype(jnp.float32) for count in (tp, fp, fn, tn)))


def _where(missing: np.ndarray) -> str:
    """The first index at which it is so, in words."""
    index = np.argwhere(missing)[:1].tolist()
    return f" at {index[0]}" if index and index[0] else ""
