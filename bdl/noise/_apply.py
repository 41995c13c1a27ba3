"""One pass of a network in which every example has its own draw of the weights."""

import warnings
from typing import Any

import jax

from bdl._equation import open_jaxpr
from bdl._family import is_family, mean_of, num_members
from bdl._keys import derive
from bdl._paths import named_leaves
from bdl.families._members import draw_member
from bdl.networks._use import Use
from bdl.noise._examples import Examples
from bdl.noise._interpreter import Notes, default_use, interpret
from bdl.noise._view import Source, draw, whole


class _Placeholder:
    """Stands for the draw of a weight array where only shapes matter."""

    def __init__(self, array: Any):
        self.array = array

    def sample(self, key: Any) -> Any:
        return self.array


def find_uses(function: Any, params: Any, x: Any, *rest: Any) -> dict[str, Use]:
    """How `function(params, x, *rest)` uses each array of `params`, by path, from one abstract trace.

    Args:
        function: the network, as a function of its weights and inputs.
        params: nested dict of arrays or their `jax.ShapeDtypeStruct`s.
        x: inputs with the examples along axis 0 of each array.
        rest: other arguments, which do not depend on the examples.
    """
    return _record(_trace(function, params, x, *rest), params, x)


def local(key: jax.Array, function: Any, weights: Any, x: Any, *rest: Any) -> Any:
    """`function(params, x, *rest)` where every example of `x` gets its own draw of the weights.

    Weights enter the unmodified function as views of arrays not drawn yet. A linear operation becomes the family's
    `local` rule, an element-wise one (a bias) gets a draw per example, and what else meets such a view gets one draw
    for the whole batch and is named in a warning.

    Args:
        key: the key of this draw; the array at a path draws from a key of its own.
        function: the network, as a function of its weights and inputs; any JAX code.
        weights: nested dict of families and of plain arrays.
        x: inputs with the examples along axis 0 of each array.
        rest: other arguments, which do not depend on the examples.

    Returns:
        what `function` returns.
    """
    params = jax.eval_shape(lambda: jax.tree.map(mean_of, weights, is_leaf=is_family))
    closed, out = _trace(function, params, x, *rest)
    notes = Notes(_examples(x), _record((closed, out), params, x))
    values = [_lazy(path, weight, key, notes) for path, weight in named_leaves(weights, is_leaf=is_family).items()]
    places = [None] * len(values) + [_place(a) for a in jax.tree.leaves(x)] + [None] * len(jax.tree.leaves(rest))
    jaxpr = open_jaxpr(closed)
    found = interpret(jaxpr, closed.consts, [*values, *jax.tree.leaves((x, rest))], places, notes)
    if notes.shared:
        named = "; ".join(f"{path} ({reason})" for path, reason in sorted(notes.shared.items()))
        warnings.warn(
            f"one draw is shared by all examples for {named}. Local noise is only possible where an array enters a "
            "linear operation or is added or multiplied; gradients have more variance here, and stay unbiased.",
            stacklevel=2,
        )
    return jax.tree.unflatten(jax.tree.structure(out), [draw(value) for value, _ in found])


def _trace(function: Any, params: Any, x: Any, *rest: Any) -> Any:
    return jax.make_jaxpr(function, return_shape=True)(params, x, *rest)


def _record(traced: Any, params: Any, x: Any) -> dict[str, Use]:
    closed, _ = traced
    jaxpr = open_jaxpr(closed)
    notes = Notes(_examples(x), {}, recording=True)
    arrays = named_leaves(params)
    inputs = jaxpr.invars[len(arrays) :]
    places = [None] * len(arrays) + [_place(a) for a in jax.tree.leaves(x)]
    places += [None] * (len(jaxpr.invars) - len(places))

    def run(values: list[Any], others: list[Any], consts: list[Any]) -> list[Any]:
        lazy = [
            whole(Source(path, _Placeholder(value), None, value.shape, value.dtype))
            for path, value in zip(arrays, values, strict=True)
        ]
        return [draw(v) for v, _ in interpret(jaxpr, consts, [*lazy, *others], places, notes)]

    struct = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arrays.values()]
    others = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in inputs]
    jax.eval_shape(run, struct, others, list(closed.consts))
    uses = {path: notes.uses.get(path, default_use(a.shape)) for path, a in arrays.items()}
    return {path: use._replace(shared=notes.shared.get(path, use.shared)) for path, use in uses.items()}


def _lazy(path: str, weight: Any, key: jax.Array, notes: Notes) -> Any:
    if not is_family(weight):
        return weight
    family = weight.bind(notes.uses[path]) if hasattr(weight, "bind") else weight
    members = num_members(family)
    if members > 1:  # an example has the same member of every array
        family = family.member(draw_member(key, members, (notes.examples,)))
    shape = jax.eval_shape(family.sample, key)
    return whole(Source(path, family, derive(key, path), shape.shape, shape.dtype))


def _place(array: Any) -> Examples | None:
    return Examples(0) if array.ndim else None


def _examples(x: Any) -> int:
    sizes = {a.shape[0] for a in jax.tree.leaves(x) if a.ndim}
    if len(sizes) != 1:
        raise ValueError(
            f"expected inputs with one size of axis 0, the examples; got sizes {sorted(sizes)}. "
            "Give every input array one row per example."
        )
    return sizes.pop()
