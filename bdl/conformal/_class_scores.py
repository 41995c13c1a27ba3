"""Scores of classes: how badly each of them fits a prediction (higher is worse)."""

from typing import Any

import jax
import jax.numpy as jnp

from bdl._data_checks import is_traced
from bdl._keys import check_key
from bdl.metrics._checks import new_probs


def lac_score(probs: Any) -> jax.Array:
    """The score of LAC for each class: 1 − p.

    Args:
        probs: [..., K].

    Returns:
        [..., K], float32.

    Raises:
        ValueError: these are no probabilities.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> bdl.conformal.lac_score(jnp.array([0.75, 0.25]))
        Array([0.25, 0.75], dtype=float32)

    Reference:
        Sadinle et al. (2019), Least ambiguous set-valued classifiers with bounded error levels,
        https://arxiv.org/abs/1609.00451
    """
    return 1 - new_probs("lac_score", probs)


def aps_score(key: Any, probs: Any) -> jax.Array:
    """The score of APS for each class: the probability of all more probable classes, and a random part of its own.

        s(k) = Σ_{j before k} p_j + u p_k, u ~ Uniform(0, 1) for each example,

    classes in the order of falling probability, of equal ones in that of their numbers.

    Args:
        key: one random key; `None` for u = 1, without randomness.
        probs: [..., K].

    Returns:
        [..., K], float32.

    Raises:
        ValueError: these are no probabilities.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> bdl.conformal.aps_score(None, jnp.array([0.25, 0.5, 0.125, 0.125]))
        Array([0.75 , 0.5  , 0.875, 1.   ], dtype=float32)

    Reference:
        Romano et al. (2020), Classification with valid and adaptive coverage, https://arxiv.org/abs/2006.02544
    """
    return raps_score(key, probs, penalty=0.0)


def raps_score(key: Any, probs: Any, *, penalty: Any = 0.01, free_classes: Any = 1) -> jax.Array:
    """The score of RAPS for each class: that of APS, and a penalty for each class beyond the first few.

        s(k) = Σ_{j before k} p_j + u p_k + λ max(0, rank(k) − k₀)

    Args:
        key: one random key; `None` for u = 1, without randomness.
        probs: [..., K].
        penalty: λ ≥ 0.
        free_classes: k₀ ≥ 0.

    Returns:
        [..., K], float32.

    Raises:
        ValueError: these are no probabilities, or a number is negative.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> bdl.conformal.raps_score(None, jnp.array([0.25, 0.5, 0.25]), penalty=0.25, free_classes=1)
        Array([1. , 0.5, 1.5], dtype=float32)

    Reference:
        Angelopoulos et al. (2021), Uncertainty sets for image classifiers using conformal prediction,
        https://arxiv.org/abs/2009.14193
    """
    check_penalty("raps_score", penalty, free_classes)
    probs = new_probs("raps_score", probs)
    if key is None:
        return _cumulated(probs, jnp.ones((*probs.shape[:-1], 1)), penalty, free_classes)
    return _random(check_key(key), probs, penalty, free_classes)


def check_penalty(name: str, penalty: Any, free_classes: Any) -> None:
    """Whether both are 0 or more."""
    if not is_traced((penalty, free_classes)) and not (penalty >= 0 and free_classes >= 0):
        raise ValueError(f"{name}: expected penalty and free_classes of 0 or more, got {penalty} and {free_classes}.")


@jax.jit
def _random(key: jax.Array, probs: jax.Array, penalty: float, free_classes: int) -> jax.Array:
    return _cumulated(probs, jax.random.uniform(key, (*probs.shape[:-1], 1)), penalty, free_classes)


@jax.jit
def _cumulated(probs: jax.Array, u: jax.Array, penalty: Any, free_classes: Any) -> jax.Array:
    order = jnp.argsort(-probs, -1, stable=True)
    rank = jnp.argsort(order, -1)  # 0 for the most probable class
    ordered = jnp.take_along_axis(probs, order, -1)
    before = jnp.take_along_axis(jnp.cumsum(ordered, -1) - ordered, rank, -1)
    beyond = jnp.maximum(rank + 1 - jnp.asarray(free_classes, rank.dtype), 0).astype(jnp.float32)
    return before + jnp.broadcast_to(u, probs.shape) * probs + jnp.float32(penalty) * beyond
