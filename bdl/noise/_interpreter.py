"""Runs a network's program with weights that are not drawn yet, and hands linear operations to their families.

A program is a jaxpr. Its arrays are plain, with a note of where their examples are, or views of weights not drawn. A
linear operation between activations and a view becomes `family.local`; an element-wise one gets one draw per example;
whatever else meets a view gets the draw that the whole batch shares, and the reason is noted.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bdl._equation import Literal, called_jaxpr, evaluate, open_jaxpr, scan_counts
from bdl._hoist import hoisted_scan_body
from bdl.families._local import unit_noise
from bdl.networks._use import Use, matrix_use
from bdl.noise import _linear as linear
from bdl.noise._examples import LOST, Where, carry_places, slice_place, step
from bdl.noise._pending import Pending, added_once
from bdl.noise._view import Drawn, Joined, Source, apply_view, draw, entry, fused, is_lazy, sources

_ELEMENTWISE = {"add", "sub", "mul", "div", "max", "min", "pow", "atan2", "select_n", "add_any"}


@dataclasses.dataclass
class Notes:
    """What an interpretation found out.

    Attributes:
        examples: B.
        uses: how each weight array is used; filled in while `recording`, read otherwise.
        recording: only find the uses; every array is drawn once.
        shared: why an array got one draw for the whole batch, by path.
    """

    examples: int
    uses: dict[str, Use]
    recording: bool = False
    shared: dict[str, str] = dataclasses.field(default_factory=dict)


def interpret(
    jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], where: Sequence[Where], notes: Notes
) -> list[Any]:
    """The outputs of `jaxpr`, with their examples' places: [(value, where), ...]."""
    env: dict[Any, tuple[Any, Where]] = {}
    env.update(zip(jaxpr.constvars, ((c, None) for c in consts), strict=True))
    env.update(zip(jaxpr.invars, zip(args, where, strict=True), strict=True))

    def read(v: Any) -> tuple[Any, Where]:
        return (v.val, None) if isinstance(v, Literal) else env[v]

    added = added_once(jaxpr)
    for eqn in jaxpr.eqns:
        values, places = zip(*map(read, eqn.invars), strict=True) if eqn.invars else ((), ())
        found = _waiting(eqn, values, places, notes) if added.issuperset(eqn.outvars) else None
        env.update(zip(eqn.outvars, found or _run(eqn, values, places, notes), strict=True))
    return [read(v) for v in jaxpr.outvars]


def _run(eqn: Any, values: Sequence[Any], places: Sequence[Where], notes: Notes) -> list[tuple[Any, Where]]:
    if any(isinstance(v, Pending) for v in values):
        first, second = values if isinstance(values[0], Pending) else reversed(values)
        merged = first.add(second)
        if merged is not None:
            return [(merged.astype(eqn.outvars[0].aval.dtype), step(eqn, places)[0])]
        values = [v.draw() if isinstance(v, Pending) else v for v in values]
    lazy = [is_lazy(v) for v in values]
    if not any(lazy):
        return _plain(eqn, values, places)
    name = eqn.primitive.name
    if name in _STEP_INTO:
        return _STEP_INTO[name](eqn, values, places, notes)
    inner = called_jaxpr(eqn)
    if inner is not None and name != "custom_vjp_call":
        return _call(eqn, inner, values, places, notes)
    view = apply_view(eqn, values) if not any(p for p in places) else None
    if view is not None:
        return [(view, None)]
    found = _local(eqn, values, places, notes) or _elementwise(eqn, values, places, notes)
    if found is None:
        reason = f"it enters `{name}`"
        found = _plain(eqn, [_share(v, reason, notes) for v in values], places)
    return found


def _plain(eqn: Any, values: Sequence[Any], places: Sequence[Where]) -> list[tuple[Any, Where]]:
    return list(zip(evaluate(eqn, values), step(eqn, places), strict=True))


def _share(value: Any, reason: str, notes: Notes) -> Any:
    if is_lazy(value):
        for source in sources(value):
            notes.shared.setdefault(source.path, reason)
    return draw(value)


# ---- linear operations -------------------------------------------------------------------------------------------


