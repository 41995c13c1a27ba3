"""The energy score: the CRPS of vectors."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from bdl.metrics._mean import mean
from bdl.metrics._regression_checks import samples


def energy_score(draws: Any, targets: Any, *, fair: bool = True, mask: Any = None, average: bool = True) -> jax.Array:
    """The energy score of samples of vectors (lower is better, in the targets' unit):

        ES = 1/S Σᵢ ‖xᵢ − y‖ − ½ c Σᵢⱼ ‖xᵢ − xⱼ‖,    c = 1/(S (S − 1)) if fair, else 1/S².

    For D = 1 it is `bdl.metrics.crps`. Strictly proper. The norm is Euclidean: bring the D targets to one unit first.
    S² operations for each example, in the memory of S.

    Args:
        draws: samples of the predictive distribution of targets, noise included, [S, ..., D], independent along axis 0.
        targets: [..., D].
        fair: whether to estimate the score of the distribution that the samples come from, without bias; it can then
            fall below 0. Else the score of the samples themselves as a forecast.
        mask: bool [...], True where an example counts.
        average: whether to return the mean over examples; else one number each, 0 where masked.

    Returns:
        A number, or [...], float32.

    Raises:
        ValueError: shapes that do not match, one sample if `fair`, a number that is not finite, or no example.

    Example:
        >>> import jax.numpy as jnp, bdl.metrics
        >>> draws = jnp.array([[[0.0, 0.0]], [[6.0, 8.0]]])
        >>> bdl.metrics.energy_score(draws, jnp.array([[3.0, 4.0]]), fair=False)
        Array(2.5, dtype=float32)

    Reference:
        Gneiting and Raftery (2007), Strictly proper scoring rules, prediction, and estimation,
        https://doi.org/10.1198/016214506000001437
    """
    if jnp.ndim(targets) == 0 or jnp.shape(targets)[-1] == 0:
        raise ValueError("energy_score: expected targets [..., D] with D >= 1. One target each is bdl.metrics.crps.")
    return _energy_score(*samples("energy_score", draws, targets, mask, event_dims=1, least=1 + fair), fair, average)


@functools.partial(jax.jit, static_argnames=("fair", "average"))
def _energy_score(draws: Any, targets: Any, weights: Any, fair: bool, average: bool) -> jax.Array:
    num = len(draws)

    def add(total: jax.Array, draw: jax.Array) -> tuple[jax.Array, None]:
        return total + jnp.sum(_norm(draws - draw[None]), 0), None

    among = jax.lax.scan(add, jnp.zeros(weights.shape, jnp.float32), draws)[0]
    # 1/S Σᵢ ‖xᵢ − y‖ − ½ c Σᵢⱼ ‖xᵢ − xⱼ‖
    scores = jnp.mean(_norm(draws - targets[None]), 0) - 0.5 * among / (num * (num - fair))
    return mean(scores, weights, average)


def _norm(vectors: jax.Array) -> jax.Array:
    """Along the last axis; its gradient at 0, of a sample and itself, is 0."""
    squares = jnp.sum(vectors * vectors, -1)
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)
