"""Gradients of networks of images that stay fast on CPUs, inside of compiled loops as well.

XLA's code for CPUs wants channels last. It gives all convolutions that form, but those in the body of a loop it leaves
as they are (https://github.com/jax-ml/jax/issues/12868): there the gradient of a kernel takes 20 to 40 times as long.
Of max pooling see `bdl._pooling`.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax import lax

from bdl._equation import Literal, evaluate, open_jaxpr
from bdl._pooling import has_own_windows, unpooled


def fast_images(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of arrays, with every convolution from [N, ..., C] to [N, ..., C] under a kernel [..., C, K].

    Axes are permuted before and after it; the numbers are the same. Gradients of max pooling become comparisons. Apply
    it after differentiation, since gradients of convolutions are convolutions of other forms.
    """

    def permuted(*args: Any) -> Any:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        return jax.tree.unflatten(jax.tree.structure(shapes), _run(closed, *jax.tree.leaves(args)))

    return permuted


def _run(closed: Any, *args: Any) -> list[Any]:
    jaxpr = open_jaxpr(closed)
    env = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*getattr(closed, "consts", ()), *args), strict=True))

    def read(v: Any) -> Any:
        return v.val if isinstance(v, Literal) else env[v]

    for eqn in jaxpr.eqns:
        values = [read(v) for v in eqn.invars]
        replacement = _replacement(eqn)
        if replacement is not None:
            outs = [replacement(eqn, *values)]
        else:
            inner = {name: value for name, value in eqn.params.items() if any(map(_changes, _jaxprs(value)))}
            changed = {name: _permuted(value) for name, value in inner.items()}
            outs = evaluate(eqn.replace(params={**eqn.params, **changed}) if changed else eqn, values)
        env.update(zip(eqn.outvars, outs, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _replacement(eqn: Any) -> Callable[..., jax.Array] | None:
    """What computes the same as this equation and is fast, from the equation and its operands."""
    if eqn.primitive is lax.conv_general_dilated_p:
        return _convolution
    return unpooled if has_own_windows(eqn) else None


def _convolution(eqn: Any, x: jax.Array, kernel: jax.Array) -> jax.Array:
    numbers, rank = eqn.params["dimension_numbers"], x.ndim
    images = 0, rank - 1, *range(1, rank - 1)  # of examples, channels, pixels
    kernels = rank - 1, rank - 2, *range(rank - 2)  # of outputs, inputs, pixels
    x, kernel = _moved(x, numbers.lhs_spec, images), _moved(kernel, numbers.rhs_spec, kernels)
    params = {**eqn.params, "dimension_numbers": lax.ConvDimensionNumbers(images, kernels, images)}
    return _moved(lax.conv_general_dilated_p.bind(x, kernel, **params), images, numbers.out_spec)


def _moved(array: jax.Array, source: tuple[int, ...], target: tuple[int, ...]) -> jax.Array:
    """`array` with what is at the axes `source` at the axes `target`."""
    return array.transpose([source[target.index(axis)] for axis in range(array.ndim)])


def _jaxprs(value: Any) -> Iterator[Any]:
    """The programs in a parameter of an equation: of a call, a loop's body, branches."""
    for one in value if isinstance(value, tuple | list) else (value,):
        if hasattr(open_jaxpr(one), "eqns"):
            yield one


def _changes(jaxpr: Any) -> bool:
    return any(
        _replacement(eqn) is not None
        or any(_changes(inner) for value in eqn.params.values() for inner in _jaxprs(value))
        for eqn in open_jaxpr(jaxpr).eqns
    )


def _permuted(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(map(_permuted, value))
    types = [v.aval for v in open_jaxpr(value).invars]
    found = jax.make_jaxpr(lambda *args: _run(value, *args))(*types)
    if open_jaxpr(value) is not value:
        return found
    return value if found.consts else found.jaxpr  # a program without room for constants
