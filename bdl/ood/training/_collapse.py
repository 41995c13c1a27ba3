"""What lets a network answer every input alike: numbers that are added whatever the input, and outputs with a bound."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from bdl._equation import Literal, called_jaxpr, open_jaxpr, scan_counts
from bdl._paths import named_leaves
from bdl.networks._base import Network

_ADDITIONS = ("add", "sub", "add_any")
_FACTORS = 1e3, 1e6  # of the weights, for which bounded outputs stay alike


def added_arrays(network: Network, x: Any) -> tuple[str, ...]:
    """The paths of the weights that are added to what depends on the inputs: biases, by what they do.

    Args:
        network: with its weights; it is traced once, and nothing is computed.
        x: inputs, or their `jax.ShapeDtypeStruct`.
    """
    paths = list(named_leaves(network.params))
    closed = jax.make_jaxpr(lambda params, x, state: network.apply(params, state, x, train=True)[0])(
        network.params, x, network.state
    )
    jaxpr = open_jaxpr(closed)
    count = len(jax.tree.leaves(x))
    rest = len(jaxpr.invars) - len(paths) - count
    inputs = [_Origin(False, frozenset({path})) for path in paths]
    inputs += [_Origin(True, frozenset())] * count + [_Origin(False, frozenset())] * rest
    found: set[str] = set()
    _follow(jaxpr, inputs, found)
    return tuple(path for path in paths if path in found)


@dataclasses.dataclass(frozen=True)
class _Origin:
    """Where a value comes from: whether from the inputs, and if not, from which weights."""

    varies: bool
    paths: frozenset[str]


def _follow(jaxpr: Any, inputs: list[_Origin], found: set[str]) -> list[_Origin]:
    none = _Origin(False, frozenset())
    origins: dict[Any, _Origin] = dict.fromkeys(jaxpr.constvars, none)
    origins.update(zip(jaxpr.invars, inputs, strict=True))
    of = lambda v: none if isinstance(v, Literal) else origins.get(v, none)
    for eqn in jaxpr.eqns:
        operands = [of(v) for v in eqn.invars]
        varies = any(o.varies for o in operands)
        constant = frozenset[str]().union(*(o.paths for o in operands if not o.varies))
        if eqn.primitive.name in _ADDITIONS and varies:
            found |= constant
        inner = called_jaxpr(eqn)
        if eqn.primitive.name == "scan":
            out = _follow_scan(eqn, operands, found)
        elif inner is not None:
            out = _follow(open_jaxpr(inner), operands, found)
        else:
            out = [_Origin(varies, frozenset() if varies else constant)] * len(eqn.outvars)
        origins.update(zip(eqn.outvars, out, strict=True))
    return [of(v) for v in jaxpr.outvars]


def _follow_scan(eqn: Any, operands: list[_Origin], found: set[str]) -> list[_Origin]:
    # What is carried depends on the inputs once a step has put them in.
    body, (consts, carries) = open_jaxpr(eqn.params["jaxpr"]), scan_counts(eqn)
    carried = slice(consts, consts + carries)
    while True:
        seen: set[str] = set()
        out = _follow(body, operands, seen)
        after = [
            _Origin(a.varies or b.varies, a.paths | b.paths)
            for a, b in zip(operands[carried], out[:carries], strict=True)
        ]
        if after == operands[carried]:
            found |= seen
            return out
        operands = [*operands[:consts], *after, *operands[consts + carries :]]


def is_bounded(network: Network, apply: Callable[[Network], Any]) -> bool:
    """Whether the outputs stay as they are when weights that are very large already grow a thousandfold.

    Args:
        network: with its weights.
        apply: its outputs for some inputs.
    """
    scaled = lambda factor: dataclasses.replace(network, params=jax.tree.map(lambda a: a * factor, network.params))
    large, larger = (np.abs(np.asarray(apply(scaled(factor)), np.float64)).max() for factor in _FACTORS)
    return bool(0 < larger <= 1.5 * large < np.inf)
