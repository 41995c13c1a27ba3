"""The probability integral transform, and the calibration of a regression by its quantiles."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr

from bdl._data_checks import is_traced
from bdl._keys import derive
from bdl.metrics._checks import values
from bdl.metrics._regression_checks import normal, samples


def pit_normal(mean: Any, scale: Any, targets: Any, *, mask: Any = None) -> jax.Array:
    """The probability integral transform of targets under a Normal (from 0 to 1; uniform if calibrated):

        PIT = Φ((y − mean) / scale).

    Args:
        mean: [...], or one number for all.
        scale: the standard deviation, likewise, above 0.
        targets: [...].
        mask: bool [...], True where a target counts.

    Returns:
        [...], float32, 0 where masked: pass the mask on to what takes them.

    Raises:
        ValueError: shapes that do not match, a scale that is not positive, a number that is not finite, or no target.

    Example:
        >>> import jax.numpy as jnp, bdl.metrics
        >>> print(f"{bdl.metrics.pit_normal(0.0, 1.0, jnp.array(1.96)):.3f}")
        0.975

    Reference:
        Dawid (1984), Statistical theory: the prequential approach, https://doi.org/10.2307/2981683
    """
    return _pit_normal(*normal("pit_normal", mean, scale, targets, mask))


def pit(draws: Any, targets: Any, *, mask: Any = None) -> jax.Array:
    """The probability integral transform of targets under samples (from 0 to 1; about uniform if calibrated):

        PIT = (#{xᵢ < y} + ½ #{xᵢ = y} + ½) / (S + 1).

    The middle of the ranks that the target can have among the samples: ties, and the steps between ranks, are split in
    half. For targets that are counts, or few samples, `randomised_pit` is uniform exactly.

    Args:
        draws: samples of the predictive distribution of targets, noise included, [S, ...], along axis 0.
        targets: [...].
        mask: bool [...], True where a target counts.

    Returns:
        [...], float32, 0 where masked: pass the mask on to what takes them.

    Raises:
        ValueError: shapes that do not match, no sample, a number that is not finite, or no target.

    Example:
        >>> import jax.numpy as jnp, bdl.metrics
        >>> bdl.metrics.pit(jnp.array([[1.0], [2.0], [4.0]]), jnp.array([3.0]))
        Array([0.625], dtype=float32)

    Reference:
        Gneiting, Balabdaoui and Raftery (2007), Probabilistic forecasts, calibration and sharpness,
        https://doi.org/10.1111/j.1467-9868.2007.00587.x
    """
    return _pit(*samples("pit", draws, targets, mask), jnp.float32(0.5))


def randomised_pit(key: Any, draws: Any, targets: Any, *, mask: Any = None) -> jax.Array:
    """The probability integral transform with its steps filled at random (from 0 to 1; uniform if calibrated):

        PIT = (#{xᵢ < y} + U (#{xᵢ = y} + 1)) / (S + 1),    U ~ Uniform(0, 1).

    Exactly uniform where target and samples come from one distribution, for any S, and for counts with their ties.

    Args:
        key: one random key.
        draws: samples of the predictive distribution of targets, noise included, [S, ...], along axis 0.
        targets: [...].
        mask: bool [...], True where a target counts.

    Returns:
        [...], float32, 0 where masked: pass the mask on to what takes them.

    Raises:
        ValueError: shapes that do not match, no sample, a number that is not finite, or no target.

    Example:
        >>> import jax, jax.numpy as jnp, bdl.metrics
        >>> draws, targets = jnp.zeros((9, 3)), jnp.array([-1.0, 0.0, 1.0])
        >>> found = bdl.metrics.randomised_pit(jax.random.key(0), draws, targets)
        >>> found < jnp.array([0.1, 1.0, 1.0]), found > jnp.array([0.0, 0.0, 0.9])
        (Array([ True,  True,  True], dtype=bool), Array([ True,  True,  True], dtype=bool))

    Reference:
        Czado, Gneiting and Held (2009), Predictive model assessment for count data,
        https://doi.org/10.1111/j.1541-0420.2009.01191.x
    """
    key = derive(key, "randomised_pit")
    found = samples("randomised_pit", draws, targets, mask)
    return _pit(*found, jax.random.uniform(key, found[1].shape))


def quantile_calibration(pit_values: Any, levels: Any, *, mask: Any = None) -> jax.Array:
    """How often targets are below predicted quantiles (shares from 0 to 1; equal to the levels if calibrated):

        observed(p) = 1/N #{PITₙ ≤ p}.

    Against the levels it is the calibration plot of a regression; the standard error at p is √(p (1 − p) / N). Means
    over batches combine, weighted by their counts.

    Args:
        pit_values: [...], of `pit_normal`, `pit` or `randomised_pit`.
        levels: [Q], from 0 to 1.
        mask: bool, of the PIT values' shape, True where one counts.

    Returns:
        [Q], float32.

    Raises:
        ValueError: values or levels outside [0, 1], shapes that do not match, or no value.

    Example:
        >>> import jax.numpy as jnp, bdl.metrics
        >>> bdl.metrics.quantile_calibration(jnp.array([0.1, 0.2, 0.6, 0.9]), jnp.array([0.25, 0.5, 0.75]))
        Array([0.5 , 0.5 , 0.75], dtype=float32)

    Reference:
        Kuleshov, Fenner and Ermon (2018), Accurate uncertainties for deep learning using calibrated regression,
        https://arxiv.org/abs/1807.00263
    """
    if np.ndim(levels) != 1 or not (is_traced(levels) or _probabilities(levels)):
        raise ValueError(f"quantile_calibration: expected levels [Q] from 0 to 1, got {levels}. 95 % is 0.95.")
    found = _pit_values("quantile_calibration", pit_values, mask)
    return _observed(*found, jnp.asarray(levels).astype(jnp.float32))


def regression_calibration_error(pit_values: Any, *, num_levels: int = 99, mask: Any = None) -> jax.Array:
    """The mean squared distance of observed from expected quantile levels (lower is better, a probability squared):

        1/m Σⱼ (pⱼ − observed(pⱼ))²,    pⱼ = j / (m + 1), j = 1, …, m.

    The calibration error of Kuleshov et al. with the weights 1/m, so that it does not grow with the number of levels;
    with their weights of 1 it is m times as much. Of N targets of a calibrated predictor it is (m + 2) / (6 (m + 1) N)
    on average, not 0. It is not a mean over examples: over batches combine `quantile_calibration`.

    Args:
        pit_values: [...], of `pit_normal`, `pit` or `randomised_pit`.
        num_levels: m; 99 for each percent.
        mask: bool, of the PIT values' shape, True where one counts.

    Returns:
        A number, float32.

    Raises:
        ValueError: values outside [0, 1], a mask of another shape, `num_levels` below 1, or no value.

    Example:
        >>> import jax.numpy as jnp, bdl.metrics
        >>> print(f"{bdl.metrics.regression_calibration_error(jnp.array([0.1, 0.2, 0.6, 0.9]), num_levels=3):.4f}")
        0.0208

    Reference:
        Kuleshov, Fenner and Ermon (2018), Accurate uncertainties for deep learning using calibrated regression,
        https://arxiv.org/abs/1807.00263
    """
    if num_levels < 1:
        raise ValueError(f"regression_calibration_error: expected num_levels of at least 1, got {num_levels}.")
    found = _pit_values("regression_calibration_error", pit_values, mask)
    return _mean_squared_gap(*found, np.arange(1, num_levels + 1, dtype=np.float32) / np.float32(num_levels + 1))


def _pit_values(name: str, pit_values: Any, mask: Any) -> tuple[jax.Array, ...]:
    found = values(name, pit_values, mask=mask, names=("pit_values",))
    if not (is_traced(found) or _probabilities(found[0])):
        raise ValueError(f"{name}: expected PIT values from 0 to 1, such as pit_normal and pit return.")
    return found


def _probabilities(array: Any) -> bool:
    array = np.asarray(array)
    return bool(np.all((array >= 0) & (array <= 1)))


@jax.jit
def _pit_normal(mean: Any, scale: Any, targets: Any, weights: Any) -> jax.Array:
    return jnp.where(weights > 0, ndtr((targets - mean) / scale), 0.0)


@jax.jit
def _pit(draws: Any, targets: Any, weights: Any, share: Any) -> jax.Array:
    below = jnp.sum((draws < targets[None]).astype(jnp.int32), 0).astype(jnp.float32)
    equal = jnp.sum((draws == targets[None]).astype(jnp.int32), 0).astype(jnp.float32)
    return jnp.where(weights > 0, (below + share * (equal + 1)) / (len(draws) + 1), 0.0)


@jax.jit
def _observed(found: Any, weights: Any, levels: Any) -> jax.Array:
    keep = weights > 0

    def below(level: jax.Array) -> jax.Array:
        return jnp.sum(((found <= level) & keep).astype(jnp.int32))

    return jax.lax.map(below, levels).astype(jnp.float32) / jnp.sum(keep.astype(jnp.int32)).astype(jnp.float32)


@jax.jit
def _mean_squared_gap(found: Any, weights: Any, levels: Any) -> jax.Array:
    return jnp.mean((levels - _observed(found, weights, levels)) ** 2)
