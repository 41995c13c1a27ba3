"""A point mass: the weights of an ordinary network."""

from typing import Any

import jax
import jax.numpy as jnp


def point(array: Any) -> jax.Array:
    """A point mass at `array`, learned like any other parameter: the plain array itself.

    It has no density, so that its part of the "KL" is −log p(w), and the objective is a penalised likelihood (MAP).

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> bdl.variational({"kernel": jnp.ones((3, 2))}, bdl.families.point).tree["kernel"].shape
        (3, 2)
    """
    return jnp.asarray(array)