def _local(eqn: Any, values: Any, places: Any, notes: Notes) -> list[tuple[Any, Where]] | None:
    # The local rule of the family whose array meets activations.
    found = _linear_operation(eqn, values, places, notes)
    if not isinstance(found, _Operation):
        return found
    out = found.source.family.local(jax.random.clone(found.source.key), found.x, found.linear)
    return [(found.onto.restore(out.astype(eqn.outvars[0].aval.dtype)), found.where)]


def _waiting(eqn: Any, values: Any, places: Any, notes: Notes) -> list[tuple[Any, Where]] | None:
    # A result whose noise waits for what is added to it.
    if notes.recording or not any(map(is_lazy, values)) or any(isinstance(v, Joined | Pending) for v in values):
        return None
    found = _linear_operation(eqn, values, places, notes)
    if not isinstance(found, _Operation) or not hasattr(found.source.family, "local_moments"):
        return None
    moments = found.source.family.local_moments(found.x, found.linear)
    if moments is None:
        return None
    mean, variance = (found.onto.restore(m) for m in moments)
    examples = found.x.shape[0]

    def noise() -> jax.Array:
        unit = unit_noise(jax.random.clone(found.source.key), found.linear, examples, found.source.shape)
        return found.onto.restore(jnp.broadcast_to(unit, moments[0].shape))

    return [(Pending(mean.astype(eqn.outvars[0].aval.dtype), variance, noise, found.onto.channels), found.where)]


class _Operation(NamedTuple):
    source: Source
    linear: linear.Linear
    x: jax.Array
    onto: Any
    where: Where


def _linear_operation(
    eqn: Any, values: Any, places: Any, notes: Notes
) -> "_Operation | list[tuple[Any, Where]] | None":
    name = eqn.primitive.name
    if name == "dot_general" and is_lazy(values[0]) != is_lazy(values[1]):
        side = 0 if is_lazy(values[0]) else 1
    elif name == "conv_general_dilated" and not is_lazy(values[0]) and eqn.params["batch_group_count"] == 1:
        side = 1
    elif name == "gather" and not is_lazy(values[1]):
        side = 0
    else:
        return None
    weights, x, where = values[side], values[1 - side], places[1 - side]
    if isinstance(weights, Joined):
        return _joined(eqn, values, places, side, notes)
    if notes.recording:
        use = _use_of(eqn, weights, side)
        if use is not None and not use.shared:
            notes.uses.setdefault(weights.source.path, use)
            if where is None or where == LOST:
                notes.shared.setdefault(weights.source.path, "it meets inputs whose examples cannot be traced")
            return _plain(eqn, [draw(v) for v in values], places)
        return None
    out_where = step(eqn, places)[0]
    if where is None or where == LOST or out_where is None or out_where == LOST:
        return None
    use = notes.uses[weights.source.path]
    if name == "dot_general":
        found = linear.dot(eqn, x, where, weights, side, out_where, use)
    elif name == "conv_general_dilated":
        found = linear.conv(eqn, x, where, weights, out_where, use)
    else:
        found = linear.gather(eqn, x, where, weights, out_where, use) if linear.gather_use(eqn, weights) else None
    if found is None or not hasattr(weights.source.family, "local"):
        return None
    operation, x3, onto = found
    return _Operation(weights.source, operation, x3, onto, out_where)


def _use_of(eqn: Any, drawn: Drawn, side: int) -> Use | None:
    name = eqn.primitive.name
    if name == "dot_general":
        return linear.dot_use(eqn, drawn, side)
    return linear.conv_use(eqn, drawn) if name == "conv_general_dilated" else linear.gather_use(eqn, drawn)


