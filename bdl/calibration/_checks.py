"""What comes in at the door of a calibrator, checked with NumPy outside of any trace."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdl._data_checks import is_traced
from bdl.metrics._checks import check_finite, classes, new_probs, weigh

_TINY = float(np.finfo(np.float32).tiny)


def examples(name: str, probs: Any, labels: Any, mask: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Checked probabilities [M, K], labels [M] and weights [M] of 0 and 1, whatever their leading shape."""
    probs, labels, weights = classes(name, probs, labels, mask)
    return probs.reshape(-1, probs.shape[-1]), labels.reshape(-1), weights.reshape(-1)


def log_probs(probs: jax.Array) -> jax.Array:
    """Logarithms of probabilities, of 0 as of the smallest normal number of float32, −87.3."""
    return jnp.log(jnp.maximum(probs.astype(jnp.float32), _TINY))


def new_unit(name: str, called: str, numbers: Any) -> jax.Array:
    """Numbers in [0, 1] of any shape, float32.

    Raises:
        ValueError: a number is outside.
    """
    if not is_traced(numbers):
        check_unit(name, called, np.asarray(numbers, np.float32))
    return jnp.asarray(numbers).astype(jnp.float32)


def new_each(probs: Any, binary: bool, num_classes: int) -> jax.Array:
    """Probabilities to be calibrated: of one event [...] where `binary`, else of K classes [..., K]."""
    return new_unit("calibrator", "probs", probs) if binary else new_probs("calibrator", probs, num_classes)


def binary(name: str, probs: Any, labels: Any, mask: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Probabilities of class 1, labels of 0 and 1 and weights of 0 and 1, all [...] float32.

    Raises:
        ValueError: numbers outside [0, 1], labels other than 0 and 1, shapes that do not match, no example.
    """
    weights = weigh(name, mask, np.shape(labels))
    if not is_traced((probs, labels, mask)):
        kept = ... if mask is None else np.asarray(mask)
        check_unit(name, "probs", np.asarray(probs, np.float32)[kept])
        found = np.asarray(labels)[kept]
        if not np.isin(found, (0, 1)).all():
            raise ValueError(
                f"{name}: expected labels of 0 and 1 where probs have the labels' shape, got "
                f"{found[~np.isin(found, (0, 1))][0]}. Of K classes pass all probabilities, probs [..., K]."
            )
    return *_where_kept(jnp.asarray(probs), jnp.asarray(labels), weights), weights


@jax.jit
def _where_kept(probs: jax.Array, labels: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    kept = weights > 0
    return jnp.where(kept, probs.astype(jnp.float32), 0.5), jnp.where(kept, labels.astype(jnp.float32), 0.0)


def check_unit(name: str, called: str, array: np.ndarray) -> None:
    """Whether all numbers are in [0, 1]."""
    check_finite(name, called, array)
    if array.size and (array.min() < 0 or array.max() > 1):
        raise ValueError(
            f"{name}: expected {called} in [0, 1], got numbers from {array.min():.4g} to {array.max():.4g}. If these "
            "are logits or margins, pass jax.nn.sigmoid of them."
        )


def say_where_no_minimum(name: str, converged: Any, what: str) -> None:
    """A warning that a fit has no minimum, where that is known."""
    if not is_traced(converged) and not np.all(np.asarray(converged)):
        warnings.warn(f"{name}: {what}", UserWarning, stacklevel=3)
