"""Conformal risk control: a threshold that keeps an expected loss, such as the share of pixels missed, below α."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdl._data_checks import is_traced
from bdl.conformal._checks import check_alpha
from bdl.metrics._checks import check_finite, values

_ROUNDING = 1e-6


def risk_control(losses: Any, thresholds: Any, *, alpha: float, bound: float = 1.0) -> jax.Array:
    """The first of some thresholds at which the expected loss of a new example is at most α.

        (Σᵢ Lᵢ(λ) + B) / (n + 1) ≤ α

    E[L(λ̂)] ≤ α, and ≥ α − 2B / (n + 1) where losses have no jumps, if the n examples and the new one are exchangeable,
    losses are at most B and do not grow along the thresholds, and the last threshold is safe: its loss is at most α for
    every example, as that of the set of all pixels is.

    Args:
        losses: Lᵢ(λ) in [0, B], [n, T]: of example i with threshold t, not growing along t.
        thresholds: [T], from the smallest sets to the largest, as far as those that miss nothing.
        alpha: α, the expected loss that is accepted, as a share of B = 1 (otherwise in the unit of the losses).
        bound: B, the largest loss there can be.

    Returns:
        λ̂, a number, float32; NaN under a trace where no threshold is safe.

    Raises:
        ValueError: α is not in (0, B), shapes that do not match, losses that are outside [0, B] or grow, or no
            threshold is safe: there are fewer than B / α − 1 examples, or the last one still loses too much.

    Example:
        >>> import numpy as np, bdl
        >>> losses = np.tile([0.9, 0.4, 0.1, 0.0], (9, 1))
        >>> bdl.conformal.risk_control(losses, np.array([0.8, 0.5, 0.2, 0.0]), alpha=0.2)
        Array(0.2, dtype=float32)

    Reference:
        Angelopoulos et al. (2024), Conformal risk control, https://arxiv.org/abs/2208.02814
    """
    if not bound > 0:
        raise ValueError(f"risk_control: expected a bound above 0, got {bound}.")
    check_alpha("risk_control", alpha / bound)
    shape, of_thresholds = np.shape(losses), np.shape(thresholds)
    if len(shape) != 2 or 0 in shape or of_thresholds != shape[1:]:
        raise ValueError(
            f"risk_control: expected losses [n, T] and thresholds [T], got shapes {shape} and {of_thresholds}."
        )
    if not is_traced((losses, thresholds)):
        _check(np.asarray(losses, np.float32), bound)
    found = _first_safe(jnp.asarray(losses), jnp.asarray(thresholds), jnp.float32(alpha), jnp.float32(bound))
    if not is_traced(found) and np.isnan(found):
        raise ValueError(
            f"risk_control: no threshold has (sum of losses + {bound}) / (n + 1) <= {alpha}. With n = {shape[0]} the "
            f"smallest alpha is {bound / (shape[0] + 1):.4g}, where nothing is lost: pass more examples, or let "
            "thresholds go on to the set of everything."
        )
    return found


def false_negative_rate(scores: Any, labels: Any, thresholds: Any, *, mask: Any = None) -> jax.Array:
    """The share of each example's positives that have a score below a threshold: a loss for `risk_control`.

    It falls along falling thresholds, and is 0 at the smallest possible score. An example without positives loses
    nothing.

    Args:
        scores: [n, ...], such as the probability of a class at each pixel.
        labels: [n, ...], 0 and 1, or bool.
        thresholds: [T], falling.
        mask: bool [n, ...], True where a pixel counts; `None` for all.

    Returns:
        [n, T], float32 in [0, 1].

    Raises:
        ValueError: shapes that do not match, labels other than 0 and 1, numbers that are not finite, no pixel.

    Example:
        >>> import numpy as np, bdl
        >>> scores, labels = np.array([[0.9, 0.6, 0.2, 0.1]]), np.array([[1, 1, 1, 0]])
        >>> np.asarray(bdl.conformal.false_negative_rate(scores, labels, np.array([0.8, 0.5, 0.0]))).round(2)
        array([[0.67, 0.33, 0.  ]], dtype=float32)
    """
    name = "false_negative_rate"
    if np.ndim(scores) < 2 or np.ndim(thresholds) != 1:
        raise ValueError(
            f"{name}: expected scores [n, ...] of two or more axes and thresholds [T], got shapes {np.shape(scores)} "
            f"and {np.shape(thresholds)}."
        )
    given, positive, weights = values(name, scores, labels, mask=mask, names=("scores", "labels"))
    if not is_traced((positive, thresholds)):
        check_finite(name, "thresholds", np.asarray(thresholds, np.float32))
        if not np.isin(np.asarray(positive), (0, 1)).all():
            raise ValueError(f"{name}: expected labels of 0 and 1. Of several classes pass labels == k.")
    return _missed(given, positive * weights, jnp.asarray(thresholds))


@jax.jit
def _missed(scores: jax.Array, positive: jax.Array, thresholds: jax.Array) -> jax.Array:
    scores, positive = (a.reshape(len(a), -1) for a in (scores, positive))
    total = jnp.maximum(jnp.sum(positive, -1), 1.0)
    missed = lambda threshold: jnp.sum(jnp.where(scores < threshold, positive, 0.0), -1) / total
    # One threshold at a time, so that memory does not grow with their number.
    return jax.lax.map(missed, thresholds.astype(jnp.float32)).T


@jax.jit
def _first_safe(losses: jax.Array, thresholds: jax.Array, alpha: jax.Array, bound: jax.Array) -> jax.Array:
    total = jnp.sum(losses.astype(jnp.float32), 0) + bound
    safe = total <= alpha * (len(losses) + 1) * (1 + _ROUNDING)
    return jnp.where(jnp.any(safe), thresholds.astype(jnp.float32)[jnp.argmax(safe)], jnp.nan)


def _check(losses: np.ndarray, bound: float) -> None:
    check_finite("risk_control", "losses", losses)
    if losses.min() < 0 or losses.max() > bound * (1 + _ROUNDING):
        raise ValueError(
            f"risk_control: expected losses in [0, {bound}], got numbers from {losses.min():.4g} to "
            f"{losses.max():.4g}. Pass the largest loss there can be as bound=."
        )
    if (np.diff(losses, axis=1) > _ROUNDING * bound).any():
        raise ValueError(
            "risk_control: expected losses that do not grow along the thresholds. Order thresholds from the smallest "
            "sets to the largest, or pass np.maximum.accumulate(losses[:, ::-1], axis=1)[:, ::-1]."
        )
