"""Numbers for the rows of a weight array: all weights that leave one input unit."""

from typing import Any

import jax
import jax.numpy as jnp

from bdl.networks._use import Use


def scale_rows(kernel: jax.Array, factors: jax.Array, use: Use) -> jax.Array:
    """The array with its rows multiplied by `factors`, of `use.row_shape`."""
    return kernel * use.expand(factors, kernel.shape).astype(kernel.dtype)


def local_rows(kernel: jax.Array, factors: jax.Array, x: jax.Array, linear: Any) -> jax.Array:
    """`linear(x, w)` where each example multiplies the rows of `kernel` by its own `factors`, [B, *use.row_shape]."""
    factors = factors.astype(x.dtype)
    if linear.transposed:
        return linear(x, kernel) * linear.outputs(factors)
    return linear(x * linear.inputs(factors), kernel)


def sum_rows(array: jax.Array, use: Use) -> jax.Array:
    """The sum over the entries of each row, of `use.row_shape`."""
    # Each axis is cut into its rows, and into what is summed over: (size, 1), (1, size) or (groups, size / groups).
    cuts = zip(array.shape, use.row_shape(array.shape), strict=True)
    shape = [n for size, rows in cuts for n in (rows, size // rows)]
    return array.reshape(shape).sum(tuple(range(1, len(shape), 2)))


def spread(rows: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Numbers per row, or one for all, repeated where needed so that they broadcast against an array of `shape`."""
    for axis, (size, row) in enumerate(zip(shape, rows.shape, strict=True)):
        if 1 < row < size:  # the rows of a grouped convolution
            rows = jnp.repeat(rows, size // row, axis)
    return rows
