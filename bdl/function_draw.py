"""One draw of the network as a function that can be kept."""

from typing import Any

import equinox as eqx
import jax

from bdl._bind import bind
from bdl._draws import draw
from bdl._keys import check_key
from bdl.model import Model


class FunctionDraw(eqx.Module):
    """A draw of a network: a plain function of its inputs, the same whenever it is called. See `function_draw`."""

    key: jax.Array
    posterior: Any
    model: Model
    index: int = eqx.field(static=True)

    def __call__(self, x: Any) -> Any:
        """The network's outputs at `x` for this draw of the weights."""
        posterior, model = bind(self.posterior, self.model, x)
        return draw(self.key, posterior, model, x, "shared", self.index)[0]


def function_draw(key: Any, posterior: Any, model: Model, index: int = 0) -> FunctionDraw:
    """Draw `index` of `bdl.predict` with this key, as a function from inputs to the network's outputs.

    It may be called anywhere, with any number of inputs, and transformed by `jax.jit`, `jax.grad` and `jax.vmap`: for
    pictures of functions, for Thompson sampling, for what a number of the outputs' distribution cannot tell.

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
    return FunctionDraw(check_key(key), posterior, model, index)
