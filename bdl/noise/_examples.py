"""Where the examples of the batch are in an intermediate array, traced through a network's program.

The inputs have their examples along axis 0. Every operation moves them (a transpose), merges them with other axes
(`reshape(B * T, D)`), sums them away (batch statistics), or loses them (an operation that is not known here).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from bdl._equation import Literal, called_jaxpr, open_jaxpr, scan_counts


class Examples(NamedTuple):
    """Axis `axis` has size outer * B * inner, and runs over the B examples in the middle."""

    axis: int
    outer: int = 1
    inner: int = 1


# The array depends on the examples, but which entry belongs to which example is not known.
LOST = Examples(-1)

Where = Examples | None


def trace(jaxpr: Any, inputs: Sequence[Where]) -> list[Where]:
    """Where the examples are in each output of `jaxpr`, given where they are in its inputs."""
    where: dict[Any, Where] = dict(zip(jaxpr.invars, inputs, strict=True))
    for eqn in jaxpr.eqns:
        ins = [None if isinstance(v, Literal) else where.get(v) for v in eqn.invars]
        where.update(zip(eqn.outvars, step(eqn, ins), strict=True))
    return [None if isinstance(v, Literal) else where.get(v) for v in jaxpr.outvars]


def step(eqn: Any, ins: Sequence[Where]) -> list[Where]:
    """Where the examples are in each output of one equation."""
    outs = [v.aval for v in eqn.outvars]
    if all(w is None for w in ins):
        return [None] * len(outs)
    name = eqn.primitive.name
    inner = called_jaxpr(eqn)
    if name == "scan":
        return _scan(eqn, ins)
    if name == "while":
        return _while(eqn, ins)
    if name == "cond":
        branches = [trace(open_jaxpr(b), ins[1:]) for b in eqn.params["branches"]]
        return [_join(found) for found in zip(*branches, strict=True)]
    if inner is not None:
        return trace(open_jaxpr(inner), ins)
    if LOST in ins:
        return [LOST] * len(outs)
    rule = _RULES.get(name)
    if rule is None and (name.startswith("reduce_") or name.startswith("arg")) and "axes" in eqn.params:
        rule = _reduce
    shapes = [v.aval.shape for v in eqn.invars]
    if name in _MOVES:
        return [None if ins[0] is None else _MOVES[name](eqn, ins[0], shapes[0], outs[0].shape)]
    if rule is not None:
        return [rule(eqn, list(ins), shapes, outs[0].shape)] * len(outs)
    return [_same_place(ins, shapes, out.shape) for out in outs]


def carry_places(body: Any, before: Sequence[Where], carry: Sequence[Where], after: Sequence[Where]) -> list[Where]:
    """Where the examples are in a loop's carries: the fixed point over its iterations."""
    carry = list(carry)
    for _ in range(2 * len(carry) + 2):
        found = trace(body, [*before, *carry, *after])[: len(carry)]
        joined = [_join(pair) for pair in zip(carry, found, strict=True)]
        if joined == carry:
            break
        carry = joined
    return carry


def slice_place(where: Where) -> Where:
    """Where the examples are in `array[i]` for a loop over axis 0."""
    if where is None or where == LOST:
        return where
    return LOST if where.axis == 0 else where._replace(axis=where.axis - 1)


def _scan(eqn: Any, ins: Sequence[Where]) -> list[Where]:
    consts, carries = scan_counts(eqn)
    body = open_jaxpr(eqn.params["jaxpr"])
    before, carry, xs = ins[:consts], ins[consts : consts + carries], [slice_place(w) for w in ins[consts + carries :]]
    carry = carry_places(body, before, carry, xs)
    stacked = trace(body, [*before, *carry, *xs])[carries:]
    return [*carry, *(w if w is None or w == LOST else w._replace(axis=w.axis + 1) for w in stacked)]


def _while(eqn: Any, ins: Sequence[Where]) -> list[Where]:
    skip = eqn.params["cond_nconsts"]
    consts = eqn.params["body_nconsts"]
    body = open_jaxpr(eqn.params["body_jaxpr"])
    return carry_places(body, ins[skip : skip + consts], ins[skip + consts :], [])


def _join(found: Sequence[Where]) -> Where:
    present = {w for w in found if w is not None}
    return None if not present else present.pop() if len(present) == 1 else LOST


def _same_place(ins: Sequence[Where], shapes: Sequence[tuple[int, ...]], out: tuple[int, ...]) -> Where:
    # Element-wise operations, and those that keep the number of axes and the size of the examples' one.
    found = set()
    for where, shape in zip(ins, shapes, strict=True):
        if where is not None:
            kept = len(shape) == len(out) and shape[where.axis] == out[where.axis]
            found.add(where if kept else LOST)
    return _join(tuple(found))


def _only(ins: Sequence[Where], operand: int) -> Where:
    # The place in one operand, where no other operand depends on the examples.
    others = [w for i, w in enumerate(ins) if i != operand and w is not None]
    return LOST if others else ins[operand]


