"""What comes in at the door of a metric: shapes, ranges and masks, checked with NumPy outside of any trace."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdl._data_checks import is_traced

# Rows of probabilities from a network in float16 or bfloat16 are this far from one.
_TOLERANCE = 1e-2


def classes(name: str, probs: Any, labels: Any, mask: Any = None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Probabilities [..., K] float32, labels [...] int32 and weights [...] float32 of 0 and 1, checked.

    Where the mask is False the probabilities are uniform and the label 0, so that what stood there does no harm.

    Args:
        name: of the metric, for the messages.
        probs: [..., K], K ≥ 2.
        labels: [...], integers in 0, …, K − 1.
        mask: bool [...], True where an example counts; `None` for all.

    Raises:
        ValueError: shapes that do not match, rows that are not probabilities, labels outside the range, no example.
    """
    shape, num_classes = _shapes(name, probs, labels)
    weights = weigh(name, mask, shape)
    if not is_traced((probs, labels, mask)):
        kept = ... if mask is None else np.asarray(mask)
        check_probs(name, np.asarray(probs, np.float32)[kept])
        check_labels(name, np.asarray(labels)[kept], num_classes)
    probs, labels = jnp.asarray(probs).astype(jnp.float32), jnp.asarray(labels).astype(jnp.int32)
    return (probs, labels, weights) if mask is None else _uniform_where_masked(probs, labels, weights)


def values(name: str, *arrays: Any, mask: Any = None, names: tuple[str, ...] = ()) -> tuple[jax.Array, ...]:
    """Arrays of one shape as float32, 0 where the mask is False, and after them the weights of 0 and 1, checked.

    Args:
        name: of the metric, for the messages.
        arrays: numbers, all of the last one's shape or scalars.
        mask: bool of the last one's shape, `None` for all.
        names: of the arrays, for the messages.

    Raises:
        ValueError: shapes that do not match, a number that is not finite, no example.
    """
    names = names or tuple(f"argument {i}" for i in range(len(arrays)))
    shape = np.shape(arrays[-1])
    for called, array in zip(names, arrays, strict=True):
        if np.shape(array) not in (shape, ()):
            raise ValueError(
                f"{name}: expected {called} of the shape {shape} of {names[-1]}, got {np.shape(array)}. Squeeze or "
                "index it to that shape."
            )
    weights = weigh(name, mask, shape)
    if not is_traced((arrays, mask)):
        kept = ... if mask is None else np.asarray(mask)
        for called, array in zip(names, arrays, strict=True):
            check_finite(name, called, np.broadcast_to(np.asarray(array, np.float32), shape)[kept])
    given = tuple(jnp.broadcast_to(jnp.asarray(array).astype(jnp.float32), shape) for array in arrays)
    return *(given if mask is None else _zero_where_masked(given, weights)), weights


def weigh(name: str, mask: Any, shape: tuple[int, ...]) -> jax.Array:
    """The mask as numbers 0 and 1, float32 of `shape`."""
    if mask is not None and np.shape(mask) != shape:
        raise ValueError(f"{name}: expected mask of the targets' shape {shape}, got {np.shape(mask)}.")
    if mask is not None and not jnp.issubdtype(jnp.result_type(mask), np.bool_):
        raise ValueError(f"{name}: expected a mask of bool, True where an example counts; got {jnp.result_type(mask)}.")
    if 0 in shape or not (mask is None or is_traced(mask) or np.any(mask)):
        raise ValueError(f"{name}: there is no example{' that the mask keeps' * (0 not in shape)}. Pass at least one.")
    return jnp.ones(shape, jnp.float32) if mask is None else jnp.asarray(mask).astype(jnp.float32)


