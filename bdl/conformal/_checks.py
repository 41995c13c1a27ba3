"""What comes in at the door of a conformal method, checked with NumPy outside of any trace."""

from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdl._data_checks import is_traced
from bdl.metrics._checks import weigh

_LARGEST = 2**15  # denominator of α, so that ranks are exact in int32


def check_alpha(name: str, alpha: float) -> tuple[int, int]:
    """α, the share that may be missed, as a fraction (p, q): 0.1 is 1/10, which no float is.

    Raises:
        ValueError: it is not between 0 and 1.
    """
    if not 0 < float(alpha) < 1:
        raise ValueError(f"{name}: expected alpha between 0 and 1, the share that may be missed, got {alpha}.")
    fraction = Fraction(float(alpha)).limit_denominator(_LARGEST)
    return fraction.numerator, fraction.denominator


def rank(alpha: tuple[Any, Any], count: Any) -> Any:
    """⌈(1 − α)(n + 1)⌉ = n + 1 − ⌊α(n + 1)⌋ for n = `count`, integers that may be traced, without rounding."""
    # With α = p / q and n + 1 = q a + r, ⌊α(n + 1)⌋ = p a + ⌊p r / q⌋.
    p, q = alpha
    a, r = (count + 1) // q, (count + 1) % q
    return count + 1 - (p * a + p * r // q)


def given_scores(name: str, scores: Any, mask: Any = None) -> tuple[jax.Array, jax.Array]:
    """Scores [n] float32, +∞ where the mask is False, and their number, int32.

    Raises:
        ValueError: a score is NaN, the mask is of another shape, no score.
    """
    weights = weigh(name, mask, np.shape(scores))
    if not is_traced((scores, mask)):
        kept = ... if mask is None else np.asarray(mask)
        if np.isnan(np.asarray(scores, np.float32)[kept]).any():
            raise ValueError(f"{name}: expected scores, got NaN. Mask or remove what has no score.")
    return _kept(jnp.asarray(scores), weights)


def new_values(name: str, *arrays: Any, names: tuple[str, ...]) -> tuple[jax.Array, ...]:
    """Predictions of one shape, float32.

    Raises:
        ValueError: shapes that do not match, NaN.
    """
    shape = np.shape(arrays[0])
    for called, array in zip(names, arrays, strict=True):
        if np.shape(array) not in (shape, ()):
            raise ValueError(f"{name}: expected {called} of the shape {shape} of {names[0]}, got {np.shape(array)}.")
        if not is_traced(array) and np.isnan(np.asarray(array, np.float32)).any():
            raise ValueError(f"{name}: expected {called}, got NaN.")
    return tuple(jnp.broadcast_to(jnp.asarray(array).astype(jnp.float32), shape) for array in arrays)


def check_positive(name: str, called: str, array: Any, mask: Any = None) -> None:
    """Whether all numbers that count are above 0, where they are known."""
    if is_traced((array, mask)):
        return
    found = np.asarray(array, np.float32)
    found = found if mask is None else np.broadcast_to(found, np.shape(mask))[np.asarray(mask)]
    if not (found > 0).all():
        raise ValueError(
            f"{name}: expected {called} above 0, got {found[~(found > 0)].ravel()[0]:.4g}. A variance goes in as its "
            "square root, a logarithm as its exponential."
        )


@jax.jit
def _kept(scores: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    kept = weights.reshape(-1) > 0
    return jnp.where(kept, scores.reshape(-1).astype(jnp.float32), jnp.inf), jnp.sum(kept, dtype=jnp.int32)
