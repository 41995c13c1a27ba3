"""Thresholds under covariate shift, where examples count by how probable they have become."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdl._data_checks import is_traced
from bdl.conformal._checks import check_alpha, given_scores

_ROUNDING = 1e-6  # of sums of float32, relative


def weighted(scores: Any, weights: Any, new_weights: Any, *, alpha: float, mask: Any = None) -> jax.Array:
    """The thresholds of weighted conformal prediction under covariate shift, one for each new example.

    The threshold at x is the 1 − α quantile of the scores, each with the mass of its weight, and of ∞ with the mass of
    the new example's own:

        P(new score ≤ threshold(x)) ≥ 1 − α,

    if calibration examples are drawn from p(x) p(y | x), the new one from p̃(x) p(y | x), and weights are the true ratio
    p̃(x) / p(x), up to a factor. With an estimated ratio the promise holds up to its error. With equal weights it is
    `split`; with a weight above α of all weights the threshold is ∞.

    Args:
        scores: [n] (higher is worse).
        weights: [n], w(x) of the calibration examples, ≥ 0.
        new_weights: [...], w(x) of the new examples, ≥ 0, in the same unit.
        alpha: α, the share that may be missed.
        mask: bool [n], True where an example counts; `None` for all.

    Returns:
        Of the shape of `new_weights`, float32.

    Raises:
        ValueError: α is not in (0, 1), shapes that do not match, a score is NaN, a weight is negative or not finite, no
            weight is positive, no score.

    Example:
        >>> import numpy as np, bdl
        >>> weights = np.array([1.0, 1.0, 1.0, 3.0])
        >>> bdl.conformal.weighted(np.arange(4.0), weights, np.array([1.0, 0.0, 9.0]), alpha=0.5)
        Array([ 3.,  2., inf], dtype=float32)

    Reference:
        Tibshirani et al. (2019), Conformal prediction under covariate shift, https://arxiv.org/abs/1904.06019
    """
    fraction = check_alpha("weighted", alpha)
    if np.shape(scores) != np.shape(weights):
        raise ValueError(
            f"weighted: expected a weight for each score, got shapes {np.shape(weights)} and {np.shape(scores)}."
        )
    if not is_traced((weights, new_weights, mask)):
        kept = np.asarray(weights)[... if mask is None else np.asarray(mask)]
        for called, array in (("weights", kept), ("new_weights", np.asarray(new_weights))):
            if not (np.isfinite(array) & (array >= 0)).all():
                raise ValueError(f"weighted: expected {called} that are finite and not negative. Pass p̃(x) / p(x).")
        if not kept.sum() > 0:
            raise ValueError("weighted: all weights are 0, as if no new example could be like the given ones.")
    ordered, _ = given_scores("weighted", scores, mask)
    keep = jnp.ones(ordered.shape, bool) if mask is None else jnp.asarray(mask).reshape(-1)
    return _thresholds(ordered, jnp.asarray(weights).reshape(-1), keep, jnp.asarray(new_weights), fraction)


@jax.jit
def _thresholds(
    scores: jax.Array, weights: jax.Array, keep: jax.Array, new_weights: jax.Array, alpha: tuple[Any, Any]
) -> jax.Array:
    weights, new = jnp.where(keep, weights, 0).astype(jnp.float32), new_weights.astype(jnp.float32)
    share = jnp.asarray(alpha[0], jnp.float32) / jnp.asarray(alpha[1], jnp.float32)
    order = jnp.argsort(scores)
    total = jnp.sum(weights)
    weights = weights[order]
    # Mass above the i-th smallest score; the threshold is the first one with at most α of all mass above it.
    above = jnp.cumsum(weights[::-1])[::-1] - weights
    allowed = share * (total + new) * (1 + _ROUNDING) - new
    # The masses fall from left to right, so −above is sorted.
    index = jnp.searchsorted(-above, -allowed, side="left")
    found = scores[order][jnp.minimum(index, scores.size - 1)]
    return jnp.where(allowed >= 0, found, jnp.inf)
