"""Pareto-smoothed importance sampling, and its diagnostic k̂."""

import functools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from bdl.diagnostics import _checks

# The smallest tail to which a generalised Pareto distribution is fitted.
_LEAST_TAIL = 5
# Log ratios that differ by less are equal: what rounding leaves of a posterior that is exact.
_SAME = 1e-4
# Columns at once: the fit of one holds (30 + √M) M numbers for a tail of M.
_COLUMNS = 256


class Psis(eqx.Module):
    """Smoothed importance weights.

    Attributes:
        log_weights: normalised, so that their exponentials sum to 1 over axis 0; of the ratios' shape [S, ...].
        k_hat: the shape k̂ of the tail of the ratios, [...] (lower is better, without unit).
        threshold: the k̂ up to which S draws will do, min(1 − 1 / log₁₀ S, 0.7).
    """

    log_weights: jax.Array
    k_hat: jax.Array
    threshold: float = eqx.field(static=True)


def psis(log_ratios: Any, *, relative_efficiency: float = 1.0) -> Psis:
    """Smooth the largest importance ratios, and tell from their tail whether importance sampling works at all.

    A generalised Pareto distribution of shape k is fitted to the M = ⌈min(S / 5, 3 √S)⌉ largest ratios, which are
    replaced by its quantiles (i − ½) / M, and cut at the largest raw one. Moments of the ratios exist up to order
    1 / k: for k̂ < 0.5 their variance is finite, up to 0.7 the estimates are usable, above it they are not to be
    trusted, however stable they look; from 1 on there is not even a mean. With log p(y, w) − log q(w) as ratios
    (`bdl.diagnostics.evidence`) k̂ judges the posterior q itself.

    Args:
        log_ratios: [S, ...], S ≥ 21 draws along axis 0; each column by itself, and up to a constant.
        relative_efficiency: the effective number of draws over S, for draws of a Markov chain.

    Returns:
        `Psis(log_weights, k_hat, threshold)`. Where the log ratios of a tail are the same to 1e-4 there is nothing to
        smooth, and k̂ = −∞. Where a quarter of it ties with the ratio before it, or is 87 nats and more below the
        largest, there is no fit: the weights stay raw, and k̂ = ∞.

    Raises:
        ValueError: fewer than 21 draws, or ratios that are not finite.

    Reference:
        Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling,
        https://arxiv.org/abs/1507.02646; Yao, Vehtari, Simpson and Gelman (2018), Yes, but did it work? Evaluating
        variational inference, https://arxiv.org/abs/1802.02538

    Example:
        >>> import jax, bdl.diagnostics
        >>> z = jax.random.normal(jax.random.key(0), (2_000,))
        >>> narrow, wide = -0.25 * z**2, 0.375 * z**2  # to a Normal of half the variance, and of four times
        >>> bool(bdl.diagnostics.psis(narrow).k_hat < 0.5), bool(bdl.diagnostics.psis(wide).k_hat > 0.5)
        (True, True)
    """
    ratios = _checks.array(
        "psis", "log_ratios", log_ratios, tuple(range(1, 9)), "draws along axis 0 (jnp.stack of those of each draw)"
    )
    tail = tail_length("psis", ratios.shape[0], relative_efficiency)
    log_weights, k_hat = smooth(ratios.reshape(ratios.shape[0], -1), tail)
    return Psis(log_weights.reshape(ratios.shape), k_hat.reshape(ratios.shape[1:]), threshold(ratios.shape[0]))


def tail_length(name: str, num_samples: int, relative_efficiency: float) -> int:
    """M, how many of the ratios are the tail.

    Raises:
        ValueError: there are too few draws, or the efficiency is not positive.
    """
    if not relative_efficiency > 0:
        raise ValueError(
            f"{name}: expected relative_efficiency above 0, 1 for independent draws; got {relative_efficiency}."
        )
    # M = ⌈min(S / 5, 3 √(S / efficiency))⌉
    tail = math.ceil(min(num_samples / 5, 3 * math.sqrt(num_samples / relative_efficiency)))
    if tail < _LEAST_TAIL:
        raise ValueError(
            f"{name}: {num_samples} draws have a tail of {tail}, too few to fit a distribution to. Take 21 draws at "
            "the very least; 1,000 are usual (num_samples=1_000)."
        )
    return tail


