"""Errors of point predictions."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from bdl.metrics._checks import values
from bdl.metrics._mean import mean

_NAMES = ("predictions", "targets")


def rmse(predictions: Any, targets: Any, *, mask: Any = None) -> jax.Array:
    """The root of the mean squared error (lower is better, in the targets' unit):

        √(1/N Σₙ (predictionsₙ − yₙ)²).

    Consistent for the mean. Its square is a mean, and combines over batches weighted by their counts; it does not.

    Args:
        predictions: [...], or one number for all.
        targets: [...]; all elements of all axes count alike.
        mask: bool [...], True where a target counts.

    Returns:
        A number, float32.

    Raises:
        ValueError: shapes that do not match, a number that is not finite, or no target.

    Example:
        >>> import jax.numpy as jnp, bdl.metrics
        >>> bdl.metrics.rmse(jnp.array([0.0, 2.0]), jnp.array([1.0, 9.0]))
        Array(5., dtype=float32)
    """
    return _rmse(*values("rmse", predictions, targets, mask=mask, names=_NAMES))


def mae(predictions: Any, targets: Any, *, mask: Any = None, average: bool = True) -> jax.Array:
    """The mean absolute error (lower is better, in the targets' unit):

        1/N Σₙ |predictionsₙ − yₙ|.

    Consistent for the median. Means over batches combine, weighted by their counts.

    Args:
        predictions: [...], or one number for all.
        targets: [...]; all elements of all axes count alike.
        mask: bool [...], True where a target counts.
        average: whether to return the mean over targets; else one number each, 0 where masked.

    Returns:
        A number, or [...], float32.

    Raises:
        ValueError: shapes that do not match, a number that is not finite, or no target.

    Example:
        >>> import jax.numpy as jnp, bdl.metrics
        >>> bdl.metrics.mae(jnp.array([0.0, 2.0]), jnp.array([1.0, 9.0]))
        Array(4., dtype=float32)
    """
    return _mae(*values("mae", predictions, targets, mask=mask, names=_NAMES), average)


@jax.jit
def _rmse(predictions: Any, targets: Any, weights: Any) -> jax.Array:
    return jnp.sqrt(mean((predictions - targets) ** 2, weights))


@functools.partial(jax.jit, static_argnames="average")
def _mae(predictions: Any, targets: Any, weights: Any, average: bool) -> jax.Array:
    return mean(jnp.abs(predictions - targets), weights, average)
