"""What a network is: a pure function of its weights, its state and the inputs."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from bdl._paths import map_named


class Network(eqx.Module):
    """A network as pure functions of its weights.

    Made by `bdl.from_linen`, `bdl.from_nnx` or `bdl.network`; networks made from equal modules share one trace.

    Attributes:
        function: `function(params, state, x, key, train) -> (outputs, state)`, pure and hashable.
        params: the weights, nested dicts of floating arrays; `None` in the network of a `bdl.Model`, whose weights are
            the posterior's.
        state: what the network carries beside its weights, such as batch statistics; `{}` where there is nothing.
        stochastic: whether the network's own dropout layers count as random. See `bdl.networks.stochastic`.
    """

    function: Callable[..., Any] = eqx.field(static=True)
    params: Any
    state: Any
    stochastic: bool = eqx.field(static=True, default=False)

    def apply(self, params: Any, state: Any, x: Any, *, key: Any = None, train: bool = False) -> tuple[Any, Any]:
        """The outputs, and the state after the call.

        The two switches never move together.

        Args:
            params: the weights, in the structure of `self.params`.
            state: in the structure of `self.state`.
            x: the inputs, examples along axis 0.
            key: what the network's own stochastic layers draw from; without one they are off.
            train: whether batch normalisation uses and updates batch statistics; otherwise it uses those in `state`,
                which comes back as it was.
        """
        return self.function(params, state, x, key, train)


def network(fn: Callable[..., Any], params: Any) -> Network:
    """A network from a function `fn(params, x) -> outputs`, or `fn(params, x, key=None)` if it draws by itself.

    Args:
        fn: a pure function; `params` are handed to it in their own structure. Networks share a trace where they share
            the function itself, so define it once, outside of loops.
        params: nested dicts of floating arrays.

    Raises:
        TypeError: a leaf of `params` is not a floating array; the message names its path.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> line = bdl.network(lambda p, x: x @ p["w"] + p["b"], {"w": jnp.ones((3, 1)), "b": jnp.zeros(1)})
        >>> outputs, state = line.apply(line.params, line.state, jnp.ones((5, 3)))
        >>> outputs.shape, state
        ((5, 1), {})
    """
    return Network(_Function(fn, "key" in inspect.signature(fn).parameters), as_params(params), {})


@dataclasses.dataclass(frozen=True)
class _Function:
    """A user's function as a network's: it has no state and nothing to train differently."""

    fn: Callable[..., Any]
    takes_key: bool

    def __call__(self, params: Any, state: Any, x: Any, key: Any, train: bool) -> tuple[Any, Any]:
        del train
        return (self.fn(params, x, key=key) if self.takes_key else self.fn(params, x)), state


def as_params(tree: Any) -> Any:
    """`tree` with mappings as plain dicts and floating arrays as `jax.Array`s.

    Raises:
        TypeError: a leaf is not a floating array.
    """
    return map_named(_as_weight, plain(tree))


def plain(tree: Any) -> Any:
    """`tree` with every mapping as a dict whose keys are strings."""
    if isinstance(tree, Mapping):
        return {str(name): plain(value) for name, value in tree.items()}
    return tree


def _as_weight(path: str, leaf: Any) -> jax.Array:
    if not hasattr(leaf, "dtype") or not jnp.issubdtype(leaf.dtype, jnp.floating):
        got = f"{leaf.dtype}{list(leaf.shape)}" if hasattr(leaf, "dtype") else type(leaf).__name__
        raise TypeError(
            f"parameters must be floating arrays, but {path!r} is {got}: it cannot be drawn or learned. "
            "Cast it with `.astype(jnp.float32)`, or keep it out of the parameters."
        )
    return jnp.asarray(leaf)
