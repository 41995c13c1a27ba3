"""Class activation maps: where in the image a logit comes from."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bdl._equation import Literal, called_jaxpr, evaluate, open_jaxpr
from bdl.networks._base import Network

_ENDS = (
    "activation_maps needs a network that ends in the mean over all pixels and one dense layer (or a 1 × 1 convolution "
    "and the mean), whose outputs are the logits"
)
_EDITS = (
    "Pass logits= to pick the logits out of the network's outputs, without a softmax; a network of another kind needs "
    "its end replaced."
)


class Maps(NamedTuple):
    """Of one draw of the weights.

    Attributes:
        maps: [N, H, W, C].
        bias: the logits less the mean of their maps, [N, C].
        error: how far the network's end is from the mean and one dense layer: below 1 where rounding explains it.
    """

    maps: jax.Array
    bias: jax.Array
    error: jax.Array


def with_activation_maps(
    network: Network, logits: Callable[[Any], Any] | None, classes: tuple[int, ...] | None, size: tuple[int, ...] | None
) -> Network:
    """`network` with `Maps` as its outputs; see `bdl.activation_maps`, which has the formula.

    The last array of the network's program that has pixels, and through which alone the logits see the inputs, are the
    features f. What follows is a function of f, and its derivative at a pixel is w / (H W) where it is a mean and a
    dense layer: no layer need be named, and functions between them (ReLU) are found like layers.
    """
    return dataclasses.replace(network, function=_ActivationMaps(network.function, logits, classes, size))


@dataclasses.dataclass(frozen=True)
class _ActivationMaps:
    function: Callable[..., Any]
    logits: Callable[[Any], Any] | None
    classes: tuple[int, ...] | None
    size: tuple[int, ...] | None

    def __call__(self, params: Any, state: Any, x: Any, key: Any, train: bool) -> tuple[Any, Any]:
        def logits(x: Any) -> Any:
            outputs, _ = self.function(params, state, x, key, train)
            return _check_logits(outputs if self.logits is None else self.logits(outputs), x)

        features, tail = _split(logits, x)
        found, pullback = jax.vjp(tail, features)
        classes = _check_classes(self.classes, found.shape[1])
        pixels = math.prod(features.shape[1:-1])

        # map_c = Σ_k w_kc f_k, where w_kc = (number of pixels) ∂logit_c / ∂f_k.
        def one(c: jax.Array) -> tuple[jax.Array, jax.Array]:
            (slope,) = pullback(jax.nn.one_hot(jnp.full(len(found), c), found.shape[1], dtype=found.dtype))
            weights = pixels * slope.astype(jnp.float32)
            axes = tuple(range(1, weights.ndim - 1))
            uneven = jnp.abs(weights - weights.mean(axes, keepdims=True)).max() / _largest(weights)
            return (weights * features).sum(-1), uneven

        maps, uneven = jax.lax.map(one, jnp.asarray(classes))
        maps = jnp.moveaxis(maps, 0, -1)
        bias = found[:, jnp.asarray(classes)].astype(jnp.float32) - maps.mean(tuple(range(1, maps.ndim - 1)))
        alone = tail(jnp.zeros_like(features))[:, jnp.asarray(classes)]
        gap = jnp.abs(bias - alone).max() / (_largest(found) + jnp.abs(maps).mean())
        if self.size is not None:
            maps = jax.image.resize(maps, (len(maps), *self.size, maps.shape[-1]), "linear")
        return Maps(maps, bias, jnp.maximum(uneven.max(), gap) / _rounding(found, features)), state


def _rounding(*arrays: jax.Array) -> float:
    # float32 rounds at 1e-6, the matrix units of accelerators at 1e-3; another end is off by its own size.
    return 1e-2 if all(jnp.finfo(a.dtype).eps < 1e-4 for a in arrays) else 5e-2


def _largest(array: jax.Array) -> jax.Array:
    return jnp.abs(array.astype(jnp.float32)).max() + jnp.finfo(jnp.float32).tiny


def _check_logits(found: Any, x: Any) -> jax.Array:
    if not hasattr(found, "shape") or found.ndim != 2 or found.shape[0] != x.shape[0]:
        shapes = jax.tree.map(lambda a: tuple(a.shape), found)
        raise ValueError(
            f"activation_maps: expected logits [{x.shape[0]}, C], got outputs of shape {shapes}. Pass logits=, a "
            "function from the network's outputs to its logits, such as `lambda outputs: outputs[0]`."
        )
    return found


def _check_classes(classes: tuple[int, ...] | None, count: int) -> tuple[int, ...]:
    outside = [c for c in classes or () if not 0 <= c < count]
    if outside or classes == ():
        raise ValueError(f"activation_maps: expected classes= in 0 to {count - 1}, got {list(classes or ())}.")
    return tuple(range(count)) if classes is None else classes


class _Step(NamedTuple):
    """One operation of a program without calls; its arrays have numbers."""

    eqn: Any
    ins: list[Any]
    outs: list[int]


def _split(function: Callable[[Any], Any], x: Any) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """The features f and the function `tail`, so that `function(x)` is `tail(f)`."""
    closed = jax.make_jaxpr(function)(x)
    avals: list[Any] = [x]
    env: dict[int, Any] = {0: x}
    steps: list[_Step] = []
    (out,) = _flatten(open_jaxpr(closed), _number(closed.consts, avals, env), [0], avals, env, steps)

    seeing = _reached(steps, {0})
    candidates = [i for i in sorted(seeing) if i and _has_pixels(avals[i], x)]
    # The last one through which alone the logits see the inputs: without it they do not.
    chosen = next((i for i in reversed(candidates) if out not in _reached(steps, {0}, cut=i)), None)
    if chosen is None or out not in seeing:
        raise ValueError(f"{_ENDS}. This one has no array of pixels through which alone they see the inputs. {_EDITS}")

    behind = _reached(steps, {chosen})
    for step in steps:
        _run(step, env)
    after = [step for step in steps if behind.intersection(step.ins) and chosen not in step.outs]

    def tail(features: jax.Array) -> jax.Array:
        values = {**env, chosen: features}
        for step in after:
            _run(step, values)
        return values[out]

    return env[chosen], tail


def _flatten(jaxpr: Any, consts: list[Any], args: list[Any], avals: list[Any], env: Any, steps: list[_Step]) -> Any:
    """Appends the operations of `jaxpr`, calls opened; returns the numbers of its outputs."""
    names = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    read = lambda v: _number([v.val], avals, env)[0] if isinstance(v, Literal) else names[v]
    for eqn in jaxpr.eqns:
        ins = [read(v) for v in eqn.invars]
        inner = called_jaxpr(eqn)
        if inner is None:
            outs = list(range(len(avals), len(avals) + len(eqn.outvars)))
            avals += [v.aval for v in eqn.outvars]
            steps.append(_Step(eqn, ins, outs))
        else:
            consts = _number(getattr(inner, "consts", []), avals, env)
            outs = _flatten(open_jaxpr(inner), consts, ins, avals, env, steps)
        names.update(zip(eqn.outvars, outs, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _number(values: Any, avals: list[Any], env: dict[int, Any]) -> list[int]:
    start = len(avals)
    env.update(enumerate(values, start))
    avals += values
    return list(range(start, len(avals)))


def _run(step: _Step, values: dict[int, Any]) -> None:
    values.update(zip(step.outs, evaluate(step.eqn, [values[i] for i in step.ins]), strict=True))


def _reached(steps: list[_Step], start: set[int], cut: int = -1) -> set[int]:
    """The arrays that depend on those of `start`, not counting what they do through `cut`."""
    reached = set(start)
    for step in steps:
        if reached.intersection(step.ins):
            reached.update(out for out in step.outs if out != cut)
    return reached


def _has_pixels(aval: Any, x: Any) -> bool:
    shape: tuple[int, ...] = aval.shape
    floating = jnp.issubdtype(aval.dtype, jnp.floating)
    return floating and len(shape) == x.ndim and shape[0] == x.shape[0] and math.prod(shape[1:-1]) > 1


def check_error(error: float) -> None:
    """Raise where the error of `Maps` is more than rounding.

    Raises:
        ValueError: the message says what the network's end must be.
    """
    if not error < 1:
        raise ValueError(
            f"{_ENDS}; the mean of this one's maps differs from its logits, or weights from pixel to pixel. {_EDITS}"
        )
