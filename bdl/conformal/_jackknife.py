"""Jackknife+ and CV+: intervals from models that were fitted without each example, or each fold."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdl._data_checks import is_traced
from bdl.conformal._checks import check_alpha, rank
from bdl.metrics._checks import check_finite, check_labels


def jackknife_plus(residuals: Any, predictions: Any, *, alpha: float) -> tuple[jax.Array, jax.Array]:
    """The intervals of jackknife+, from n models of which the i-th was fitted without example i.

        lower = the ⌊α(n + 1)⌋-th smallest of μ₋ᵢ(x) − Rᵢ, upper = the ⌈(1 − α)(n + 1)⌉-th smallest of μ₋ᵢ(x) + Rᵢ

    P(y in the interval) ≥ 1 − 2α if the n examples and the new one are exchangeable and the fit does not depend on
    their order; where models are stable it is close to 1 − α. No example is given up for calibration. Where
    n < 1/α − 1 the interval is the whole line.

    Args:
        residuals: Rᵢ = |yᵢ − μ₋ᵢ(xᵢ)|, [n], in the targets' unit.
        predictions: μ₋ᵢ(x) of m new examples, [n, m].
        alpha: α; half of what may be missed.

    Returns:
        lower and upper, [m], float32.

    Raises:
        ValueError: α is not in (0, 1), shapes that do not match, numbers that are not finite, a negative residual.

    Example:
        >>> import numpy as np, bdl
        >>> residuals = np.array([1.0, 2.0, 3.0, 4.0])
        >>> bdl.conformal.jackknife_plus(residuals, np.full((4, 1), 10.0), alpha=0.2)
        (Array([6.], dtype=float32), Array([14.], dtype=float32))

    Reference:
        Barber et al. (2021), Predictive inference with the jackknife+, https://arxiv.org/abs/1905.02928
    """
    fraction = check_alpha("jackknife_plus", alpha)
    _check("jackknife_plus", residuals, predictions)
    if np.shape(predictions)[0] != np.shape(residuals)[0]:
        raise ValueError(
            f"jackknife_plus: expected a model for each of {np.shape(residuals)[0]} residuals, predictions [n, m], got "
            f"shape {np.shape(predictions)}. Of one model for each fold see cv_plus."
        )
    return _intervals(jnp.asarray(residuals), jnp.asarray(predictions), None, fraction)


def cv_plus(residuals: Any, folds: Any, predictions: Any, *, alpha: float) -> tuple[jax.Array, jax.Array]:
    """The intervals of CV+, from K models of which the k-th was fitted without fold k: jackknife+ with K fits.

    P(y in the interval) ≥ 1 − 2α − min{2 (1 − 1/K) / (n/K + 1), (1 − K/n) / (K + 1)} ≥ 1 − 2α − √(2/n) for K folds of
    n/K examples each, if the n examples and the new one are exchangeable.

    Args:
        residuals: Rᵢ = |yᵢ − μ₋ₖ₍ᵢ₎(xᵢ)|, [n], in the targets' unit.
        folds: k(i), the fold of each example, [n] integers in 0, …, K − 1.
        predictions: μ₋ₖ(x) of m new examples, [K, m].
        alpha: α; half of what may be missed.

    Returns:
        lower and upper, [m], float32.

    Raises:
        ValueError: α is not in (0, 1), shapes that do not match, numbers that are not finite, a negative residual, a
            fold outside the range.

    Example:
        >>> import numpy as np, bdl
        >>> residuals, folds = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0, 1, 0, 1])
        >>> bdl.conformal.cv_plus(residuals, folds, np.array([[10.0], [11.0]]), alpha=0.2)
        (Array([7.], dtype=float32), Array([15.], dtype=float32))

    Reference:
        Barber et al. (2021), Predictive inference with the jackknife+, https://arxiv.org/abs/1905.02928
    """
    fraction = check_alpha("cv_plus", alpha)
    _check("cv_plus", residuals, predictions)
    if np.shape(folds) != np.shape(residuals):
        raise ValueError(
            f"cv_plus: expected a fold for each residual, got shapes {np.shape(folds)} and {np.shape(residuals)}."
        )
    if not is_traced(folds):
        check_labels("cv_plus", np.asarray(folds), np.shape(predictions)[0])
    return _intervals(jnp.asarray(residuals), jnp.asarray(predictions), jnp.asarray(folds), fraction)


def _check(name: str, residuals: Any, predictions: Any) -> None:
    shape, of_models = np.shape(residuals), np.shape(predictions)
    if len(shape) != 1 or 0 in shape or len(of_models) != 2 or 0 in of_models:
        raise ValueError(
            f"{name}: expected residuals [n] and predictions [models, m], got shapes {shape} and {of_models}. Pass at "
            "least one of each; one new example is predictions[:, None]."
        )
    if not is_traced((residuals, predictions)):
        check_finite(name, "residuals", np.asarray(residuals, np.float32))
        check_finite(name, "predictions", np.asarray(predictions, np.float32))
        if np.min(residuals) < 0:
            raise ValueError(f"{name}: expected residuals of 0 or more, got {np.min(residuals):.4g}. Pass |y - mean|.")


@jax.jit
def _intervals(
    residuals: jax.Array, predictions: jax.Array, folds: jax.Array | None, alpha: tuple[Any, Any]
) -> tuple[jax.Array, jax.Array]:
    r, n = residuals.astype(jnp.float32), residuals.size
    wanted = rank(alpha, n)

    def one(models: jax.Array) -> tuple[jax.Array, jax.Array]:
        centre = models.astype(jnp.float32)
        centre = centre if folds is None else centre[folds]
        # The ⌊α(n + 1)⌋-th smallest of μ − R is minus the ⌈(1 − α)(n + 1)⌉-th smallest of R − μ.
        at = lambda ends: jnp.where(wanted <= n, jnp.sort(ends)[jnp.minimum(wanted, n) - 1], jnp.inf)
        return -at(r - centre), at(centre + r)

    # A block of columns at once, so that memory is not n × m.
    return jax.lax.map(one, predictions.T, batch_size=64)
