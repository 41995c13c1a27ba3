"""The few things about a jaxpr's equations that differ between versions of JAX or are needed in several places."""

from collections.abc import Sequence
from typing import Any

from jax.extend import core

Literal = core.Literal


def evaluate(eqn: Any, values: Sequence[Any]) -> list[Any]:
    """The outputs of one equation at `values`, custom derivatives kept."""
    out = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
    return list(out) if eqn.primitive.multiple_results else [out]


def open_jaxpr(jaxpr: Any) -> Any:
    """The jaxpr inside a closed one; a jaxpr that is open already is returned."""
    return getattr(jaxpr, "jaxpr", jaxpr)


def called_jaxpr(eqn: Any) -> Any | None:
    """The jaxpr that a call (jit, remat, custom derivative) runs once, or None for other primitives."""
    if eqn.primitive.name in ("scan", "while", "cond"):
        return None
    for name in ("jaxpr", "call_jaxpr"):
        found = eqn.params.get(name)
        if found is not None and len(open_jaxpr(found).invars) == len(eqn.invars):
            return found
    return None


def scan_counts(eqn: Any) -> tuple[int, int]:
    """The number of constants and of carries among the operands of a scan."""
    params = eqn.params
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()  # jax 0.11 and newer
    return len(consts), len(carry)