def _joined(eqn: Any, values: Any, places: Any, side: int, notes: Notes) -> list[tuple[Any, Where]] | None:
    # x @ [V, W] = [x @ V, x @ W]: possible along an axis that is kept.
    weights = values[side]
    if eqn.primitive.name != "dot_general":
        return None
    contract, batch = eqn.params["dimension_numbers"]
    if weights.axis in contract[side] or weights.axis in batch[side]:
        return None
    whole_kernel = None if notes.recording else fused(weights)
    if whole_kernel is not None:
        use = linear.dot_use(eqn, whole_kernel, side)
        source = dataclasses.replace(whole_kernel.source, family=whole_kernel.source.family.bind(use))
        operands = list(values)
        operands[side] = dataclasses.replace(whole_kernel, source=source)
        inside = dataclasses.replace(notes, uses={**notes.uses, source.path: use})
        return _local(eqn, operands, places, inside)
    free = [a for a in range(len(weights.shape)) if a not in contract[side] and a not in batch[side]]
    rank = len(eqn.outvars[0].aval.shape)
    first = len(batch[0]) if side == 0 else rank - len(free)
    pieces = []
    for part in weights.parts:
        operands = [part, values[1]] if side == 0 else [values[0], part]
        shapes = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in operands]
        jaxpr = jax.make_jaxpr(lambda a, b: lax.dot_general_p.bind(a, b, **eqn.params))(*shapes)
        pieces += interpret(jaxpr.jaxpr, jaxpr.consts, operands, places, notes)
    return [(lax.concatenate([p for p, _ in pieces], first + free.index(weights.axis)), step(eqn, places)[0])]


def _elementwise(eqn: Any, values: Any, places: Any, notes: Notes) -> list[tuple[Any, Where]] | None:
    # Biases, scales, embeddings of positions: every example gets its own draw of the array.
    present = {p for p in places if p is not None}
    if eqn.primitive.name not in _ELEMENTWISE or len(present) != 1 or LOST in present:
        return None
    where = present.pop()
    if notes.recording:
        for value in values:
            for source in sources(value) if is_lazy(value) else ():
                notes.uses.setdefault(source.path, Use(fan_in=1))
        return _plain(eqn, [draw(v) for v in values], places)
    drawn = [_draw_each(v, where, notes) if is_lazy(v) else v for v in values]
    return None if any(v is None for v in drawn) else _plain(eqn, drawn, places)


def _draw_each(value: Any, where: Any, notes: Notes) -> jax.Array | None:
    if isinstance(value, Joined):
        parts = [_draw_each(p, where, notes) if is_lazy(p) else p for p in value.parts]
        if value.axis == where.axis or any(p is None for p in parts):
            return None
        return jnp.concatenate([p for p in parts if p is not None], value.axis)
    if value.axes[where.axis] or not hasattr(value.source.family, "local"):
        return None  # it differs along the examples' axis already
    one = lambda w: lax.index_in_dim(value.view(w), 0, where.axis, keepdims=False)
    each = jnp.moveaxis(jax.vmap(one)(value.source.draw_each(notes.examples)), 0, where.axis)
    shape = list(value.shape)
    shape[where.axis : where.axis + 1] = [where.outer, notes.examples, where.inner]
    dims = [a if a < where.axis else where.axis + 1 if a == where.axis else a + 2 for a in range(each.ndim)]
    spread = lax.broadcast_in_dim(each, shape, dims)
    return spread.reshape(*value.shape[: where.axis], -1, *value.shape[where.axis + 1 :])


# ---- programs inside programs ------------------------------------------------------------------------------------


class _Closure:
    """An inner program of which the lazy operands stay outside: `run(*plain)` gives plain outputs and their places."""

    def __init__(self, jaxpr: Any, values: Any, places: Any, notes: Notes):
        self.jaxpr, self.places, self.notes = jaxpr, list(places), notes
        self.inner = open_jaxpr(jaxpr)
        self.values = list(values)
        self.open = [i for i, v in enumerate(values) if not is_lazy(v)]
        self.plain = [values[i] for i in self.open]

    def run(self, *plain: Any) -> list[Any]:
        values = list(self.values)
        for i, value in zip(self.open, plain, strict=True):
            values[i] = value
        consts = getattr(self.jaxpr, "consts", ())
        outs = interpret(self.inner, consts, values, self.places, self.notes)
        return [_share(v, "the network returns it", self.notes) for v, _ in outs]


def _call(eqn: Any, closed: Any, values: Any, places: Any, notes: Notes) -> list[tuple[Any, Where]]:
    if eqn.primitive.name in ("remat", "remat2", "checkpoint"):
        body = _Closure(closed, values, places, notes)
        outs = jax.checkpoint(body.run, prevent_cse=eqn.params["prevent_cse"], policy=eqn.params["policy"])(*body.plain)
        return list(zip(outs, step(eqn, places), strict=True))
    return interpret(open_jaxpr(closed), getattr(closed, "consts", ()), values, places, notes)


