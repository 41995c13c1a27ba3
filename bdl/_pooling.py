"""The gradient of max pooling, without a scatter.

XLA's code for CPUs looks for the largest of each window one window after the other, which can take longer than all
convolutions together.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_LARGEST = 16  # numbers in a window: each is a pass over the data


def has_own_windows(eqn: Any) -> bool:
    """Whether this is the gradient of max pooling by small windows that do not overlap, without padding."""
    params = eqn.params
    return bool(
        eqn.primitive is lax.select_and_scatter_add_p
        and params["select_prim"] is lax.ge_p
        and tuple(params["window_dimensions"]) == tuple(params["window_strides"])
        and math.prod(params["window_dimensions"]) <= _LARGEST
        and not np.any(params["padding"])
    )


def unpooled(eqn: Any, gradient: jax.Array, x: jax.Array) -> jax.Array:
    """What `eqn` computes, by comparisons: each window's gradient stands where its largest number does, the first one.

    Args:
        eqn: for which `has_own_windows`.
        gradient: of the maxima, one for each window.
        x: what was pooled.
    """
    window, counts = eqn.params["window_dimensions"], gradient.shape
    corners = list(np.ndindex(*window))
    of = [x[tuple(slice(i, n * k, k) for i, n, k in zip(corner, counts, window, strict=True))] for corner in corners]
    largest = functools.reduce(jnp.maximum, of)
    first = jnp.full(counts, len(corners), jnp.int32)
    for number, part in reversed(list(enumerate(of))):
        first = jnp.where(part == largest, number, first)
    # [n₀, k₀, n₁, k₁, …]: windows, and the places in each
    spread = lambda a: a.reshape([size for n in counts for size in (n, 1)])
    shape = [size for k in window for size in (1, k)]
    # Counted in the program: a loop's body has no room for a constant array.
    place = jnp.zeros(shape, jnp.int32)
    for axis, k in enumerate(window):
        place = k * place + lax.broadcasted_iota(jnp.int32, shape, 2 * axis + 1)
    found = jnp.where(spread(first) == place, spread(gradient), jnp.zeros((), gradient.dtype))
    found = found.reshape([n * k for n, k in zip(counts, window, strict=True)])
    return jnp.pad(found, [(0, whole - part) for whole, part in zip(x.shape, found.shape, strict=True)])
