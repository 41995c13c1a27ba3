"""A drawn weight array that has not been drawn yet, seen through casts, transposes, reshapes and slices."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax


@dataclasses.dataclass(frozen=True)
class Source:
    """A weight array of the network, its family, and the key of its draw."""

    path: str
    family: Any
    key: jax.Array | None
    shape: tuple[int, ...]
    dtype: Any

    def draw(self) -> jax.Array:
        """The draw that the whole batch shares; the same at every call."""
        return self.family.sample(None if self.key is None else jax.random.clone(self.key))

    def draw_each(self, examples: int) -> jax.Array:
        """One draw per example, [B, *shape]."""
        key = jax.random.clone(self.key)
        if hasattr(self.family, "sample_each"):
            return self.family.sample_each(key, examples)
        return jax.vmap(self.family.sample)(jax.random.split(key, examples))


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A structural function (`view`) of a weight array: it moves, drops, repeats and casts entries, nothing else.

    Attributes:
        source: the array before the view.
        view: from an array of the source's shape to one of this shape.
        shape, dtype: of the view.
        axes: for each axis of the view, the axes of the source that it runs over; none where the view is constant.
        stacked: axes of the source of which a loop picks one entry.
    """

    source: Source
    view: Callable[[jax.Array], jax.Array]
    shape: tuple[int, ...]
    dtype: Any
    axes: tuple[frozenset[int], ...]
    stacked: frozenset[int] = frozenset()

    def draw(self) -> jax.Array:
        return self.view(self.source.draw())

    def then(self, function: Callable[[jax.Array], jax.Array], axes: Sequence[Any], stacked: Any = ()) -> "Drawn":
        """The view followed by a structural function, of which `axes` are known."""
        view = self.view
        out = jax.eval_shape(function, jax.ShapeDtypeStruct(self.shape, self.dtype))
        after = lambda w: function(view(w))
        return Drawn(self.source, after, out.shape, out.dtype, tuple(axes), self.stacked | frozenset(stacked))


@dataclasses.dataclass(frozen=True)
class Joined:
    """Views concatenated along `axis`; a part may be a plain array."""

    parts: tuple[Any, ...]
    axis: int

    @property
    def shape(self) -> tuple[int, ...]:
        sizes = list(self.parts[0].shape)
        sizes[self.axis] = sum(p.shape[self.axis] for p in self.parts)
        return tuple(sizes)

    def draw(self) -> jax.Array:
        return lax.concatenate([draw(p) for p in self.parts], self.axis)


def draw(value: Any) -> jax.Array:
    """The array itself: drawn once for the whole batch where it is a view."""
    return value.draw() if is_lazy(value) else value


def is_lazy(value: Any) -> bool:
    return isinstance(value, Drawn | Joined)


def sources(value: Any) -> list[Source]:
    """The weight arrays behind a view."""
    if isinstance(value, Joined):
        return [s for part in value.parts if is_lazy(part) for s in sources(part)]
    return [value.source]


def whole(source: Source) -> Drawn:
    """The view that is the array itself."""
    axes = tuple(frozenset([a]) if size > 1 else frozenset() for a, size in enumerate(source.shape))
    return Drawn(source, lambda w: w, source.shape, source.dtype, axes)


def fused(joined: Joined) -> Drawn | None:
    """The concatenated arrays as one array with one family, where their families commute with views."""
    parts = joined.parts
    if not all(isinstance(p, Drawn) and hasattr(p.source.family, "view") for p in parts):
        return None
    families = [p.source.family.view(p.view) for p in parts]
    if len({jax.tree.structure(f) for f in families}) > 1 or len({p.dtype for p in parts}) > 1:
        return None
    if any(p.dtype != p.source.dtype for p in parts):
        return None  # a cast would round what the family keeps in float32
    family = jax.tree.map(lambda *leaves: lax.concatenate(leaves, joined.axis), *families)
    path = " + ".join(p.source.path for p in parts)
    source = Source(path, family, parts[0].source.key, joined.shape, parts[0].dtype)
    return whole(source)


def entry(drawn: Drawn, index: Any) -> Drawn:
    """The view `drawn[index]` along axis 0, for a traced index: one layer of a stack."""
    return drawn.then(
        lambda w: lax.dynamic_index_in_dim(w, index, 0, keepdims=False), drawn.axes[1:], stacked=drawn.axes[0]
    )


def apply_view(eqn: Any, operands: Sequence[Any]) -> Any | None:
    """The view that a structural operation makes of its first operand, or None where it is no such operation."""
    name, params = eqn.primitive.name, eqn.params
    if name == "concatenate":
        return Joined(tuple(operands), params["dimension"])
    value, rest = operands[0], operands[1:]
    if any(is_lazy(other) for other in rest):
        return None
    if isinstance(value, Joined):
        return _view_of_joined(eqn, value)
    found = _VIEWS[name](value, params) if name in _VIEWS else None
    if found is None:
        return None
    axes, stacked = found
    return value.then(lambda w: eqn.primitive.bind(w, *rest, **params), axes, stacked)