def _scan(eqn: Any, values: Any, places: Any, notes: Notes) -> list[tuple[Any, Where]]:
    consts, carries = scan_counts(eqn)
    jaxpr = eqn.params["jaxpr"]
    before, stack = values[:consts], values[consts + carries :]
    carry = [_share(v, "a loop carries it", notes) for v in values[consts : consts + carries]]
    sliced = [slice_place(p) for p in places[consts + carries :]]
    inside = [
        *places[:consts],
        *carry_places(open_jaxpr(jaxpr), places[:consts], places[consts : consts + carries], sliced),
        *sliced,
    ]
    stack = [_share(v, "a loop runs over it", notes) if isinstance(v, Joined) else v for v in stack]
    plain_stack = [v for v in stack if not is_lazy(v)]

    def body(state: Any, row: Any) -> Any:
        index, carry = state
        rows = iter(row)
        entries = [entry(v, index) if isinstance(v, Drawn) else next(rows) for v in stack]
        closure = _Closure(jaxpr, [*before, *carry, *entries], inside, notes)
        outs = closure.run(*closure.plain)
        return (index + 1, outs[:carries]), outs[carries:]

    start = (jnp.zeros((), jnp.int32), list(carry))
    hoisted = hoisted_scan_body(body, start, [jax.eval_shape(lambda a: a[0], v) for v in plain_stack])
    keep = {k: eqn.params[k] for k in ("length", "reverse", "unroll")}
    if keep["reverse"] and len(plain_stack) != len(stack):  # the loop's index runs backwards
        flip = [jnp.flip(v, 0) for v in plain_stack]
        stack = [_flipped(v) if isinstance(v, Drawn) else v for v in stack]
        (_, carry), ys = lax.scan(hoisted, start, flip, length=keep["length"], unroll=keep["unroll"])
        ys = [jnp.flip(y, 0) for y in ys]
    else:
        (_, carry), ys = lax.scan(hoisted, start, plain_stack, **keep)
    return list(zip([*carry, *ys], step(eqn, places), strict=True))


def _flipped(drawn: Drawn) -> Drawn:
    # The stack of weights in reverse order.
    return drawn.then(lambda w: jnp.flip(w, 0), drawn.axes)


def _while(eqn: Any, values: Any, places: Any, notes: Notes) -> list[tuple[Any, Where]]:
    params = eqn.params
    conds, bodies = params["cond_nconsts"], params["body_nconsts"]
    carry = [_share(v, "a loop carries it", notes) for v in values[conds + bodies :]]
    before = places[conds : conds + bodies]
    inside = carry_places(open_jaxpr(params["body_jaxpr"]), before, places[conds + bodies :], [])

    def run(jaxpr: Any, consts: Any, where: Any, carry: Any) -> Any:
        closure = _Closure(jaxpr, [*consts, *carry], [*where, *inside], notes)
        return closure.run(*closure.plain)

    out = lax.while_loop(
        lambda carry: run(params["cond_jaxpr"], values[:conds], places[:conds], carry)[0],
        lambda carry: run(params["body_jaxpr"], values[conds : conds + bodies], before, carry),
        carry,
    )
    return list(zip(out, inside, strict=True))


def _cond(eqn: Any, values: Any, places: Any, notes: Notes) -> list[tuple[Any, Where]]:
    closures = [_Closure(b, values[1:], places[1:], notes) for b in eqn.params["branches"]]
    index = _share(values[0], "a branch depends on it", notes)
    out = lax.switch(index, [c.run for c in closures], *closures[0].plain)
    return list(zip(out, step(eqn, places), strict=True))


_STEP_INTO = {"scan": _scan, "while": _while, "cond": _cond}


def default_use(shape: tuple[int, ...]) -> Use:
    """The use of an array that this input does not reach."""
    return matrix_use(shape) if len(shape) < 3 else Use(in_axes=tuple(range(len(shape) - 1)), fan_in=0)
