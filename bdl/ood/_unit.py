"""Vectors of length one."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def unit(vectors: jax.Array, axes: Sequence[int] = (-1,)) -> jax.Array:
    """Vectors divided by their lengths over `axes`, x / ‖x‖; one of zeros stays as it is, with a gradient of 0."""
    axes = tuple(axes)
    # The largest is divided out first, so that no square overflows or vanishes.
    largest = jax.lax.stop_gradient(jnp.abs(vectors).max(axes, keepdims=True))
    scaled = vectors / jnp.where(largest > 0, largest, 1.0)
    square = (scaled**2).sum(axes, keepdims=True)
    return scaled * jnp.where(square > 0, jax.lax.rsqrt(jnp.where(square > 0, square, 1.0)), 0.0)