def _view_of_joined(eqn: Any, value: Joined) -> Joined | None:
    # Only what leaves the joined axis whole: casts, transposes, and axes of size one put in or left out.
    name, params = eqn.primitive.name, eqn.params
    axis = value.axis
    if name == "convert_element_type":
        act = lambda p: lax.convert_element_type(p, params["new_dtype"])
    elif name == "transpose":
        axis = params["permutation"].index(axis)
        act = lambda p: lax.transpose(p, params["permutation"])
    elif name in ("reshape", "squeeze", "broadcast_in_dim"):
        out = eqn.outvars[0].aval.shape
        if name == "broadcast_in_dim":
            axis, dims = params["broadcast_dimensions"][axis], params["broadcast_dimensions"]
        elif [n for n in out if n != 1] == [n for n in value.shape if n != 1] and value.shape[axis] != 1:
            dims, axis = None, [i for i, n in enumerate(out) if n != 1][sum(n != 1 for n in value.shape[:axis])]
        else:
            return None
        if out[axis] != value.shape[value.axis]:
            return None

        def act(p: jax.Array) -> jax.Array:
            shape = [p.shape[value.axis] if i == axis else n for i, n in enumerate(out)]
            return p.reshape(shape) if dims is None else lax.broadcast_in_dim(p, shape, dims)
    else:
        return None
    parts = []
    for part in value.parts:
        if isinstance(part, Drawn):
            jaxpr = jax.make_jaxpr(act)(jax.ShapeDtypeStruct(part.shape, part.dtype))
            for inner in jaxpr.eqns:  # one operation, or none where it changes nothing
                part = apply_view(inner, [part])
                if part is None:
                    return None
            parts.append(part)
        else:
            parts.append(act(part))
    return Joined(tuple(parts), axis)


# What an operation does to the axes: for each axis of its result the axes of the source, and the axes that it picks one
# entry of; None where it is no structural operation.
_Axes = tuple[Sequence[frozenset[int]], Any] | None


def _same(value: Drawn, params: Any) -> _Axes:
    return value.axes, ()


def _transpose(value: Drawn, params: Any) -> _Axes:
    return [value.axes[a] for a in params["permutation"]], ()


def _broadcast(value: Drawn, params: Any) -> _Axes:
    axes: list[Any] = [frozenset()] * len(params["shape"])
    for source, target in enumerate(params["broadcast_dimensions"]):
        axes[target] = value.axes[source]
    return axes, ()


def _squeeze(value: Drawn, params: Any) -> _Axes:
    dropped = [d % len(value.shape) for d in params["dimensions"]]
    return [a for i, a in enumerate(value.axes) if i not in dropped], ()


def _reshape(value: Drawn, params: Any) -> _Axes:
    # Walk both shapes in blocks of equal size; every axis of a block runs over all that the block did before.
    if params.get("dimensions") is not None:
        return None
    old, new = list(value.shape), list(params["new_sizes"])
    axes: list[Any] = []
    i = j = 0
    while j < len(new):
        block_old, block_new = [], [j]
        size_new, size_old = new[j], 1
        j += 1
        while size_old != size_new:
            if size_old < size_new:
                block_old.append(i)
                size_old *= old[i]
                i += 1
            else:
                block_new.append(j)
                size_new *= new[j]
                j += 1
        runs: frozenset[int] = frozenset().union(*(value.axes[a] for a in block_old))
        axes += [runs if new[a] > 1 else frozenset() for a in block_new]
    return axes, ()


def _dynamic_slice(value: Drawn, params: Any) -> _Axes:
    # Whole along every axis but those of which one entry is picked.
    axes: list[frozenset[int]] = []
    stacked: set[int] = set()
    for axis, size in enumerate(params["slice_sizes"]):
        if size == value.shape[axis]:
            axes.append(value.axes[axis])
        elif size == 1:
            axes.append(frozenset())
            stacked |= value.axes[axis]
        else:
            return None
    return axes, stacked


def _slice(value: Drawn, params: Any) -> _Axes:
    starts, limits = params["start_indices"], params["limit_indices"]
    axes: list[frozenset[int]] = []
    stacked: set[int] = set()
    for axis, (start, limit) in enumerate(zip(starts, limits, strict=True)):
        picked = limit - start == 1 and value.shape[axis] > 1
        axes.append(frozenset() if picked else value.axes[axis])
        stacked |= value.axes[axis] if picked else set()
    return axes, stacked


_VIEWS: dict[str, Callable[[Drawn, Any], _Axes]] = {
    "convert_element_type": _same,
    "copy": _same,
    "name": _same,
    "reduce_precision": _same,
    "sharding_constraint": _same,
    "stop_gradient": _same,
    "rev": _same,
    "transpose": _transpose,
    "broadcast_in_dim": _broadcast,
    "squeeze": _squeeze,
    "reshape": _reshape,
    "dynamic_slice": _dynamic_slice,
    "slice": _slice,
}
