"""A function of many examples, a batch of them at a time, so that memory does not grow with their number."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def in_batches(function: Callable[[Any], Any], data: Any, batch_size: int | None) -> list[tuple[Any, int]]:
    """`function` of each batch, and how many rows of the batch are not padding, for `batch_size=None` of all at once.

    Batches have one shape, and so one program: the last is filled up with copies of its last row.

    Raises:
        ValueError: `batch_size` is no whole number of at least 1.
    """
    if batch_size is None:
        return [(function(jax.tree.map(jnp.asarray, data)), _length(data))]
    if not isinstance(batch_size, int | np.integer) or batch_size < 1:
        raise ValueError(f"expected batch_size as a whole number of at least 1, got {batch_size!r}.")
    length = _length(data)
    size = min(int(batch_size), length)
    found = []
    for start in range(0, length, size):
        rows = np.minimum(np.arange(start, start + size), length - 1)
        batch = jax.tree.map(lambda a, rows=rows: jnp.asarray(a[rows]), data)
        found.append((function(batch), min(size, length - start)))
    return found


def joined(parts: list[tuple[Any, int]], axis: int = 0) -> Any:
    """The results of the batches as one, along `axis`, without padding."""
    if len(parts) == 1:
        return parts[0][0]
    cut = [jax.tree.map(lambda a, n=n: jax.lax.slice_in_dim(a, 0, n, axis=axis), result) for result, n in parts]
    return jax.tree.map(lambda *arrays: jnp.concatenate(arrays, axis), *cut)


def _length(data: Any) -> int:
    arrays = [a for a in jax.tree.leaves(data) if np.ndim(a)]
    return int(arrays[0].shape[0]) if arrays else 1
