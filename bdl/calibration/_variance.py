"""One factor for all predictive variances of a regression."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bdl._data_checks import is_traced
from bdl.metrics._checks import values

_TINY = float(np.finfo(np.float32).tiny)


class VarianceScale(eqx.Module):
    """(mean, variance) ↦ (mean, s² variance), what `variance_scale` fits.

    Attributes:
        log_factor: log s².
    """

    log_factor: jax.Array

    def __call__(self, mean: Any, variance: Any) -> tuple[jax.Array, jax.Array]:
        """The mean as it is and the calibrated variance, both float32, in the targets' unit and its square.

        Raises:
            ValueError: a variance is negative.
        """
        if not is_traced(variance):
            _check_variance(np.asarray(variance), smallest=0.0)
        mean, variance = (jnp.asarray(a).astype(jnp.float32) for a in (mean, variance))
        return mean, variance * jnp.exp(self.log_factor)


def variance_scale(mean: Any, variance: Any, targets: Any, *, mask: Any = None) -> VarianceScale:
    """Variance scaling: predictive variances times s², the mean squared standardised error.

        s² = E[(y − μ)² / σ²]

    It minimises the NLL of Normal(μ, s² σ²), which is thus never worse on the data of the fit, and s² = 1 for
    predictions whose variances are right on average. For a factor for each of several targets, `jax.vmap` it over
    their axis.

    Args:
        mean: μ, of the targets' shape, such as `prediction.mean`.
        variance: σ² > 0, in the square of the targets' unit, such as `prediction.variance`.
        targets: of any shape.
        mask: bool of the targets' shape, True where one counts; `None` for all.

    Raises:
        ValueError: shapes that do not match, numbers that are not finite, a variance that is not positive, no example,
            or all errors 0.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> mean, variance = jnp.zeros(4), jnp.ones(4)
        >>> calibrator = bdl.calibration.variance_scale(mean, variance, jnp.array([1.0, -3.0, 3.0, -1.0]))
        >>> calibrator(jnp.array([7.0]), jnp.array([0.5]))
        (Array([7.], dtype=float32), Array([2.5], dtype=float32))

    Reference:
        Levi et al. (2022), Evaluating and calibrating uncertainty prediction in regression tasks,
        https://arxiv.org/abs/1905.11659
    """
    mu, var, y, weights = values(
        "variance_scale", mean, variance, targets, mask=mask, names=("mean", "variance", "targets")
    )
    traced = is_traced((mean, variance, targets, mask))
    if not traced:
        kept = ... if mask is None else np.asarray(mask)
        _check_variance(np.broadcast_to(np.asarray(variance), np.shape(targets))[kept], smallest=_TINY)
    log_factor = _fit(mu, var, y, weights)
    if not traced and not np.isfinite(log_factor):
        raise ValueError(
            "variance_scale: the targets equal the means, so that the best factor is 0. Pass examples that the network "
            "was not trained on."
            if log_factor < 0
            else "variance_scale: (targets - mean)² / variance is beyond float32. Standardise the targets."
        )
    return VarianceScale(log_factor)


@jax.jit
def _fit(mean: jax.Array, variance: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
    standardised = (targets - mean) / jnp.sqrt(jnp.where(weights > 0, variance, 1.0))
    # s² = E[z²]
    return jnp.log(jnp.sum(weights * standardised**2) / jnp.sum(weights))


def _check_variance(variance: np.ndarray, smallest: float) -> None:
    if not (variance >= smallest).all():
        wrong = variance[~(variance >= smallest)].ravel()[0]
        raise ValueError(
            f"variance_scale: expected variances above 0, got {wrong:.4g}. A standard deviation is squared, a "
            "log variance exponentiated: jnp.exp(log_variance)."
        )
