"""Split conformal intervals of a regression: of one width, in units of the predictive scale, and around quantiles."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from bdl.conformal._checks import check_alpha, check_positive, given_scores, new_values
from bdl.conformal._split import smallest
from bdl.metrics._checks import values


class Interval(eqx.Module):
    """mean ↦ mean ± threshold, what `interval` fits; with ∞ the whole line.

    Attributes:
        threshold: in the targets' unit.
    """

    threshold: jax.Array

    def __call__(self, mean: Any) -> tuple[jax.Array, jax.Array]:
        """Lower and upper ends, of the mean's shape."""
        (mean,) = new_values("interval", mean, names=("mean",))
        return mean - self.threshold, mean + self.threshold


class NormalisedInterval(eqx.Module):
    """(mean, scale) ↦ mean ± threshold · scale, what `normalised` fits; with ∞ the whole line.

    Attributes:
        threshold: in units of the scale.
    """

    threshold: jax.Array

    def __call__(self, mean: Any, scale: Any) -> tuple[jax.Array, jax.Array]:
        """Lower and upper ends, of the mean's shape.

        Raises:
            ValueError: a scale is not positive, or shapes do not match.
        """
        check_positive("normalised", "scale", scale)
        mean, scale = new_values("normalised", mean, scale, names=("mean", "scale"))
        return mean - self.threshold * scale, mean + self.threshold * scale


class QuantileInterval(eqx.Module):
    """(lower, upper) ↦ (lower − threshold, upper + threshold), what `cqr` fits; with ∞ the whole line.

    Attributes:
        threshold: in the targets' unit; negative where the predicted quantiles are too far apart.
    """

    threshold: jax.Array

    def __call__(self, lower: Any, upper: Any) -> tuple[jax.Array, jax.Array]:
        """Lower and upper ends. Where the first is above the second the set is empty."""
        lower, upper = new_values("cqr", lower, upper, names=("lower", "upper"))
        return lower - self.threshold, upper + self.threshold


def interval(mean: Any, targets: Any, *, alpha: float, mask: Any = None) -> Interval:
    """Split conformal intervals of one width: mean ± the threshold of scores |y − mean|.

    1 − α ≤ P(y in the interval) = ⌈(1 − α)(n + 1)⌉ / (n + 1), the equality without ties, if these n examples and the
    new one are exchangeable; on average over examples, not for each x. Where n < 1/α − 1 the interval is the whole
    line.

    Args:
        mean: predictions, of the targets' shape.
        targets: [n], or of any shape; then each element is an example.
        alpha: α, the share that may be missed.
        mask: bool of the targets' shape, True where one counts; `None` for all.

    Raises:
        ValueError: α is not in (0, 1), shapes that do not match, numbers that are not finite, no example.

    Example:
        >>> import numpy as np, bdl
        >>> calibrated = bdl.conformal.interval(np.zeros(9), np.arange(-4.0, 5.0), alpha=0.2)
        >>> calibrated(np.array([10.0]))
        (Array([6.], dtype=float32), Array([14.], dtype=float32))

    Reference:
        Lei et al. (2018), Distribution-free predictive inference for regression, https://arxiv.org/abs/1604.04173
    """
    fraction = check_alpha("interval", alpha)
    mu, y, weights = values("interval", mean, targets, mask=mask, names=("mean", "targets"))
    return Interval(smallest(*given_scores("interval", _distance(mu, y), weights > 0), fraction))


def normalised(mean: Any, scale: Any, targets: Any, *, alpha: float, mask: Any = None) -> NormalisedInterval:
    """Split conformal intervals as wide as the prediction is uncertain: scores |y − mean| / scale.

    The promise of `interval`, of the same strength whatever the scale; a scale that orders the examples by their errors
    makes intervals short where they can be. The square root of the predictive variance is one.

    Args:
        mean: predictions, of the targets' shape.
        scale: predictive standard deviations > 0, of the targets' shape, in their unit.
        targets: [n], or of any shape; then each element is an example.
        alpha: α, the share that may be missed.
        mask: bool of the targets' shape, True where one counts; `None` for all.

    Raises:
        ValueError: α is not in (0, 1), shapes that do not match, numbers that are not finite, a scale that is not
            positive, no example.

    Example:
        >>> import numpy as np, bdl
        >>> scale = np.array([1.0, 2.0, 1.0, 2.0])
        >>> calibrated = bdl.conformal.normalised(np.zeros(4), scale, np.array([1.0, 4.0, 0.5, -1.0]), alpha=0.4)
        >>> calibrated(np.zeros(2), np.array([1.0, 3.0]))[1]
        Array([1., 3.], dtype=float32)

    Reference:
        Papadopoulos et al. (2008), Normalized nonconformity measures for regression conformal prediction; Lei et al.
        (2018), https://arxiv.org/abs/1604.04173
    """
    fraction = check_alpha("normalised", alpha)
    mu, sigma, y, weights = values("normalised", mean, scale, targets, mask=mask, names=("mean", "scale", "targets"))
    check_positive("normalised", "scale", scale, mask)
    return NormalisedInterval(smallest(*given_scores("normalised", _distance(mu, y, sigma), weights > 0), fraction))


def cqr(lower: Any, upper: Any, targets: Any, *, alpha: float, mask: Any = None) -> QuantileInterval:
    """Conformalised quantile regression: predicted quantiles, moved apart or together by one number.

    Scores are max(lower − y, y − upper). The promise of `interval`, whatever the quantiles; those at levels α/2 and
    1 − α/2 make the intervals short.

    Args:
        lower: predicted quantiles, of the targets' shape.
        upper: likewise.
        targets: [n], or of any shape; then each element is an example.
        alpha: α, the share that may be missed.
        mask: bool of the targets' shape, True where one counts; `None` for all.

    Raises:
        ValueError: α is not in (0, 1), shapes that do not match, numbers that are not finite, no example.

    Example:
        >>> import numpy as np, bdl
        >>> calibrated = bdl.conformal.cqr(-np.ones(4), np.ones(4), np.array([0.0, 1.5, -3.0, 0.5]), alpha=0.4)
        >>> calibrated(np.array([-1.0]), np.array([2.0]))
        (Array([-1.5], dtype=float32), Array([2.5], dtype=float32))

    Reference:
        Romano et al. (2019), Conformalized quantile regression, https://arxiv.org/abs/1905.03222
    """
    fraction = check_alpha("cqr", alpha)
    low, high, y, weights = values("cqr", lower, upper, targets, mask=mask, names=("lower", "upper", "targets"))
    return QuantileInterval(smallest(*given_scores("cqr", _outside(low, high, y), weights > 0), fraction))


@jax.jit
def _distance(mean: jax.Array, targets: jax.Array, scale: jax.Array | None = None) -> jax.Array:
    distance = jnp.abs(targets - mean)
    return distance if scale is None else distance / jnp.where(scale > 0, scale, 1.0)


@jax.jit
def _outside(lower: jax.Array, upper: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.maximum(lower - targets, targets - upper)