def threshold(num_samples: int) -> float:
    """The k̂ up to which so many draws will do."""
    return min(1 - 1 / math.log10(num_samples), 0.7)


@functools.partial(jax.jit, static_argnames="tail")
def smooth(log_ratios: jax.Array, tail: int) -> tuple[jax.Array, jax.Array]:
    """Normalised log weights [S, N] and k̂ [N] of log ratios [S, N]."""
    one = functools.partial(_smooth_one, tail=tail)
    if log_ratios.shape[1] <= _COLUMNS:
        return jax.vmap(one, in_axes=1, out_axes=(1, 0))(log_ratios)
    log_weights, k_hat = jax.lax.map(one, log_ratios.T, batch_size=_COLUMNS)
    return log_weights.T, k_hat


def _smooth_one(log_ratios: jax.Array, tail: int) -> tuple[jax.Array, jax.Array]:
    x = log_ratios - log_ratios.max()
    largest, order = jax.lax.top_k(x, tail + 1)
    top, cut, order = largest[-2::-1], largest[-1], order[-2::-1]  # ascending
    # exp(top) − exp(cut), which cancels where the ratios are nearly equal.
    excess = -jnp.exp(top) * jnp.expm1(cut - top)
    k, scale = _fit(excess)
    # The quantile at u: scale ((1 − u)⁻ᵏ − 1) / k.
    log_survival = jnp.log1p(-(jnp.arange(tail, dtype=jnp.float32) + 0.5) / tail)
    quantiles = scale * jnp.where(k == 0, -log_survival, jnp.expm1(-k * log_survival) / jnp.where(k == 0, 1.0, k))
    fitted = jnp.minimum(jnp.log(quantiles + jnp.exp(cut)), 0.0)
    same = top[-1] - cut <= _SAME
    found = (excess[_quartile(tail)] > 0) & ~same
    x = x.at[order].set(jnp.where(found & jnp.isfinite(fitted), fitted, top))
    k_hat = jnp.where(same, -jnp.inf, jnp.where(found, k, jnp.inf))
    # A NaN among the ratios is to be seen.
    return x - jax.nn.logsumexp(x), jnp.where(jnp.isnan(log_ratios).any(), jnp.nan, k_hat)


def _quartile(count: int) -> int:
    return int(count / 4 + 0.5) - 1


def _fit(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Shape and scale of a generalised Pareto distribution, by the empirical Bayes of Zhang and Stephens (2009).

    Args:
        x: what exceeds the cut, in ascending order.
    """
    count = x.shape[0]
    unit = x[-1]
    x = x / unit
    grid = 30 + math.isqrt(count)
    # bⱼ = 1 / x₍M₎ + (1 − √(m / (j − ½))) / (3 x₍M/4₎),   k(b) = mean log(1 − b x)
    steps = 1 - jnp.sqrt(grid / (jnp.arange(grid, dtype=jnp.float32) + 0.5))
    b = _not_zero(1 + steps / (3 * x[_quartile(count)]))
    k = jax.vmap(lambda b: jnp.log1p(-b * x).mean())(b)
    # The profile log-likelihood M (log(−b / k) − k − 1) weighs the grid.
    weights = jax.nn.softmax(count * (jnp.log(-b / k) - k - 1))
    b = _not_zero((weights * b).sum())
    k = jnp.log1p(-b * x).mean()
    scale = -k / b
    # Ten observations' worth of a prior at ½.
    return (count * k + 5) / (count + 10), scale * unit


def _not_zero(b: jax.Array) -> jax.Array:
    # At b = 0 both b and k(b) vanish, their ratio does not.
    return jnp.where(b == 0, jnp.finfo(jnp.float32).eps, b)
