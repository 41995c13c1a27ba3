"""Outputs that hold a location and the log of its noise: their split, and the range of the latter."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# exp(±30 / 2) keeps every quantity of a log-density finite in float32.
LIMIT = 30.0


def halves(name: str, first: str, second: str, outputs: Any) -> tuple[jax.Array, jax.Array]:
    """The two heads: a pair of arrays of one shape, or the halves of the last axis.

    Raises:
        ValueError: the columns are odd in number, or the pair's shapes differ.
    """
    if isinstance(outputs, tuple | list):
        if len(outputs) != 2 or outputs[0].shape != outputs[1].shape:
            raise ValueError(
                f"{name} takes a pair ({first}, {second}) of equal shapes, got shapes "
                f"{[tuple(o.shape) for o in outputs]}."
            )
        return outputs[0], outputs[1]
    if outputs.ndim < 2 or outputs.shape[-1] % 2:
        raise ValueError(
            f"{name} splits the outputs' last axis into two halves, the {first} and the {second}, but the network's "
            f"outputs have shape {tuple(outputs.shape)}. Give its last layer 2 units for each column of the targets."
        )
    one, other = jnp.split(outputs, 2, axis=-1)
    return one, other


def clipped(name: str, what: str, value: jax.Array, limit: float = LIMIT) -> jax.Array:
    """`value` within ±limit; gradients pass the clip, so that they pull it back.

    Raises:
        ValueError: outside of a trace, it is not finite.
    """
    if not isinstance(value, jax.core.Tracer) and not np.isfinite(value).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(value))[0])
        raise ValueError(
            f"{name}: the {what} is {value[where]} at {list(where)}. The network's outputs are not finite: look for "
            "inputs that are not standardised, lower the learning rate, or load the weights of before."
        )
    # clip(s) in value, s in gradient; the difference of the last two is exactly zero.
    held = jnp.clip(value, -limit, limit)
    return jax.lax.stop_gradient(held) + (value - jax.lax.stop_gradient(value))
