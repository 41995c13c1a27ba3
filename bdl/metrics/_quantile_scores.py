"""Scores of quantiles, and of intervals between two of them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdl.metrics._checks import values
from bdl.metrics._mean import mean
from bdl.metrics._regression_checks import check_level, interval


def pinball(quantile: Any, targets: Any, level: Any, *, mask: Any = None, average: bool = True) -> jax.Array:
    """The pinball loss of a predicted quantile (lower is better, in the targets' unit):

        max(level (y − q), (level − 1) (y − q)).

    Consistent for the quantile at `level`: on average the true one scores best. Half the absolute error at 0.5. Twice
    its mean over all levels is the CRPS. Means over batches combine, weighted by their counts.

    Args:
        quantile: [...], or one number for all.
        targets: [...].
        level: the quantile's, between 0 and 1: one number. `jax.vmap` takes several.
        mask: bool [...], True where a target counts.
        average: whether to return the mean over targets; else one number each, 0 where masked.

    Returns:
        A number, or [...], float32.

    Raises:
        ValueError: shapes that do not match, a level outside (0, 1), a number that is not finite, or no target.

    Example:
        >>> import jax.numpy as jnp, bdl.metrics
        >>> bdl.metrics.pinball(jnp.zeros(2), jnp.array([-1.0, 1.0]), 0.75, average=False)
        Array([0.25, 0.75], dtype=float32)

    Reference:
        Koenker and Bassett (1978), Regression quantiles, https://doi.org/10.2307/1913643
    """
    _check_one_level("pinball", level)
    found = values("pinball", quantile, targets, mask=mask, names=("quantile", "targets"))
    return _pinball(*found, jnp.asarray(level, jnp.float32), average)


def interval_score(
    lower: Any, upper: Any, targets: Any, *, level: Any = 0.95, mask: Any = None, average: bool = True
) -> jax.Array:
    """The interval score of Winkler (lower is better, in the targets' unit), for α = 1 − level:

        (upper − lower) + 2/α max(lower − y, 0) + 2/α max(y − upper, 0).

    Its width, and what it missed by. Consistent for the quantiles at α/2 and 1 − α/2. Means over batches combine,
    weighted by their counts.

    Args:
        lower: [...], or one number for all.
        upper: likewise, not below `lower`.
        targets: [...].
        level: the probability that the interval is to hold, between 0 and 1.
        mask: bool [...], True where a target counts.
        average: whether to return the mean over targets; else one number each, 0 where masked.

    Returns:
        A number, or [...], float32.

    Raises:
        ValueError: shapes that do not match, lower above upper, a level outside (0, 1), a number that is not finite, or
            no target.

    Example:
        >>> import jax.numpy as jnp, bdl.metrics
        >>> bdl.metrics.interval_score(-1.0, 1.0, jnp.array([0.0, 1.5]), level=0.5, average=False)
        Array([2., 4.], dtype=float32)

    Reference:
        Winkler (1972), A decision-theoretic approach to interval estimation, https://doi.org/10.2307/2284720;
        Gneiting and Raftery (2007), https://doi.org/10.1198/016214506000001437
    """
    _check_one_level("interval_score", level)
    found = interval("interval_score", lower, upper, targets, mask=mask)
    return _interval_score(*found, jnp.asarray(level, jnp.float32), average)


def _check_one_level(name: str, level: Any) -> None:
    if np.shape(level) != ():
        raise ValueError(f"{name}: expected one level, got shape {np.shape(level)}. Several are for jax.vmap.")
    check_level(name, level)


@functools.partial(jax.jit, static_argnames="average")
def _pinball(quantile: Any, targets: Any, weights: Any, level: Any, average: bool) -> jax.Array:
    above = targets - quantile
    return mean(jnp.maximum(level * above, (level - 1) * above), weights, average)


@functools.partial(jax.jit, static_argnames="average")
def _interval_score(lower: Any, upper: Any, targets: Any, weights: Any, level: Any, average: bool) -> jax.Array:
    missed = jnp.maximum(lower - targets, 0) + jnp.maximum(targets - upper, 0)
    # (u − l) + 2/α (l − y)₊ + 2/α (y − u)₊
    return mean(upper - lower + 2 / (1 - level) * missed, weights, average)
