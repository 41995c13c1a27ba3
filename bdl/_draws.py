"""What all functions over draws of a posterior share: draw `index`, how many, how many at once."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdl._bind import bind
from bdl._hoist import hoisted_scan_body
from bdl._hyper import draw_hypers, has_hypers
from bdl._keys import derive
from bdl._outputs import draw_outputs
from bdl._paths import named_leaves
from bdl.model import Model
from bdl.networks._transform import draws_by_itself

# Rows of activations, draws times examples, that keep a device busy.
_ROWS_HOST, _ROWS_ACCELERATOR = 256, 16384


def draw(key: Any, posterior: Any, model: Model, x: Any, noise: str, index: Any) -> tuple[Any, jax.Array, Model]:
    """Draw `index` of the caller's key: the network's outputs, the key of the draw, the model with its hypers drawn."""
    draw_key = derive(key, "predict", index)
    if has_hypers(model.likelihood):
        likelihood, _ = draw_hypers(derive(draw_key, "hyper"), model.likelihood)
        model = dataclasses.replace(model, likelihood=likelihood)
    if is_enumerated(posterior, model) and posterior.members > 1:
        posterior = posterior.member(index)
    outputs, _ = draw_outputs(draw_key, posterior, model, x, noise=noise)
    return outputs, draw_key, model


def each(function: Any, index: jax.Array) -> Any:
    """`function` at each index of a chunk, along a new axis 0."""
    if index.shape[0] == 1:  # without a batch axis the program is the plain network's
        return jax.tree.map(lambda a: a[None], function(index[0]))
    return jax.vmap(function)(index)


def over_draws(
    one: Callable[[jax.Array], Any], add: Callable[[Any, Any, jax.Array], Any], carry: Any, num_samples: int, chunk: int
) -> Any:
    """The last carry of `add(carry, values, valid)` over chunks of draws.

    Args:
        one: the values of draw `index`.
        add: `values` are those of a chunk, along axis 0; `valid` [chunk] says which are no padding.
        carry: the first one.
        num_samples: how many draws.
        chunk: how many at once.
    """

    def body(state: Any, _: Any) -> tuple[Any, None]:
        start, carry = state
        index = start + jnp.arange(chunk)
        return (start + chunk, add(carry, each(one, index), index < num_samples)), None

    # The draws are counted in the carry: an array of their indices would grow with them.
    state = jnp.zeros((), jnp.int32), carry
    (_, carry), _ = jax.lax.scan(once_outside(body, state), state, length=-(-num_samples // chunk))
    return carry


def once_outside(add: Callable[[Any, Any], Any], carry: Any) -> Callable[[Any, Any], Any]:
    """The body of a loop over chunks of draws; what no draw touches (a deterministic trunk) is computed here, once."""
    return hoisted_scan_body(add, carry, None)


def is_enumerated(posterior: Any, model: Model) -> bool:
    """Whether the posterior has finitely many members, of which each is used once; point masses are one."""
    if not hasattr(posterior, "families") or model.network.stochastic or has_hypers(model.likelihood):
        return False
    return all(getattr(family, "is_finite", False) for family in posterior.families.values())


def check_counts(verb: str, posterior: Any, model: Model, num_samples: int | None, chunk_size: int | None) -> int:
    """The number of draws; that of the members for a finite posterior, 1 for one of point masses.

    Raises:
        ValueError: a count is below one, or missing for a random posterior.
    """
    for name, count in (("num_samples", num_samples), ("chunk_size", chunk_size)):
        if count is not None and (not isinstance(count, int | np.integer) or count < 1):
            raise ValueError(f"{verb}: expected {name} as a whole number of at least 1, got {count!r}.")
    if is_enumerated(posterior, model):
        return int(posterior.members)
    if num_samples is None:
        raise ValueError(f"{verb}: this posterior is random. Say how many draws to take, such as num_samples=100.")
    return int(num_samples)


def default_chunk(x: Any) -> int:
    """Draws at once for these inputs: as many as fill the device, measured in rows of activations."""
    # A device with memory of its own is an accelerator, on which small programs wait for each other. On a host a pixel
    # or a time step is a row: the draws of one image fill the caches.
    accelerator = jax.local_devices()[0].memory_stats() is not None
    rows = _ROWS_ACCELERATOR if accelerator else _ROWS_HOST
    shapes = [a.shape[:1] if accelerator or a.ndim < 3 else a.shape[:-1] for a in jax.tree.leaves(x) if a.ndim]
    return max(1, rows // max([*map(math.prod, shapes), 1]))


def refuse_silent(posterior: Any, model: Model, x: Any, num_samples: int | None) -> None:
    """Raise where draws are asked for, the weights are point masses, and the network's dropout layers are off.

    Raises:
        ValueError: it is so.
    """
    network = model.network
    if not num_samples or num_samples < 2 or network.stochastic or getattr(posterior, "families", True):
        return
    if draws_by_itself(network, posterior.tree, x):
        raise ValueError(
            f"predict: {num_samples} draws of a network whose dropout layers are off, and whose weights are point "
            "masses: all would be the same. For Monte Carlo dropout make the model with "
            "bdl.networks.stochastic(network); for the network as it is leave num_samples out."
        )


def refuse_still(key: Any, posterior: Any, model: Model, x: Any) -> None:
    """Raise where outputs that are the same for all draws cannot be chance.

    Raises:
        ValueError: the drawn weights differ, or no family can move.
    """
    posterior, _ = bind(posterior, model, x)
    families = getattr(posterior, "families", {})
    still = {path: why for path, family in families.items() if (why := _cannot_move(family))}
    if families and len(still) == len(families) and not model.network.stochastic:
        named = ", ".join(f"{path} ({why})" for path, why in still.items())
        raise ValueError(
            f"predict: no draw can differ from another: {named}. Give a rate or a scale above 0, or pass check=False."
        )
    draws = [named_leaves(posterior.sample(derive(key, "predict", i))) for i in range(2)]
    differ = [path for path in draws[0] if bool(jnp.any(draws[0][path] != draws[1][path]))]
    if differ or model.network.stochastic:
        what = f"the drawn weights differ ({', '.join(differ)})" if differ else "its own layers are to draw"
        raise ValueError(
            f"predict: the network's outputs are the same for all draws although {what}: they do not reach the "
            "outputs. Check that the network uses its `params` argument and that inputs are not all zero, or pass "
            "check=False."
        )


def _cannot_move(family: Any) -> str:
    for name in ("rate", "scale"):
        value = getattr(family, name, None)
        if value is not None and not np.any(np.asarray(value)):
            return f"{name} 0"
    return ""
