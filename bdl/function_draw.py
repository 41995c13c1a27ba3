"""One draw of the network as a function that can be kept."""

from collections.abc import Callable
from typing import Any

from bdl._bind import bind
from bdl._draws import draw
from bdl._keys import check_key
from bdl.model import Model


def function_draw(key: Any, posterior: Any, model: Model, index: int = 0) -> Callable[[Any], Any]:
    """Draw `index` of `bdl.predict` with this key, as a function from inputs to the network's outputs.

    It gives the same whenever and wherever it is called, with any number of inputs, and may be transformed by
    `jax.jit`, `jax.grad` and `jax.vmap`: for pictures of functions, for Thompson sampling.

    Args:
        key: one random key.
        posterior: anything with `sample(key)`.
        model: network and likelihood.
        index: which draw.

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.ones((3, 1))})
        >>> posterior = bdl.variational(network.params, bdl.families.normal(scale=0.1))
        >>> model = bdl.Model(network, bdl.likelihoods.Normal(scale=0.5))
        >>> f = bdl.function_draw(jax.random.key(0), posterior, model, index=3)
        >>> float(f(jnp.ones((1, 3)))[0, 0]) == float(f(jnp.ones((2, 3)))[1, 0])
        True
    """
    key = check_key(key)

    def function(x: Any) -> Any:
        bound, _ = bind(posterior, model, x)
        return draw(key, bound, model, x, "shared", index)[0]

    return function
