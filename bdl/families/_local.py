"""Local rules that several families share."""

from typing import Any

import jax
import jax.numpy as jnp

from bdl import _random


def variance_of(x: jax.Array, linear: Any, variance: jax.Array) -> jax.Array:
    """The variance x² variance of each result, [B, P', O], in float32; `variance` is that of each weight."""
    return linear(x * x, variance.astype(x.dtype)).astype(jnp.float32)


def unit_noise(key: jax.Array, linear: Any, examples: int, shape: tuple[int, ...]) -> jax.Array:
    """One ε for each example and output unit of an array of `shape`, [B, 1, O]."""
    return linear.outputs(_random.normal(key, (examples, *linear.use.out_shape(shape))))


def with_noise(mean: jax.Array, variance: jax.Array, noise: jax.Array) -> jax.Array:
    """Mean + √variance ε, of the mean's type."""
    # The floor keeps the gradient of the root finite where an example's inputs are all zero.
    return mean + (jnp.sqrt(variance + 1e-12) * noise).astype(mean.dtype)


def reparameterised(key: jax.Array, x: jax.Array, linear: Any, variance: jax.Array) -> jax.Array:
    """The noise of the local reparameterisation, √(x² variance) ε, in float32.

    Args:
        key: one random key; it is consumed.
        x: inputs [B, P, I].
        linear: the linear operation; see `bdl.noise.Linear`.
        variance: of each weight, of the array's shape.

    Returns:
        [B, P', O], with one ε for each example and output unit.
    """
    squares = variance_of(x, linear, variance)
    if linear.lookup:  # other rows are independent
        noise = _random.normal(key, squares.shape)
    elif linear.transposed:
        noise = _random.normal(key, (squares.shape[0], 1, squares.shape[2]))
    else:
        noise = unit_noise(key, linear, x.shape[0], variance.shape)
    return with_noise(jnp.zeros((), jnp.float32), squares, noise)


def flipped(key: jax.Array, x: jax.Array, linear: Any, perturbation: jax.Array) -> jax.Array:
    """`linear(x, s ∘ perturbation ∘ r)` with random signs s of the rows and r of the outputs for each example.

    Args:
        key: one random key; it is consumed.
        x: inputs [B, P, I].
        linear: the linear operation; see `bdl.noise.Linear`.
        perturbation: of the array's shape, shared by the examples.
    """
    shape, key_rows, key_units = perturbation.shape, *jax.random.split(key)
    rows = _signs(key_rows, (x.shape[0], *linear.use.row_shape(shape)), x.dtype)
    units = _signs(key_units, (x.shape[0], *linear.use.out_shape(shape)), x.dtype)
    into, out = (units, rows) if linear.transposed else (rows, units)
    return linear(x * linear.inputs(into), perturbation.astype(x.dtype)) * linear.outputs(out)


def _signs(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    positive, _ = _random.bernoulli(key, 0.5, shape)
    return jnp.where(positive, 1, -1).astype(dtype)
