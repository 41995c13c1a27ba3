"""What comes in at the door of the functions that give indices: they run on the host, outside of any trace."""

from typing import Any

import jax
import numpy as np

from bdl._data_checks import is_traced
from bdl._keys import check_key, derive


def host(name: str, called: str, array: Any) -> np.ndarray:
    """A not empty array [N] of the host.

    Raises:
        ValueError: it is traced, has no or several axes, or is empty.
    """
    if is_traced(array):
        raise ValueError(f"{name}: expected {called} with values, got a tracer. Make indices outside of jit and vmap.")
    array = np.asarray(array)
    if array.ndim != 1 or not len(array):
        raise ValueError(
            f"{name}: expected {called} as an array [N] of at least one element, got shape {array.shape}. Pass one "
            f"element for each row of the data, {called}.ravel() if need be."
        )
    return array


def classes(name: str, labels: Any, called: str = "labels") -> np.ndarray:
    """Labels [N], integers.

    Raises:
        ValueError: they are not; see also `host`.
    """
    labels = host(name, called, labels)
    if labels.dtype.kind not in "iub":
        raise ValueError(f"{name}: expected integer {called}, got {labels.dtype}. Pass {called}.astype(int).")
    return labels.astype(np.int64)


def same_length(name: str, called: str, array: np.ndarray, length: int) -> None:
    """Raises a ValueError where there is not one element for each row."""
    if len(array) != length:
        raise ValueError(f"{name}: expected {called} for each of {length} rows, got {len(array)}.")


def whole_number(name: str, called: str, number: Any, least: int) -> int:
    """A whole number of at least `least`, or a ValueError."""
    if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < least:
        raise ValueError(f"{name}: expected {called} as a whole number of at least {least}, got {number!r}.")
    return int(number)


def generator(name: str, key: Any) -> np.random.Generator:
    """NumPy's generator for a named use of the caller's key."""
    if is_traced(key):
        raise ValueError(f"{name}: expected a key with a value, got a tracer. Make indices outside of jit and vmap.")
    with jax.ensure_compile_time_eval():  # numbers, also while something else is traced
        return np.random.default_rng(np.asarray(jax.random.key_data(derive(check_key(key), name))))
