"""Whether data can be used, looked at with NumPy outside any trace."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdl._paths import named_leaves


def is_traced(tree: Any) -> bool:
    """Whether a leaf has no value yet, under `jit`, `vmap` or `grad`, so that there is nothing to look at."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def check_data(x: Any, y: Any = None, *, finite_targets: bool = True) -> None:
    """Whether inputs, and targets where given, are finite, equally long and not empty.

    Args:
        x: an array, or nested dicts of arrays, examples along axis 0.
        y: the targets, likewise.
        finite_targets: whether targets are to be finite; not where a likelihood says what they may be.

    Raises:
        ValueError: they are not; the message names the row and the column.
        TypeError: an array does not hold numbers.

    Example:
        >>> import numpy as np
        >>> check_data(np.array([[1.0, 2.0], [3.0, np.nan]]))
        Traceback (most recent call last):
        ...
        ValueError: x is nan at row 1, column 1. Remove or impute what is missing before the data come here.
    """
    arrays = _arrays("x", x) | (_arrays("y", y) if y is not None else {})
    lengths = {name: _length(name, array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"data must have the same number of rows, got {', '.join(f'{n} for {name}' for name, n in lengths.items())}"
            ". Examples are along axis 0."
        )
    if 0 in lengths.values():
        raise ValueError(f"the data set is empty: {', '.join(lengths)} of 0 rows. Pass at least one example.")
    for name, array in arrays.items() if finite_targets else _arrays("x", x).items():
        check_finite(name, array)


def check_finite(name: str, array: np.ndarray) -> None:
    """Raises a ValueError that names the first row and column where `array` is NaN or infinite."""
    if jnp.issubdtype(array.dtype, np.inexact) and not np.isfinite(array).all():
        where = tuple(np.argwhere(~np.isfinite(array))[0])
        raise ValueError(
            f"{name} is {array[where]} at {place(where)}. Remove or impute what is missing before the data come here."
        )


def place(index: tuple[int, ...]) -> str:
    """An index in words: row 3, column 1."""
    names = ["row", "column"] + [f"axis {axis}:" for axis in range(2, len(index))]
    return ", ".join(f"{name} {i}" for name, i in zip(names, index, strict=False))


def _arrays(name: str, tree: Any) -> dict[str, np.ndarray]:
    return {f"{name}[{path}]" if path else name: np.asarray(leaf) for path, leaf in named_leaves(tree).items()}


def _length(name: str, array: np.ndarray) -> int:
    if not (jnp.issubdtype(array.dtype, np.number) or array.dtype == bool):
        raise TypeError(f"{name} must hold numbers, got dtype {array.dtype}. Encode it as numbers first.")
    if array.ndim == 0:
        raise ValueError(f"{name} must have its examples along axis 0, got the single number {array}.")
    return len(array)
