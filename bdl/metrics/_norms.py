"""From sums over bins to calibration errors in three norms, without bias, and to what noise alone makes of them."""

import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.scipy.special import erf

Norm = Literal["l1", "l2", "max"]

_POINTS = 1025  # of the quadrature of an expected maximum
_FURTHEST = 8.0  # standard deviations; of a million Normals the largest is beyond with a probability of 1e-9


def check_norm(name: str, norm: str, debias: bool = False) -> None:
    """Whether there is such a norm, and a form of it without bias."""
    if norm not in ("l1", "l2", "max"):
        raise ValueError(f"{name}: expected `norm` to be 'l1', 'l2' or 'max', got {norm!r}.")
    if debias and norm == "max":
        raise ValueError(
            f"{name}: a maximum has no debiased form; pass debias=False, and read it beside its noise floor."
        )


def distance(mean: jax.Array, scale: jax.Array) -> jax.Array:
    """E|Normal(mean, scale²)| = scale √(2/π) exp(−½ z²) + mean erf(z/√2), for z = mean / scale; |mean| at scale 0."""
    z = mean / jnp.where(scale > 0, scale, 1.0)
    spread = scale * (math.sqrt(2 / math.pi) * jnp.exp(-0.5 * z * z)) + mean * erf(z * math.sqrt(0.5))
    return jnp.where(scale > 0, spread, jnp.abs(mean))


@functools.partial(jax.jit, static_argnames="norm")
def root(value: jax.Array, norm: Norm) -> jax.Array:
    """Back in the unit of a probability: the root of what is a square, 0 where that is estimated to be below 0."""
    return jnp.sqrt(jnp.maximum(value, 0)) if norm == "l2" else value


def over_classes(value: jax.Array, norm: Norm) -> jax.Array:
    """Of all classes alike: the mean, of squares for ℓ2, or the maximum."""
    return root(value.max() if norm == "max" else value.mean(), norm)


@functools.partial(jax.jit, static_argnames=("norm", "debias"))
def power(count: Any, correct: Any, total: Any, norm: Norm, debias: bool) -> jax.Array:
    """The ℓ1 error, the square of the ℓ2 error, or the maximum, from sums over bins along the last axis."""
    n = jnp.maximum(count, 1).astype(jnp.float32)
    gap, accuracy = (correct.astype(jnp.float32) - total) / n, correct.astype(jnp.float32) / n
    if norm == "max":
        return jnp.abs(gap).max(-1)
    if norm == "l2":
        # Σ_b n_b/N (gap² − a (1 − a) / (n − 1)), the bin's accuracy being a; bins of one example count 0
        noise = accuracy * (1 - accuracy) / jnp.maximum(n - 1, 1)
        terms = jnp.where(n > 1, gap * gap - noise, 0.0) if debias else gap * gap
    else:
        # |gap| − (E|Normal(gap, a (1 − a) / n)| − |gap|)
        noise = jnp.sqrt(accuracy * (1 - accuracy) / n)
        terms = 2 * jnp.abs(gap) - distance(gap, noise) if debias else jnp.abs(gap)
    return jnp.sum(_shares(count) * terms, -1)


@functools.partial(jax.jit, static_argnames="norm")
def floor(count: Any, spread: Any, norm: Norm) -> jax.Array:
    """What `power` is expected to be where each gap is Normal(0, Σ p (1 − p) / n²)."""
    scale = jnp.sqrt(spread) / jnp.maximum(count, 1).astype(jnp.float32)
    if norm == "max":
        return _expected_maximum(scale)
    return jnp.sum(_shares(count) * (scale * scale if norm == "l2" else scale * math.sqrt(2 / math.pi)), -1)


def _shares(count: jax.Array) -> jax.Array:
    whole = jnp.sum(count, -1, keepdims=True)
    return count.astype(jnp.float32) / whole.astype(jnp.float32)


def _expected_maximum(scale: jax.Array) -> jax.Array:
    """E max_b |Normal(0, scale_b²)| = ∫₀^∞ (1 − Π_b erf(t / (scale_b √2))) dt, of independent ones."""
    largest = scale.max(-1)
    ratio = scale / jnp.where(largest > 0, largest, 1.0)[..., None]
    t = jnp.linspace(0.0, _FURTHEST, _POINTS, dtype=jnp.float32).reshape(-1, *[1] * scale.ndim)
    deviations = t / jnp.where(ratio > 0, ratio, 1.0)[None]
    below = jnp.where((ratio > 0)[None], erf(deviations * math.sqrt(0.5)), 1.0).prod(-1)
    return largest * jnp.trapezoid(1 - below, dx=_FURTHEST / (_POINTS - 1), axis=0)
