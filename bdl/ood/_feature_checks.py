"""What comes in at the door of a detector on features: shapes, labels and numbers, checked outside of any trace."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdl._data_checks import check_finite, is_traced


def features(name: str, array: Any, width: int | None = None) -> jax.Array:
    """Features [N, D] as float32, checked.

    Args:
        name: of the detector, for the messages.
        array: what came.
        width: the D that is expected, where it is known.

    Raises:
        ValueError: the shape is another, there is no row or no column, or a number is not finite.
    """
    shape = np.shape(array)
    expected = f"[N, {'D' if width is None else width}]"
    if len(shape) != 2 or width not in (None, shape[1]):
        raise ValueError(
            f"{name}: expected features {expected}, examples along axis 0, got shape {shape}. Features of pixels "
            "become [N, D] by bdl.ood.pool(features); one example is features[None]."
        )
    if 0 in shape:
        raise ValueError(f"{name}: expected features {expected} with at least one row and one column, got {shape}.")
    found = jnp.asarray(array).astype(jnp.float32)
    if not (is_traced(found) or _all_finite(found)):
        check_finite(f"{name}: the array of features", np.asarray(found))
    return found


def labels(name: str, array: Any, num_examples: int, num_classes: int | None) -> tuple[np.ndarray, int]:
    """Labels [N] as int32 and the number of classes, checked; `num_classes=None` is one more than the largest label.

    Raises:
        ValueError: the shape is not [N], they are no integers, or outside of 0, …, num_classes − 1.
    """
    if is_traced(array):
        raise ValueError(f"{name}: a detector is fitted outside of jit; its scores may be inside.")
    found = np.asarray(array)
    if found.shape != (num_examples,):
        raise ValueError(f"{name}: expected labels [{num_examples}], one for each row of features, got {found.shape}.")
    if not (np.issubdtype(found.dtype, np.integer) or found.dtype == bool):
        raise ValueError(f"{name}: expected integer labels, got {found.dtype}. One-hot labels are labels.argmax(-1).")
    count = int(found.max()) + 1 if num_classes is None else num_classes
    outside = found[(found < 0) | (found >= count)]
    if outside.size:
        raise ValueError(f"{name}: expected labels in 0, …, {count - 1}, got {outside[0]}. Leave out rows without one.")
    return found.astype(np.int32), count


def every_class(name: str, counts: Any, least: int = 1) -> None:
    """Whether each class has so many examples.

    Raises:
        ValueError: one has fewer; the message names it.
    """
    if is_traced(counts):
        return
    few = np.flatnonzero(np.asarray(counts) < least)
    if few.size:
        raise ValueError(
            f"{name}: expected at least {least} example{'s' * (least > 1)} of each of the {len(counts)} classes, got "
            f"{int(counts[few[0]])} of class {few[0]}. Add some, or number the classes that there are from 0 on."
        )


def last_layer(name: str, kernel: Any, bias: Any) -> tuple[jax.Array, jax.Array]:
    """The kernel [D, K] and the bias [K] of the layer that makes logits, as float32, checked.

    Raises:
        ValueError: the shapes are others, or a number is not finite.
    """
    shape, of_bias = np.shape(kernel), np.shape(bias)
    if len(shape) != 2 or 0 in shape or of_bias != shape[1:]:
        raise ValueError(
            f"{name}: expected the last layer's kernel [D, K] and bias [K], got shapes {shape} and {of_bias}. They are "
            "those of the layer whose outputs are the logits; without a bias pass zeros, of PyTorch pass weight.T."
        )
    return finite(name, "kernel", kernel), finite(name, "bias", bias)


def finite(name: str, called: str, array: Any) -> jax.Array:
    """An array of the last layer as float32.

    Raises:
        ValueError: a number is not finite.
    """
    if not is_traced(array) and not np.isfinite(np.asarray(array, np.float32)).all():
        raise ValueError(f"{name}: expected a finite {called}, got one with NaN or ∞.")
    return jnp.asarray(array).astype(jnp.float32)


def share(name: str, called: str, value: float) -> float:
    """A number in (0, 1).

    Raises:
        ValueError: it is not.
    """
    if not 0 < value < 1:
        raise ValueError(f"{name}: expected {called} in (0, 1), got {value}. 90 % are 0.9.")
    return float(value)


def count(name: str, called: str, value: Any, most: int) -> int:
    """A whole number from 1 to `most`.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, int | np.integer) or not 1 <= value <= most:
        raise ValueError(f"{name}: expected {called} as a whole number from 1 to {most}, got {value!r}.")
    return int(value)


@jax.jit
def _all_finite(array: jax.Array) -> jax.Array:
    return jnp.isfinite(array).all()
