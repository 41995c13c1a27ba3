"""A Flax NNX module as a network."""

import contextvars
import dataclasses
import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bdl._keys import check_key
from bdl._paths import stable_hash
from bdl.networks._base import Network, as_params
from bdl.networks._switches import layer_flags, network_flags, with_arguments

_Path = tuple[Any, ...]


def from_nnx(module: nnx.Module) -> Network:
    """A network from an NNX module, used as it is.

    `nnx.Param`s become the weights and every other variable the state; the keys and counters of `nnx.Rngs` are
    neither: at each call they are made from `key` and their paths. The flags `use_running_average` and `deterministic`
    of its layers are set apart: the first follows `train`, the second `key`. The module itself is never changed.

    Raises:
        ValueError: there is no `nnx.Param`.
        TypeError: a weight is not a floating array.

    Example:
        >>> import bdl
        >>> from flax import nnx
        >>> rngs = nnx.Rngs(0)
        >>> network = bdl.from_nnx(nnx.Sequential(nnx.Linear(3, 8, rngs=rngs), nnx.relu, nnx.Linear(8, 1, rngs=rngs)))
        >>> network.params["layers"]["0"]["kernel"].shape
        (3, 8)
    """
    graph, *parts = nnx.split(module, nnx.Param, nnx.RngState, ...)
    params, rngs, state = (_flat(nnx.to_pure_dict(part)) for part in parts)
    if not params:
        raise ValueError(f"{type(module).__name__} has no nnx.Param. Pass a module whose weights are `nnx.Param`s.")
    streams = tuple((path, jnp.issubdtype(a.dtype, jax.dtypes.prng_key), a.shape) for path, a in rngs.items())
    function = _NNX(graph, tuple(params), tuple(state), streams)
    return Network(function, as_params(_nested(params, str)), _nested(state, str))


@dataclasses.dataclass(frozen=True)
class _NNX:
    """NNX paths mix integers and strings, so the module's own are kept to go back.

    `capture` is whether outputs come with those of every layer, by its path: see `features`.
    """

    graph: Any
    params: tuple[_Path, ...]
    state: tuple[_Path, ...]
    streams: tuple[tuple[_Path, bool, tuple[int, ...]], ...]
    capture: bool = False

    def __call__(self, params: Any, state: Any, x: Any, key: Any, train: bool) -> tuple[Any, Any]:
        rngs = {path: _stream(key, path, is_key, shape) for path, is_key, shape in self.streams}
        parts = {**_values(params, self.params), **_values(state, self.state), **rngs}
        module = nnx.merge(self.graph, _nested(parts))
        flags = layer_flags(train, key is not None)
        module = nnx.view(module, raise_if_not_found=False, **flags)
        seen: dict[int, list[Any]] = {}
        paths = {}
        for path, layer in list(nnx.iter_modules(module)):
            object.__setattr__(layer, "__class__", _switched(type(layer), tuple(flags.items()), self.capture))
            seen[id(layer)], paths[id(layer)] = [], path
        token = _SEEN.set(seen)
        try:
            outputs = module(x, **network_flags(type(module).__call__, train))
        finally:
            _SEEN.reset(token)
        if self.capture:
            outputs = (
                outputs,
                {
                    "/".join(map(str, paths[layer])): values if len(values) > 1 else values[0]
                    for layer, values in seen.items()
                    if values and paths[layer]  # the whole network's are the outputs
                },
            )
        if not train:
            return outputs, state
        after = _flat(nnx.to_pure_dict(nnx.state(module)))
        return outputs, _nested({path: after[path] for path in self.state}, str)


# What the layers of the network in this call have returned, by their `id`. Copies that a transform makes have others.
_SEEN: contextvars.ContextVar[dict[int, list[Any]]] = contextvars.ContextVar("seen")


@functools.cache
def _switched(kind: type, flags: tuple[tuple[str, bool], ...], capture: bool) -> type:
    """The class with these flags in every call of it that takes them, whatever its caller hands it."""
    call = kind.__call__
    signature = inspect.signature(call)
    taken = {name: value for name, value in flags if name in signature.parameters}

    @functools.wraps(call)
    def switched(self: Any, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = with_arguments(signature, taken, (self, *args), kwargs)
        outputs = call(*args, **kwargs)
        if capture and id(self) in _SEEN.get():
            _SEEN.get()[id(self)].append(outputs)
        return outputs

    return type(kind)(kind.__name__, (kind,), {"__call__": switched}) if taken or capture else kind


def _stream(key: Any, path: _Path, is_key: bool, shape: tuple[int, ...]) -> jax.Array:
    if not is_key:
        return jnp.zeros(shape, jnp.uint32)
    name = stable_hash("/".join(map(str, path)))
    # Without a key nothing draws, but the module has a place for one.
    own = jax.random.key(name) if key is None else jax.random.fold_in(check_key(key), name)
    return jax.random.split(own, shape) if shape else own


def _flat(tree: Any, path: _Path = ()) -> dict[_Path, Any]:
    if not isinstance(tree, dict):
        return {path: tree}
    return {p: leaf for name, branch in tree.items() for p, leaf in _flat(branch, (*path, name)).items()}


def _nested(flat: dict[_Path, Any], name: Any = lambda entry: entry) -> dict[Any, Any]:
    tree: dict[Any, Any] = {}
    for path, leaf in flat.items():
        branch = tree
        for entry in path[:-1]:
            branch = branch.setdefault(name(entry), {})
        branch[name(path[-1])] = leaf
    return tree


def _values(tree: Any, paths: tuple[_Path, ...]) -> dict[_Path, Any]:
    """The leaves of a tree with string keys by the module's own paths."""
    flat = _flat(tree)
    return {path: flat[tuple(map(str, path))] for path in paths}
