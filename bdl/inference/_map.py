"""Maximum a posteriori: the ordinary training of a network, with the prior as its weight decay."""

from typing import Any

import optax

from bdl.inference._base import Algorithm
from bdl.inference._vi import vi


def map(optimizer: optax.GradientTransformation) -> Algorithm:
    """Ascend log p(w) + Σ log p(y | x, w): the mode of the posterior, for a posterior of point masses.

    Args:
        optimizer: any optax optimiser.

    Raises:
        ValueError: (by `init`) the posterior has families, which have no single value.

    Example:
        >>> import jax.numpy as jnp, optax, bdl
        >>> posterior = bdl.variational({"w": jnp.zeros((3, 1))}, bdl.families.point)
        >>> algorithm = bdl.inference.map(optax.adam(1e-2))
    """
    algorithm = vi(optimizer, noise="shared")

    def init(key: Any, posterior: Any, model: Any, *, num_data: float) -> Any:
        families = getattr(posterior, "families", None)
        if families is None or families:
            raise ValueError(
                "inference.map: expected a posterior of point masses, got families at "
                f"{', '.join(families or ['(no tree)'])}. Use `bdl.variational(params, bdl.families.point)`, or "
                "`bdl.inference.vi` for families."
            )
        return algorithm.init(key, posterior, model, num_data=num_data)

    return Algorithm(init, algorithm.step)
