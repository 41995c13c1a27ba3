"""What comes in at the door of a diagnostic: arrays over draws, checked with NumPy outside of any trace."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdl._data_checks import is_traced

MATRIX = "one row for each draw and one column for each example, as bdl.diagnostics.pointwise_log_likelihood gives it"


def array(name: str, called: str, given: Any, ndim: int | tuple[int, ...], what: str = MATRIX) -> jax.Array:
    """An array as float32, of as many axes and without NaN or infinity.

    Args:
        name: of the function, for the messages.
        called: of the argument.
        given: the array.
        ndim: how many axes it may have.
        what: what was expected, in words.

    Raises:
        ValueError: it is not so, or it is empty.
    """
    shape, allowed = np.shape(given), (ndim,) if isinstance(ndim, int) else ndim
    if len(shape) not in allowed or 0 in shape:
        raise ValueError(f"{name}: expected {called} with {what}; got shape {shape}.")
    if not is_traced(given):
        numbers = np.asarray(given, np.float32)
        if not np.isfinite(numbers).all():
            where = tuple(int(i) for i in np.argwhere(~np.isfinite(numbers))[0])
            raise ValueError(
                f"{name}: expected finite {called}, got {numbers[where]} at {list(where)}. A log-density of -inf says "
                "that a draw excludes what was observed: widen the likelihood, or leave that example out and say so."
            )
    return jnp.asarray(given).astype(jnp.float32)


def whole(name: str, called: str, value: Any, least: int) -> int:
    """A whole number of at least `least`.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name}: expected {called} as a whole number of at least {least}, got {value!r}.")
    return int(value)
