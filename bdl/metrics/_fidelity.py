"""How close a prediction is to that of a reference posterior."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdl._data_checks import is_traced
from bdl.metrics._checks import check_finite, check_probs, weigh
from bdl.metrics._mean import mean
from bdl.metrics._ranking import sorted_values


def agreement(probs: Any, reference: Any, *, mask: Any = None, average: bool = True) -> jax.Array:
    """How often both have the same most probable class (higher is better, in [0, 1]).

    Args:
        probs: [..., K], the prediction's. Of equal classes the first is the most probable.
        reference: [..., K], that of a reference posterior.
        mask: bool [...], True where an example counts.
        average: the mean over examples; else of each, [...], 0 where masked.

    Returns:
        A number or [...], float32.

    Raises:
        ValueError: shapes that do not match, rows that are not probabilities, no example.

    Reference:
        Wilson, Izmailov et al. (2022), Evaluating approximate inference in Bayesian deep learning,
        https://proceedings.mlr.press/v176/wilson22a.html

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> bdl.metrics.agreement(jnp.array([[0.6, 0.4], [0.3, 0.7]]), jnp.array([[0.9, 0.1], [0.5, 0.5]]))
        Array(0.5, dtype=float32)
    """
    return _agreement(*_two("agreement", probs, reference, mask), average)


def total_variation(probs: Any, reference: Any, *, mask: Any = None, average: bool = True) -> jax.Array:
    """½ Σₖ |pₖ − qₖ|, the total variation distance of class probabilities (lower is better, in [0, 1]).

    Args:
        probs: [..., K], the prediction's.
        reference: [..., K], that of a reference posterior.
        mask: bool [...], True where an example counts.
        average: the mean over examples; else of each, [...], 0 where masked.

    Returns:
        A number or [...], float32. Under a trace it is NaN where a probability is NaN.

    Raises:
        ValueError: shapes that do not match, rows that are not probabilities, no example.

    Reference:
        Izmailov et al. (2021), What are Bayesian neural network posteriors really like?
        https://arxiv.org/abs/2104.14421

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> bdl.metrics.total_variation(jnp.array([[0.5, 0.5], [0.25, 0.75]]), jnp.array([[1.0, 0.0], [0.5, 0.5]]))
        Array(0.375, dtype=float32)
    """
    return _total_variation(*_two("total_variation", probs, reference, mask), average)


def wasserstein_1(samples: Any, reference: Any, *, mask: Any = None, average: bool = True) -> jax.Array:
    """∫₀¹ |F⁻¹(u) − G⁻¹(u)| du, the W₁ distance of two sets of samples (lower is better, in the samples' unit).

    It is taken of each target by itself, exactly, and the mean is over targets. That of samples of one distribution is
    not 0 but of the order of its standard deviation over √S.

    Args:
        samples: [S, ...], of the prediction.
        reference: [R, ...], of a reference posterior, R and S may differ.
        mask: bool [...], True where a target counts.
        average: the mean over targets; else of each, [...], 0 where masked.

    Returns:
        A number or [...], float32. Under a trace it is NaN where a sample is NaN.

    Raises:
        ValueError: shapes that do not match, samples that are not finite, no sample, no target.

    Reference:
        Wilson, Izmailov et al. (2022), https://proceedings.mlr.press/v176/wilson22a.html, whose score of regressions it
        is, with its sign turned.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> bdl.metrics.wasserstein_1(jnp.array([0.0, 1.0, 2.0]), jnp.array([5.0, 4.0]))
        Array(3.5, dtype=float32)
    """
    return _wasserstein(*_samples("wasserstein_1", samples, reference, mask), 1, average)


def wasserstein_2(samples: Any, reference: Any, *, mask: Any = None, average: bool = True) -> jax.Array:
    """(∫₀¹ (F⁻¹(u) − G⁻¹(u))² du)^½, the W₂ distance of two sets of samples (lower is better, in the samples' unit).

    Each target has its root before the mean is taken. Arguments and errors are those of `wasserstein_1`.

    Reference:
        Villani (2009), Optimal transport: old and new, https://doi.org/10.1007/978-3-540-71050-9

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> round(float(bdl.metrics.wasserstein_2(jnp.array([0.0, 1.0]), jnp.array([4.0, 6.0]))), 4)
        4.5277
    """
    return _wasserstein(*_samples("wasserstein_2", samples, reference, mask), 2, average)


def _two(name: str, probs: Any, reference: Any, mask: Any) -> tuple[jax.Array, ...]:
    shape = np.shape(probs)
    if np.shape(reference) != shape or len(shape) < 1 or shape[-1] < 2:
        raise ValueError(
            f"{name}: expected two arrays of probabilities [..., K], K >= 2, of one shape, got {shape} and "
            f"{np.shape(reference)}."
        )
    weights = weigh(name, mask, shape[:-1])
    if not is_traced((probs, reference, mask)):
        for array in (probs, reference):
            check_probs(name, np.asarray(array, np.float32)[... if mask is None else np.asarray(mask)])
    return jnp.asarray(probs).astype(jnp.float32), jnp.asarray(reference).astype(jnp.float32), weights


def _samples(name: str, samples: Any, reference: Any, mask: Any) -> tuple[jax.Array, ...]:
    shapes = np.shape(samples), np.shape(reference)
    if any(len(shape) < 1 for shape in shapes) or shapes[0][1:] != shapes[1][1:] or 0 in (shapes[0][0], shapes[1][0]):
        raise ValueError(
            f"{name}: expected samples [S, ...] and [R, ...] of the same targets, got the shapes {shapes[0]} and "
            f"{shapes[1]}. The samples are along axis 0."
        )
    weights = weigh(name, mask, shapes[0][1:])
    if not is_traced((samples, reference, mask)):
        kept = ... if mask is None else (slice(None), np.asarray(mask))
        for called, array in (("samples", samples), ("reference", reference)):
            check_finite(name, called, np.asarray(array, np.float32)[kept])
    return jnp.asarray(samples).astype(jnp.float32), jnp.asarray(reference).astype(jnp.float32), weights


@functools.partial(jax.jit, static_argnames="average")
def _agreement(probs: jax.Array, reference: jax.Array, weights: jax.Array, average: bool) -> jax.Array:
    same = (jnp.argmax(probs, -1) == jnp.argmax(reference, -1)).astype(jnp.float32)
    return mean(same, weights, average)


@functools.partial(jax.jit, static_argnames="average")
def _total_variation(probs: jax.Array, reference: jax.Array, weights: jax.Array, average: bool) -> jax.Array:
    return mean(0.5 * jnp.sum(jnp.abs(probs - reference), -1), weights, average)


@functools.partial(jax.jit, static_argnames=("power", "average"))
def _wasserstein(samples: jax.Array, reference: jax.Array, weights: jax.Array, power: int, average: bool) -> jax.Array:
    lengths, of_samples, of_reference = _pieces(len(samples), len(reference))
    quantiles = [sorted_values(jnp.moveaxis(array, 0, -1)) for array in (samples, reference)]
    apart = jnp.abs(quantiles[0][..., of_samples] - quantiles[1][..., of_reference])
    # Scaled by the largest, so that squares of small distances do not vanish and those of large ones are finite.
    scale = jnp.maximum(jnp.max(apart, -1), jnp.finfo(jnp.float32).tiny)
    parts = (apart / scale[..., None]) ** power
    return mean(scale * jnp.matmul(parts, lengths, precision="highest") ** (1 / power), weights, average)


def _pieces(size: int, other: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pieces of [0, 1] on which both quantile functions are constant: lengths, and the index of each function."""
    total = math.lcm(size, other)
    ends = np.union1d(np.arange(1, size + 1) * (total // size), np.arange(1, other + 1) * (total // other))
    lengths = np.diff(ends, prepend=0) / total
    return lengths.astype(np.float32), (ends - 1) // (total // size), (ends - 1) // (total // other)