def _reduce(eqn: Any, ins: list[Where], shapes: Any, out: Any) -> Where:
    where = _join(tuple(ins))
    axes = eqn.params["axes"]
    if where is None or where == LOST:
        return where
    return None if where.axis in axes else where._replace(axis=where.axis - sum(a < where.axis for a in axes))


def _along(eqn: Any, ins: list[Where], shapes: Any, out: Any) -> Where:
    # Sorts, cumulative sums and reversals: along the examples' axis they mix the examples.
    params = eqn.params
    axes = params.get("dimensions") or [params.get("dimension", params.get("axis"))]
    mixed = any(w is not None and w.axis in axes for w in ins)
    return LOST if mixed else _same_place(ins, shapes, out)


def _transpose(eqn: Any, where: Examples, shape: tuple[int, ...], out: Any) -> Where:
    return where._replace(axis=eqn.params["permutation"].index(where.axis))


def _broadcast(eqn: Any, where: Examples, shape: tuple[int, ...], out: tuple[int, ...]) -> Where:
    axis = eqn.params["broadcast_dimensions"][where.axis]
    return where._replace(axis=axis) if out[axis] == shape[where.axis] else LOST


def _reshape(eqn: Any, where: Examples, shape: tuple[int, ...], out: tuple[int, ...]) -> Where:
    # In row-major order the examples are `before` blocks of B runs of `after` entries.
    axis, outer, inner = where
    if eqn.params.get("dimensions") is not None:
        return LOST
    before = math.prod(shape[:axis]) * outer
    after = math.prod(shape[axis + 1 :]) * inner
    examples = shape[axis] // (outer * inner)
    best = None
    for new in range(len(out)):
        left, right = math.prod(out[:new]), math.prod(out[new + 1 :])
        if left and right and before % left == 0 and after % right == 0:
            place = Examples(new, before // left, after // right)
            if place.outer * place.inner * examples == out[new]:
                best = place
                if examples > 1 or place.outer * place.inner == 1:
                    return place
    return best or LOST


def _squeeze(eqn: Any, where: Examples, shape: tuple[int, ...], out: Any) -> Where:
    dropped = [d % len(shape) for d in eqn.params["dimensions"]]
    return LOST if where.axis in dropped else where._replace(axis=where.axis - sum(d < where.axis for d in dropped))


def _dot_general(eqn: Any, ins: list[Where], shapes: Any, out: Any) -> Where:
    (contract, batch) = eqn.params["dimension_numbers"]
    places: list[Where] = []
    for side in (0, 1):
        where = ins[side]
        if where is None:
            continue
        if where.axis in contract[side]:
            places.append(None)  # summed over the examples
        elif where.axis in batch[side]:
            places.append(where._replace(axis=list(batch[side]).index(where.axis)))
        else:
            free = [[a for a in range(len(shapes[s])) if a not in contract[s] and a not in batch[s]] for s in (0, 1)]
            offset = len(batch[0]) + (len(free[0]) if side else 0)
            places.append(where._replace(axis=offset + free[side].index(where.axis)))
    return places[0] if len(set(places)) == 1 else LOST


def _conv(eqn: Any, ins: list[Where], shapes: Any, out: Any) -> Where:
    numbers = eqn.params["dimension_numbers"]
    where = _only(ins, 0)
    if where is None or where == LOST or where.axis != numbers.lhs_spec[0] or eqn.params["batch_group_count"] != 1:
        return LOST
    return where._replace(axis=numbers.out_spec[0])


def _gather(eqn: Any, ins: list[Where], shapes: Any, out: tuple[int, ...]) -> Where:
    numbers = eqn.params["dimension_numbers"]
    operand, indices = ins[0], ins[1]
    batch_axes = [a for a in range(len(out)) if a not in numbers.offset_dims]
    if indices is not None and (operand is None or operand.axis in numbers.operand_batching_dims):
        return indices._replace(axis=batch_axes[indices.axis]) if indices.axis < len(batch_axes) else LOST
    if operand is None or operand == LOST or eqn.params["slice_sizes"][operand.axis] != shapes[0][operand.axis]:
        return LOST
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    kept = [a for a in range(len(shapes[0])) if a not in gone]
    return operand._replace(axis=numbers.offset_dims[kept.index(operand.axis)]) if operand.axis in kept else LOST


# Operations that move the axes of one array: (equation, where its examples are, its shape, the result's shape).
_MOVES: dict[str, Callable[[Any, Examples, tuple[int, ...], tuple[int, ...]], Where]] = {
    "transpose": _transpose,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _squeeze,
}

_RULES = {
    **dict.fromkeys(("sort", "rev", "cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"), _along),
    "dot_general": _dot_general,
    "conv_general_dilated": _conv,
    "gather": _gather,
}


def split(array: jax.Array, where: Examples) -> jax.Array:
    """`array` with the examples' axis as three: outer, B, inner."""
    shape = array.shape
    examples = shape[where.axis] // (where.outer * where.inner)
    return array.reshape(*shape[: where.axis], where.outer, examples, where.inner, *shape[where.axis + 1 :])
