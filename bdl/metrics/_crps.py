"""The continuous ranked probability score: of a Normal, of a mixture of Normals, of samples."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr

from bdl._data_checks import is_traced
from bdl.metrics._mean import mean as mean_of
from bdl.metrics._regression_checks import check_positive, normal, samples

_TOLERANCE = 1e-3  # of the sum of weights


def crps_normal(mean: Any, scale: Any, targets: Any, *, mask: Any = None, average: bool = True) -> jax.Array:
    """The CRPS of a Normal (lower is better, in the targets' unit), for z = (y − mean) / scale:

        CRPS = ∫ (F(x) − [y ≤ x])² dx = scale (z (2 Φ(z) − 1) + 2 φ(z) − 1/√π).

    Strictly proper. Of a prediction without spread it is the absolute error. Means over batches combine, weighted by
    their counts.

    Args:
        mean: [...], or one number for all.
        scale: the standard deviation, likewise, above 0.
        targets: [...].
        mask: bool [...], True where a target counts.
        average: whether to return the mean over targets; else one number each, 0 where masked.

    Returns:
        A number, or [...], float32.

    Raises:
        ValueError: shapes that do not match, a scale that is not positive, a number that is not finite, or no target.

    Example:
        >>> import jax.numpy as jnp, bdl.metrics
        >>> print(f"{bdl.metrics.crps_normal(0.0, 1.0, jnp.array([2.0])):.4f}")
        1.4528

    Reference:
        Gneiting and Raftery (2007), Strictly proper scoring rules, prediction, and estimation,
        https://doi.org/10.1198/016214506000001437
    """
    return _crps_normal(*normal("crps_normal", mean, scale, targets, mask), average)


def crps_mixture(
    means: Any, scales: Any, targets: Any, *, weights: Any = None, mask: Any = None, average: bool = True
) -> jax.Array:
    """The CRPS of a mixture of Normals (lower is better, in the targets' unit):

        CRPS = Σᵢ wᵢ A(y − mᵢ, sᵢ²) − ½ Σᵢⱼ wᵢ wⱼ A(mᵢ − mⱼ, sᵢ² + sⱼ²),    A(d, s²) = E|Normal(d, s²)|.

    Of a Bayesian network with a Normal likelihood the predictive distribution is such a mixture, a component for each
    draw of the weights. Strictly proper. S² operations for each target, in the memory of S.

    Args:
        means: [S, ...], a component along axis 0 each.
        scales: the components' standard deviations, likewise or one number for all, above 0.
        targets: [...].
        weights: of the components, [S], summing to 1; `None` for equal ones.
        mask: bool [...], True where a target counts.
        average: whether to return the mean over targets; else one number each, 0 where masked.

    Returns:
        A number, or [...], float32.

    Raises:
        ValueError: shapes that do not match, a scale that is not positive, weights that do not sum to 1, a number that
            is not finite, or no target.

    Example:
        >>> import jax.numpy as jnp, bdl.metrics
        >>> means = jnp.array([[-1.0], [1.0]])
        >>> print(f"{bdl.metrics.crps_mixture(means, 0.5, jnp.array([0.0])):.4f}")
        0.3672

    Reference:
        Grimit et al. (2006), The continuous ranked probability score for circular variables and its application to
        mesoscale forecast ensemble verification, https://doi.org/10.1256/qj.05.235
    """
    means, targets, counts = samples("crps_mixture", means, targets, mask)
    if np.shape(scales) not in (means.shape, ()):
        raise ValueError(
            f"crps_mixture: expected scales of the shape {means.shape} of means, or one number, got {np.shape(scales)}."
        )
    every = None if mask is None else jnp.broadcast_to(jnp.asarray(mask), means.shape)
    check_positive("crps_mixture", "scales", scales, means.shape, every)
    scales = jnp.broadcast_to(jnp.asarray(scales).astype(jnp.float32), means.shape)
    scales = scales if mask is None else jnp.where(counts[None] > 0, scales, 1.0)
    shares = _shares(weights, len(means))
    return _crps_mixture(means, scales, targets, shares, counts, average)


def crps(draws: Any, targets: Any, *, fair: bool = True, mask: Any = None, average: bool = True) -> jax.Array:
    """The CRPS of samples (lower is better, in the targets' unit):

        CRPS = 1/S Σᵢ |xᵢ − y| − ½ c Σᵢⱼ |xᵢ − xⱼ|,    c = 1/(S (S − 1)) if fair, else 1/S².

    The fair form estimates the CRPS of the distribution that the samples come from, without bias; it can fall below 0.
    The other is the CRPS of the samples themselves as a forecast, and favours more of them. S log S operations.

    Args:
        draws: samples of the predictive distribution of targets, noise included, [S, ...], independent along axis 0.
        targets: [...].
        fair: which of the two.
        mask: bool [...], True where a target counts.
        average: whether to return the mean over targets; else one number each, 0 where masked.

    Returns:
        A number, or [...], float32.

    Raises:
        ValueError: shapes that do not match, one sample if `fair`, a number that is not finite, or no target.

    Example:
        >>> import jax.numpy as jnp, bdl.metrics
        >>> draws, targets = jnp.array([[1.0], [4.0]]), jnp.array([3.0])
        >>> bdl.metrics.crps(draws, targets), bdl.metrics.crps(draws, targets, fair=False)
        (Array(0., dtype=float32), Array(0.75, dtype=float32))

    Reference:
        Ferro (2014), Fair scores for ensemble forecasts, https://doi.org/10.1002/qj.2270
    """
    return _crps(*samples("crps", draws, targets, mask, least=1 + fair), fair, average)


def _shares(weights: Any, num: int) -> jax.Array:
    if weights is None:
        return jnp.full(num, 1 / num, jnp.float32)
    if np.shape(weights) != (num,):
        raise ValueError(f"crps_mixture: expected weights [{num}], one for each component, got {np.shape(weights)}.")
    if not is_traced(weights):
        given = np.asarray(weights, np.float32)
        if not (np.all(given >= 0) and abs(given.sum() - 1) <= _TOLERANCE):
            raise ValueError(
                f"crps_mixture: expected weights of at least 0 that sum to 1, got a least one of {given.min():.4g} and "
                f"a sum of {given.sum():.4g}. Pass weights / weights.sum()."
            )
    return jnp.asarray(weights).astype(jnp.float32)


def _expected_distance(difference: jax.Array, scale: jax.Array) -> jax.Array:
    """E|Normal(difference, scale²)| = difference (2 Φ(z) − 1) + 2 scale φ(z), for z = difference / scale."""
    z = difference / scale
    return difference * (2 * ndtr(z) - 1) + scale * (math.sqrt(2 / math.pi) * jnp.exp(-0.5 * z * z))


@functools.partial(jax.jit, static_argnames="average")
def _crps_normal(mean: Any, scale: Any, targets: Any, weights: Any, average: bool) -> jax.Array:
    # E|X − y| − ½ E|X − X'|, and X − X' ~ Normal(0, 2 σ²)
    scores = _expected_distance(targets - mean, scale) - scale / math.sqrt(math.pi)
    return mean_of(scores, weights, average)


@functools.partial(jax.jit, static_argnames="average")
def _crps_mixture(means: Any, scales: Any, targets: Any, shares: Any, counts: Any, average: bool) -> jax.Array:
    each = shares.reshape(-1, *[1] * targets.ndim)

    def add(total: jax.Array, component: Any) -> tuple[jax.Array, None]:
        mean, scale, share = component
        to_target = _expected_distance(targets - mean, scale)
        to_others = jnp.sum(each * _expected_distance(means - mean[None], jnp.hypot(scales, scale[None])), 0)
        return total + share * (to_target - 0.5 * to_others), None

    return mean_of(jax.lax.scan(add, jnp.zeros_like(targets), (means, scales, shares))[0], counts, average)


@functools.partial(jax.jit, static_argnames=("fair", "average"))
def _crps(draws: Any, targets: Any, weights: Any, fair: bool, average: bool) -> jax.Array:
    num = len(draws)
    # Σᵢⱼ |xᵢ − xⱼ| = 2 Σᵢ i (S − i) (x₍ᵢ₊₁₎ − x₍ᵢ₎) over the gaps of the sorted samples: nothing cancels far from zero.
    rank = np.arange(1, num)
    share = jnp.asarray(rank * (num - rank) / (num * (num - fair)), jnp.float32)
    within = jnp.sum(share.reshape(-1, *[1] * targets.ndim) * jnp.diff(jnp.sort(draws, axis=0), axis=0), 0)
    return mean_of(jnp.mean(jnp.abs(draws - targets[None]), 0) - within, weights, average)
