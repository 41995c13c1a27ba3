"""A linear operation between activations and one weight array, in the form that a family's local rule sees."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdl.networks._use import Use
from bdl.noise._examples import Examples, split
from bdl.noise._view import Drawn


@dataclasses.dataclass(frozen=True)
class Linear:
    """The function `linear(x, w)` of a local rule.

    x [B, P, I] are B examples with P positions (time steps, pixels) and I inputs each; the result is [B, P', O].
    `w` has the shape of the weight array itself, whatever transposes and slices the network applies to it.

    Attributes:
        use: how the network uses the weight array.
        transposed: the axes that the array's first use sums over are the outputs of this use (tied weights).
        lookup: the operation picks rows by index; x is 1 and I is 1.
    """

    use: Use
    transposed: bool
    lookup: bool
    _apply: Callable[[jax.Array, jax.Array], jax.Array]
    _each: Callable[[jax.Array, jax.Array], jax.Array]
    _inputs: Callable[[jax.Array], jax.Array]
    _outputs: Callable[[jax.Array], jax.Array]
    _shape: tuple[int, ...]

    def __call__(self, x: jax.Array, w: jax.Array) -> jax.Array:
        return self._apply(x, w)

    def each(self, x: jax.Array, w: jax.Array) -> jax.Array:
        """`linear(x, w)` where every example has an array of its own, w [B, *shape]: exact, in memory for B arrays."""
        return self._each(x, w)

    def inputs(self, rows: jax.Array) -> jax.Array:
        """One number per example and row of the array, [B, *use.row_shape], as a factor [B, P or 1, I] of inputs."""
        return self._inputs(self.use.expand(rows, self._shape))

    def outputs(self, units: jax.Array) -> jax.Array:
        """One number per example and output unit of the array, [B, *use.out_shape], as a factor [B, 1, O]."""
        return self._outputs(self.use.expand(units, self._shape))


@dataclasses.dataclass(frozen=True)
class _Layout:
    """An array with its examples somewhere, and its canonical form [B, P, C] with channels C in a given order."""

    shape: tuple[int, ...]
    where: Examples
    channels: tuple[int, ...]

    def _split(self) -> tuple[tuple[int, ...], tuple[int, ...], int]:
        # The shape with the examples' axis in three, the permutation to (B, positions, channels), their number.
        axis, outer, inner = self.where
        examples = self.shape[axis] // (outer * inner)
        shape = (*self.shape[:axis], outer, examples, inner, *self.shape[axis + 1 :])
        channels = tuple(c if c < axis else c + 2 for c in self.channels)
        rest = tuple(a for a in range(len(shape)) if a != axis + 1 and a not in channels)
        return shape, (axis + 1, *rest, *channels), examples

    def single(self) -> "_Layout":
        """The layout of the same array for a batch of one example."""
        axis, outer, inner = self.where
        return dataclasses.replace(self, shape=(*self.shape[:axis], outer * inner, *self.shape[axis + 1 :]))

    def canonical(self, array: jax.Array) -> jax.Array:
        _, permutation, examples = self._split()
        width = math.prod(self.shape[c] for c in self.channels)
        return split(array, self.where).transpose(permutation).reshape(examples, -1, width)

    def restore(self, array: jax.Array) -> jax.Array:
        shape, permutation, _ = self._split()
        moved = array.reshape([shape[a] for a in permutation])
        return moved.transpose(np.argsort(permutation)).reshape(self.shape)


def _through(view: Callable[[jax.Array], jax.Array], shape: tuple[int, ...], keep: Any) -> Any:
    # Numbers [B, *broadcastable] seen as the view sees the weights, of which `keep` takes one entry per channel.
    def per_example(numbers: jax.Array) -> jax.Array:
        order = _order(view, shape, keep, numbers.shape)
        if order is None:
            return keep(view(jnp.broadcast_to(numbers, shape))).reshape(1, -1)
        whole = len(order) == numbers.size and np.array_equal(order, np.arange(numbers.size))
        return (numbers.reshape(-1) if whole else numbers.reshape(-1)[order]).reshape(1, -1)

    return jax.vmap(per_example)


def _order(view: Any, shape: tuple[int, ...], keep: Any, numbers: tuple[int, ...]) -> np.ndarray | None:
    # Which of the numbers are picked. Their gradient then never has the shape of the weights for each example, as that
    # of a slice of what was repeated would.
    try:
        with jax.ensure_compile_time_eval():
            index = jnp.arange(math.prod(numbers)).reshape(numbers)
            picked = np.asarray(keep(view(jnp.broadcast_to(index, shape)))).reshape(-1)
    except jax.errors.JAXTypeError:  # the view depends on a loop's index
        return None
    return picked if np.issubdtype(picked.dtype, np.integer) else None  # a cast may have rounded


def dot_use(eqn: Any, drawn: Drawn, side: int) -> Use:
    """How a `dot_general` with the weight array as operand `side` uses it."""
    contract, batch = (d[side] for d in eqn.params["dimension_numbers"])
    summed = frozenset().union(*(drawn.axes[a] for a in contract))
    stacked = drawn.stacked.union(*(drawn.axes[a] for a in batch))
    free = [a for a in range(len(drawn.shape)) if a not in contract and a not in batch]
    kept = frozenset().union(*(drawn.axes[a] for a in free))
    if summed & kept:
        return Use(shared="an axis of it is both summed over and kept")
    return Use(
        in_axes=tuple(sorted(summed)),
        stack_axes=tuple(sorted(stacked - summed)),
        fan_in=math.prod(drawn.shape[a] for a in contract),
    )


def dot(eqn: Any, x: Any, where: Examples, drawn: Drawn, side: int, out_where: Examples, use: Use) -> Any:
    """The linear operation of a `dot_general`, its input in canonical form, the layout of its result; or None."""
    contract, batch = eqn.params["dimension_numbers"]
    x_side = 1 - side
    if where.axis in batch[x_side]:
        return None
    free = [a for a in range(len(drawn.shape)) if a not in contract[side] and a not in batch[side]]
    into = _Layout(x.shape, where, (*batch[x_side], *contract[x_side]))
    out = eqn.outvars[0].aval.shape
    first = len(batch[0]) + (0 if side == 0 else len(out) - len(batch[0]) - len(free))
    onto = _Layout(out, out_where, (*range(len(batch[0])), *range(first, first + len(free))))

    def act(into: _Layout, onto: _Layout, x3: jax.Array, w: jax.Array) -> jax.Array:
        array = into.restore(x3)
        operands = (array, drawn.view(w)) if side else (drawn.view(w), array)
        return onto.canonical(eqn.primitive.bind(*operands, **eqn.params))

    def pick(kept_axes: tuple[int, ...]) -> Callable[[jax.Array], jax.Array]:
        index = tuple(slice(None) if a in kept_axes else 0 for a in range(len(drawn.shape)))
        order = np.argsort(np.argsort(kept_axes))  # from ascending order to the channels' order
        return lambda w: w[index].transpose(order)

    shape = drawn.source.shape
    inputs = _through(drawn.view, shape, pick((*batch[side], *contract[side])))
    outputs = _through(drawn.view, shape, pick((*batch[side], *free)))
    return _linear(drawn, use, dot_use(eqn, drawn, side), act, inputs, outputs, into.canonical(x), into, onto)


def conv_use(eqn: Any, drawn: Drawn) -> Use:
    """How a `conv_general_dilated` with the weight array as its kernel uses it."""
    out_axis, in_axis, *window = eqn.params["dimension_numbers"].rhs_spec
    groups = eqn.params["feature_group_count"]
    rows, pixels, outs = drawn.axes[in_axis], frozenset().union(*(drawn.axes[a] for a in window)), drawn.axes[out_axis]
    if (rows | pixels) & outs or rows & pixels or (groups > 1 and len(outs) != 1):
        return Use(shared="an axis of it is both summed over and kept")
    return Use(
        in_axes=tuple(sorted(rows)),
        window_axes=tuple(sorted(pixels)),
        stack_axes=tuple(sorted(drawn.stacked)),
        fan_in=math.prod(drawn.shape[a] for a in (in_axis, *window)),
        groups=groups,
        group_axis=next(iter(outs)) if groups > 1 else -1,
    )


def conv(eqn: Any, x: Any, where: Examples, drawn: Drawn, out_where: Examples, use: Use) -> Any:
    """The linear operation of a convolution; see `dot`."""
    numbers, groups = eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
    out_axis, in_axis, *_ = numbers.rhs_spec
    into = _Layout(x.shape, where, (numbers.lhs_spec[1],))
    onto = _Layout(eqn.outvars[0].aval.shape, out_where, (numbers.out_spec[1],))

    def act(into: _Layout, onto: _Layout, x3: jax.Array, w: jax.Array) -> jax.Array:
        return onto.canonical(eqn.primitive.bind(into.restore(x3), drawn.view(w), **eqn.params))

    def keep_inputs(w: jax.Array) -> jax.Array:
        # Channel g * C + c of the input meets entry c of the kernel in the outputs of group g.
        per_group = w.shape[out_axis] // groups
        index = tuple(slice(None) if a == in_axis else slice(None, None, per_group) if a == out_axis else 0
                      for a in range(w.ndim))  # fmt: skip
        rows = w[index]
        return rows if out_axis < in_axis else rows.T

    def keep_outputs(w: jax.Array) -> jax.Array:
        return w[tuple(slice(None) if a == out_axis else 0 for a in range(w.ndim))]

    inputs = _through(drawn.view, drawn.source.shape, keep_inputs)
    outputs = _through(drawn.view, drawn.source.shape, keep_outputs)
    return _linear(drawn, use, conv_use(eqn, drawn), act, inputs, outputs, into.canonical(x), into, onto)


def gather_use(eqn: Any, drawn: Drawn) -> Use | None:
    """How a `gather` that looks up rows (an embedding) uses the array; None for any other gather."""
    numbers = eqn.params["dimension_numbers"]
    rows = numbers.collapsed_slice_dims == (0,) and numbers.start_index_map == (0,)
    whole = tuple(eqn.params["slice_sizes"][1:]) == drawn.shape[1:]
    if not rows or not whole or drawn.axes[0] & frozenset().union(*drawn.axes[1:]):
        return None
    # One row is looked up, so that an output unit has one input.
    return Use(in_axes=tuple(sorted(drawn.axes[0])), stack_axes=tuple(sorted(drawn.stacked)), fan_in=1)


def gather(eqn: Any, ids: Any, where: Examples, drawn: Drawn, out_where: Examples, use: Use) -> Any:
    """The linear operation of a look-up; see `dot`."""
    into = _Layout(ids.shape, where, (len(ids.shape) - 1,))
    onto = _Layout(eqn.outvars[0].aval.shape, out_where, eqn.params["dimension_numbers"].offset_dims)
    rows = into.canonical(ids)[..., 0]

    def find(into: _Layout, onto: _Layout, rows: jax.Array, w: jax.Array) -> jax.Array:
        indices = into.restore(rows[..., None])
        return onto.canonical(eqn.primitive.bind(drawn.view(w), indices, **eqn.params))

    def look_up(numbers: jax.Array) -> jax.Array:
        table = _through(drawn.view, drawn.source.shape, lambda w: w[(slice(None), *[0] * (w.ndim - 1))])(numbers)
        return jnp.take_along_axis(table[:, 0, :], rows, axis=1, mode="clip")[..., None]

    outputs = _through(drawn.view, drawn.source.shape, lambda w: w[0])
    found = gather_use(eqn, drawn)
    assert found is not None  # checked by the caller
    ones = jnp.ones((*rows.shape, 1), drawn.dtype)
    one, one_out = into.single(), onto.single()
    linear = Linear(
        use,
        _transposed(use, found),
        True,
        lambda x3, w: x3 * find(into, onto, rows, w),
        lambda x3, w: x3 * jax.vmap(lambda r, w: find(one, one_out, r[None], w)[0])(rows, w),
        look_up,
        outputs,
        drawn.source.shape,
    )
    return (linear, ones, onto) if _agree(use, found) else None


def _linear(
    drawn: Drawn, use: Use, here: Use, act: Any, inputs: Any, outputs: Any, x: Any, into: _Layout, onto: _Layout
) -> Any:
    if not _agree(use, here):
        return None
    one, one_out = into.single(), onto.single()
    linear = Linear(
        use,
        _transposed(use, here),
        False,
        lambda x3, w: act(into, onto, x3, w),
        jax.vmap(lambda x2, w: act(one, one_out, x2[None], w)[0]),
        inputs,
        outputs,
        drawn.source.shape,
    )
    return linear, x, onto


def _agree(use: Use, here: Use) -> bool:
    # `use` is the array's first use, which its family was bound to; this one must agree with it or be its transpose.
    rows, here_rows = set(use.in_axes), set(here.in_axes)
    return not here.shared and use.groups == here.groups and (rows == here_rows or not rows & here_rows)


def _transposed(use: Use, here: Use) -> bool:
    return set(use.in_axes) != set(here.in_axes)
