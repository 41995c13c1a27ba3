"""Which numbers of a model and a posterior are learned, and which were handed over and stay."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp


class Learned(eqx.Module):
    """A number of a prior or a likelihood that is learned with the weights. See `learned`."""

    value: jax.Array

    def __init__(self, value: Any):
        self.value = jnp.asarray(value, jnp.float32)


def learned(value: Any) -> Learned:
    """Mark a number as learned: `Normal(scale=bdl.learned(0.3))` starts at 0.3 and moves with the weights.

    A number that is handed over without this mark is traced, so that changing it does not compile again, but no
    optimiser ever sees it.

    Example:
        >>> import bdl
        >>> model_part = bdl.likelihoods.Normal(scale=bdl.learned(0.3))
        >>> bdl.partition(model_part)[0].scale
        Array(0.3, dtype=float32)
    """
    return Learned(value)


def value_of(number: Any) -> Any:
    """The number itself, of one that may be marked as learned."""
    return number.value if isinstance(number, Learned) else number


def map_learned(function: Callable[[Any], Any], number: Any) -> Any:
    """`function` of a number that may be marked as learned; the mark stays."""
    return Learned(function(number.value)) if isinstance(number, Learned) else function(number)


def fixed_field(**kwargs: Any) -> Any:
    """A field of a family whose leaves are fixed: traced, but not learned. Other fields of a family are learned."""
    return eqx.field(metadata={"fixed": True}, **kwargs)


def learned_field(**kwargs: Any) -> Any:
    """A field whose leaves are learned, such as the tree of a posterior."""
    return eqx.field(metadata={"learned": True}, **kwargs)


def partition(node: Any) -> tuple[Any, Any]:
    """The learned and the fixed half of a posterior or a model; `None` stands where the other half has the leaf.

    Optimisers see the first half only. `equinox.combine(learned, fixed)` puts them together again.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> posterior = bdl.variational({"kernel": jnp.ones((3, 2))}, bdl.families.bernoulli_dropout(rate=0.1))
        >>> learned_half, fixed_half = bdl.partition(posterior)
        >>> learned_half.tree["kernel"].rate is None, fixed_half.tree["kernel"].kernel is None
        (True, True)
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(node)
    mask = jax.tree.unflatten(structure, [_is_learned(node, path) and eqx.is_inexact_array(a) for path, a in leaves])
    return eqx.partition(node, mask)


def _is_learned(node: Any, path: tuple[Any, ...]) -> bool:
    result = False
    for entry in path:
        if isinstance(node, Learned):
            return True
        if isinstance(node, eqx.Module):
            metadata = {f.name: f.metadata for f in dataclasses.fields(node)}[entry.name]
            result = (result or metadata.get("learned", False)) and not metadata.get("fixed", False)
            node = getattr(node, entry.name)
        else:
            node = node[entry.key if hasattr(entry, "key") else entry.idx]
    return result or isinstance(node, Learned)
