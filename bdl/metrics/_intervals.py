"""Whether intervals hold what they say, and how wide they are."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from bdl.metrics._checks import values
from bdl.metrics._mean import mean
from bdl.metrics._regression_checks import check_positive, interval


def coverage(lower: Any, upper: Any, targets: Any, *, mask: Any = None, average: bool = True) -> jax.Array:
    """The share of targets in their intervals, [lower ≤ y ≤ upper] (a share from 0 to 1, best at the intervals' level).

    Of N independent targets and a right level p its standard error is √(p (1 − p) / N). Read it beside the width: an
    interval without end covers everything. Means over batches combine, weighted by their counts.

    Args:
        lower: [...], or one number for all.
        upper: likewise, not below `lower`.
        targets: [...].
        mask: bool [...], True where a target counts.
        average: whether to return the share; else 0 or 1 for each target, 0 where masked.

    Returns:
        A number, or [...], float32.

    Raises:
        ValueError: shapes that do not match, lower above upper, a number that is not finite, or no target.

    Example:
        >>> import jax.numpy as jnp, bdl.metrics
        >>> bdl.metrics.coverage(-1.0, 1.0, jnp.array([0.0, 1.0, 1.5, -3.0]))
        Array(0.5, dtype=float32)
    """
    return _coverage(*interval("coverage", lower, upper, targets, mask=mask), average)


def interval_width(lower: Any, upper: Any, *, mask: Any = None, average: bool = True) -> jax.Array:
    """The width of intervals, upper − lower (lower is better at equal coverage, in the targets' unit).

    Means over batches combine, weighted by their counts.

    Args:
        lower: [...], or one number for all.
        upper: [...], not below `lower`.
        mask: bool [...], True where an interval counts.
        average: whether to return the mean over intervals; else one number each, 0 where masked.

    Returns:
        A number, or [...], float32.

    Raises:
        ValueError: shapes that do not match, lower above upper, a number that is not finite, or no interval.

    Example:
        >>> import jax.numpy as jnp, bdl.metrics
        >>> bdl.metrics.interval_width(jnp.array([-1.0, 0.0]), jnp.array([1.0, 4.0]))
        Array(3., dtype=float32)
    """
    return _interval_width(*interval("interval_width", lower, upper, mask=mask), average)


def sharpness(scale: Any, *, mask: Any = None) -> jax.Array:
    """The root of the mean predicted variance (lower is better among calibrated predictions, in the targets' unit):

        √(1/N Σₙ scaleₙ²).

    Its square, the mean variance, is the sharpness of Kuleshov et al.; that is a mean, which combines over batches.

    Args:
        scale: standard deviations, [...], above 0.
        mask: bool [...], True where a prediction counts.

    Returns:
        A number, float32.

    Raises:
        ValueError: a scale that is not positive or not finite, or no prediction.

    Example:
        >>> import jax.numpy as jnp, bdl.metrics
        >>> bdl.metrics.sharpness(jnp.array([1.0, 7.0]))
        Array(5., dtype=float32)

    Reference:
        Kuleshov, Fenner and Ermon (2018), Accurate uncertainties for deep learning using calibrated regression,
        https://arxiv.org/abs/1807.00263
    """
    scales, weights = values("sharpness", scale, mask=mask, names=("scale",))
    check_positive("sharpness", "scale", scale, scales.shape, mask)
    return _sharpness(scales, weights)


@functools.partial(jax.jit, static_argnames="average")
def _coverage(lower: Any, upper: Any, targets: Any, weights: Any, average: bool) -> jax.Array:
    return mean(((lower <= targets) & (targets <= upper)).astype(jnp.float32), weights, average)


@functools.partial(jax.jit, static_argnames="average")
def _interval_width(lower: Any, upper: Any, weights: Any, average: bool) -> jax.Array:
    return mean(upper - lower, weights, average)


@jax.jit
def _sharpness(scale: Any, weights: Any) -> jax.Array:
    return jnp.sqrt(mean(scale * scale, weights))
