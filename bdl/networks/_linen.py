"""A Flax Linen module as a network."""

import contextlib
import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn

from bdl._keys import derive
from bdl.networks._base import Network, as_params, plain
from bdl.networks._switches import layer_flags, network_flags, with_arguments


def from_linen(module: nn.Module, variables: Mapping[str, Any]) -> Network:
    """A network from a Linen module, used as it is, and the variables that `module.init` returned.

    Dropout and batch normalisation are set apart even where one flag of the module drives both: each layer's
    `use_running_average` follows `train` and each layer's `deterministic` follows `key`, whatever the module hands it.
    An argument of the module's `__call__` named `train`, `training` or `is_training` gets the value of `train`. All
    random streams a module may ask for are made from `key`.

    Args:
        module: takes the inputs as its first argument.
        variables: `params` become the weights; every other collection but `intermediates` becomes the state.

    Raises:
        ValueError: there are no `params`.
        TypeError: a weight is not a floating array.

    Example:
        >>> import jax, jax.numpy as jnp, flax.linen as nn, bdl
        >>> module = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(1)])
        >>> network = bdl.from_linen(module, module.init(jax.random.key(0), jnp.ones((1, 3))))
        >>> network.params["layers_0"]["kernel"].shape
        (3, 8)
    """
    collections: dict[str, Any] = plain(nn.meta.unbox(dict(variables)))
    if not collections.get("params"):
        raise ValueError(
            f"`variables` has no 'params'; its collections are {', '.join(collections) or '(none)'}. "
            "Pass what `module.init(key, x)` returned, whole: `{'params': ...}`."
        )
    state = {name: values for name, values in collections.items() if name not in ("params", "intermediates")}
    return Network(_Linen(module), as_params(collections["params"]), state)


@dataclasses.dataclass(frozen=True, eq=False)
class _Linen:
    """`capture` is whether outputs come with those of every layer, by its path: see `features`."""

    module: nn.Module
    capture: bool = False

    # Modules may hold lists, which have no hash, and arrays, which have no truth of equality either.
    def __hash__(self) -> int:
        return hash((type(self.module), self.capture))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Linen):
            return NotImplemented
        try:
            same = self.module is other.module or bool(self.module == other.module)
        except (TypeError, ValueError):
            return False
        return same and self.capture == other.capture

    def __call__(self, params: Any, state: Any, x: Any, key: Any, train: bool) -> tuple[Any, Any]:
        flags = network_flags(type(self.module).__call__, train)
        # Flax takes the stream "params" for every name that has none of its own.
        rngs = {} if key is None else {name: derive(key, name) for name in ("dropout", "params")}
        mutable = [*(state if train else ()), *(["intermediates"] if self.capture else ())]
        with nn.intercept_methods(_Switches(train, key is not None)):
            outputs = self.module.apply(
                {"params": params, **state},
                x,
                **flags,
                rngs=rngs,
                mutable=mutable or False,
                capture_intermediates=self.capture,
            )
        if not mutable:
            return outputs, state
        outputs, updated = outputs
        found = plain(updated)
        captured = found.pop("intermediates", {})
        return ((outputs, _by_layer(captured)) if self.capture else outputs), {**state, **found}


def _by_layer(intermediates: Any, path: tuple[str, ...] = ()) -> dict[str, Any]:
    """What layers returned, by path, and what modules have sown; a tuple where there were several calls."""
    found: dict[str, Any] = {}
    for name, value in intermediates.items():
        if isinstance(value, dict):
            found |= _by_layer(value, (*path, name))
        elif path or name != "__call__":  # the whole network's are the outputs
            found["/".join(path if name == "__call__" else (*path, name))] = value if len(value) > 1 else value[0]
    return found


@dataclasses.dataclass(frozen=True)
class _Switches:
    """Sets the two flags of every layer, however its module set them."""

    train: bool
    random: bool

    def __call__(self, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any], context: Any) -> Any:
        signature = inspect.signature(context.orig_method)
        flags = layer_flags(self.train, self.random)
        taken = {name: value for name, value in flags.items() if name in signature.parameters}
        if taken:
            args, kwargs = with_arguments(signature, taken, args, kwargs)
        # `merge_param` refuses a flag that is given both as an attribute and as an argument.
        with _attributes(context.module, {**flags, **dict.fromkeys(taken)}):
            return method(*args, **kwargs)


@contextlib.contextmanager
def _attributes(module: nn.Module, values: Mapping[str, Any]) -> Iterator[None]:
    """The module's fields of these names set to `values`, and set back at the end."""
    before = {f.name: getattr(module, f.name) for f in dataclasses.fields(module) if f.name in values}
    try:
        for name in before:
            object.__setattr__(module, name, values[name])
        yield
    finally:
        for name, value in before.items():
            object.__setattr__(module, name, value)
