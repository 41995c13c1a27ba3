"""Means over the examples that count."""

import jax
import jax.numpy as jnp


def mean(scores: jax.Array, weights: jax.Array, average: bool = True) -> jax.Array:
    """The weighted mean of scores of any shape; the scores themselves, 0 where they do not count, unless `average`."""
    scores = jnp.where(weights > 0, scores, 0.0)
    return jnp.sum(scores * weights) / jnp.sum(weights) if average else scores
