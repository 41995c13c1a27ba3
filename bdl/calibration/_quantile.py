"""Recalibration of predictive distributions of a regression by the distribution of their PIT values."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bdl._data_checks import is_traced
from bdl.calibration._checks import check_unit, new_unit
from bdl.metrics._checks import weigh


class QuantileRecalibration(eqx.Module):
    """R: level ↦ the share of targets below that quantile, what `quantile_recalibration` fits.

    R ∘ F is the calibrated distribution function where F is the predicted one, and the calibrated quantile at level τ
    is the predicted one at level R⁻¹(τ).

    Attributes:
        levels: the knots, [n + 2], non-decreasing from 0 to 1.
        shares: R there, from 0 to 1.
    """

    levels: jax.Array
    shares: jax.Array

    def __call__(self, levels: Any) -> jax.Array:
        """R(levels): calibrated probabilities F(y), PIT values, of any shape, for predicted ones.

        Raises:
            ValueError: a level is outside [0, 1].
        """
        return jnp.interp(new_unit("quantile_recalibration", "levels", levels), self.levels, self.shares)

    def inverse(self, levels: Any) -> jax.Array:
        """R⁻¹(levels): the levels at which to take predicted quantiles so that they are calibrated ones at `levels`.

        Raises:
            ValueError: a level is outside [0, 1].
        """
        return jnp.interp(new_unit("quantile_recalibration", "levels", levels), self.shares, self.levels)


def quantile_recalibration(pit_values: Any, *, mask: Any = None) -> QuantileRecalibration:
    """Quantile recalibration: R, the distribution function of the PIT values, joined up by lines.

    The PIT value of a target is F(y), the predicted probability of a smaller one; they are uniform where predictions
    are calibrated. R is i / (n + 1) at the i-th smallest of n, 0 at 0 and 1 at 1, non-decreasing as it is. It corrects
    quantiles on average over examples, not for each.

    Args:
        pit_values: F(y), of any shape, such as `jax.scipy.stats.norm.cdf(targets, mean, scale)`.
        mask: bool of that shape, True where one counts; `None` for all.

    Raises:
        ValueError: a PIT value is outside [0, 1], the mask is of another shape, no example.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> calibrator = bdl.calibration.quantile_recalibration(jnp.array([0.3, 0.4, 0.45, 0.5, 0.7]))
        >>> calibrator(jnp.array([0.45])), calibrator.inverse(jnp.array([0.25, 0.5]))
        (Array([0.5], dtype=float32), Array([0.35, 0.45], dtype=float32))

    Reference:
        Kuleshov et al. (2018), Accurate uncertainties for deep learning using calibrated regression,
        https://arxiv.org/abs/1807.00263
    """
    weights = weigh("quantile_recalibration", mask, np.shape(pit_values))
    if not is_traced((pit_values, mask)):
        kept = ... if mask is None else np.asarray(mask)
        check_unit("quantile_recalibration", "PIT values", np.asarray(pit_values, np.float32)[kept])
    return QuantileRecalibration(*_fit(jnp.asarray(pit_values), weights))


@jax.jit
def _fit(pit_values: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    kept = weights.reshape(-1) > 0
    ordered = jnp.sort(jnp.where(kept, pit_values.reshape(-1).astype(jnp.float32), 1.0))
    rank = jnp.arange(1, kept.size + 1, dtype=jnp.int32)
    count = jnp.sum(kept, dtype=jnp.int32)
    share = jnp.where(rank <= count, rank.astype(jnp.float32) / (count + 1).astype(jnp.float32), 1.0)
    ends = lambda inner: jnp.concatenate([jnp.zeros(1), inner, jnp.ones(1)])
    return ends(ordered), ends(share)