def new_probs(name: str, probs: Any, num_classes: int | None = None) -> jax.Array:
    """Probabilities [..., K] without labels, float32, checked.

    Raises:
        ValueError: they are no probabilities, or of another number of classes than was fitted.
    """
    shape = np.shape(probs)
    if len(shape) < 1 or shape[-1] < 2 or num_classes not in (None, shape[-1]):
        expected = "[..., K] with K >= 2" if num_classes is None else f"[..., {num_classes}], as at the fit"
        raise ValueError(f"{name}: expected probs {expected}, got shape {shape}. Keep classes on the last axis.")
    if not is_traced(probs):
        check_probs(name, np.asarray(probs, np.float32).reshape(-1, shape[-1]))
    return jnp.asarray(probs).astype(jnp.float32)


def check_probs(name: str, probs: np.ndarray) -> None:
    """Whether rows of numbers [M, K] are probabilities."""
    # One product and one minimum tell that all is well; a NaN or ∞ is in its row's sum.
    rows = probs.reshape(-1, probs.shape[-1])
    # The flags of the product are not read: the sums are, and OpenBLAS sets "invalid" for five columns of good numbers
    # where a register that it has not written holds a signalling NaN (AVX-512, seen in 0.3.31).
    with np.errstate(all="ignore"):
        total = rows @ np.ones(rows.shape[-1], rows.dtype)
    worst = np.abs(total - 1).max()
    if worst <= _TOLERANCE and rows.min() >= 0:
        return
    check_finite(name, "probs", probs)
    low, high = probs.min(), probs.max()
    if low < 0 or high > 1 + _TOLERANCE:
        raise ValueError(
            f"{name}: expected probabilities in [0, 1], got numbers from {low:.4g} to {high:.4g}. If these are logits, "
            "pass jax.nn.softmax(logits), or jax.nn.sigmoid(logits) of two classes."
        )
    raise ValueError(
        f"{name}: expected rows of probs that sum to 1, got one whose sum is off by {worst:.4g}. Pass "
        "jax.nn.softmax(logits); labels that exclude nothing are one problem of two classes each."
    )


def check_labels(name: str, labels: np.ndarray, num_classes: int) -> None:
    """Whether labels are classes."""
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if outside.size:
        raise ValueError(
            f"{name}: expected labels in 0, …, {num_classes - 1}, got {outside[0]}. Pass mask=(labels != void) where "
            "that number says that there is no label."
        )


def check_finite(name: str, called: str, array: np.ndarray) -> None:
    """Whether all numbers are finite."""
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite {called}, got {array[~np.isfinite(array)][0]}.")


def _shapes(name: str, probs: Any, labels: Any) -> tuple[tuple[int, ...], int]:
    kind = getattr(labels, "dtype", None) or np.asarray(labels).dtype
    if kind.kind in "OSU":
        raise ValueError(
            f"{name}: expected integer labels, got {kind}. Number the names: np.unique(labels, return_inverse=True)[1]."
        )
    shape, of_labels = np.shape(probs), np.shape(labels)
    if len(shape) < 1 or shape[-1] < 2 or shape[:-1] != of_labels:
        raise ValueError(
            f"{name}: expected probs [..., K] with K >= 2 and labels [...], got shapes {shape} and {of_labels}. The "
            "probability p of one of two classes is jnp.stack([1 - p, p], -1); one-hot labels are labels.argmax(-1)."
        )
    if not (jnp.issubdtype(kind, np.integer) or jnp.issubdtype(kind, np.bool_)):
        raise ValueError(f"{name}: expected integer labels, got {kind}. Pass labels.astype(int).")
    return of_labels, shape[-1]


@jax.jit
def _uniform_where_masked(probs: Any, labels: Any, weights: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    keep = weights > 0
    return jnp.where(keep[..., None], probs, jnp.float32(1 / probs.shape[-1])), jnp.where(keep, labels, 0), weights


@jax.jit
def _zero_where_masked(arrays: Any, weights: Any) -> tuple[jax.Array, ...]:
    return tuple(jnp.where(weights > 0, array, 0.0) for array in arrays)
