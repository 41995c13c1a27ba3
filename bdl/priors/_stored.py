"""A numpyro distribution as its class and named constructor arguments."""

import inspect
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import Distribution, biject_to, constraints

from bdl._hyper import Hyper
from bdl._learned import Learned


class Stored(eqx.Module):
    """A numpyro distribution that can be saved, vmapped and learned, and is rebuilt where it is used.

    The pytree that numpyro itself makes of a distribution orders its leaves by string hashes, which change from one
    process to the next, and compound ones carry copies of their arguments that go stale.

    Attributes:
        kind: the class.
        arguments: its constructor's arrays by name, in float32, and distributions as `Stored`. A learned one is stored
            unconstrained, by numpyro's bijection to what the class says about the argument; one with a hyper-prior as
            a `Hyper`.
        options: its other arguments: shapes, integers, supports.
    """

    kind: type[Distribution] = eqx.field(static=True)
    arguments: dict[str, Any]
    options: tuple[tuple[str, Any], ...] = eqx.field(static=True)

    def __init__(self, kind: type[Distribution], arguments: dict[str, Any]):
        inspect.signature(kind).bind(**arguments)
        stored = {name: _store(kind, name, value) for name, value in arguments.items()}
        self.kind = kind
        self.arguments = {name: value for name, value in stored.items() if _is_node(value)}
        self.options = tuple((name, value) for name, value in stored.items() if not _is_node(value))

    def rebuild(self) -> Distribution:
        """The distribution, of the arguments as they are now."""
        arguments = {name: _restore(self.kind, name, value) for name, value in self.arguments.items()}
        return self.kind(**arguments, **dict(self.options))


def store(distribution: Distribution) -> Stored:
    """`distribution` as a `Stored`.

    Raises:
        TypeError: an argument of its constructor cannot be read back from it.
    """
    kind = type(distribution)
    accepted = list(inspect.signature(kind.__init__).parameters.values())[1:]
    names = [p.name for p in accepted if p.kind is not p.VAR_KEYWORD and p.name != "validate_args"]
    missing = [name for name in names if not hasattr(distribution, name)]
    if missing:
        raise TypeError(
            f"{kind.__name__} does not keep its constructor's argument {', '.join(map(repr, missing))}, so it cannot "
            "be stored. Pass a function `log_prob(params) -> scalar` as the prior instead."
        )
    return Stored(kind, {name: getattr(distribution, name) for name in names})


def _is_node(value: Any) -> bool:
    return isinstance(value, jax.Array | Hyper | Learned | Stored | list)


def _store(kind: type[Distribution], name: str, value: Any) -> Any:
    if isinstance(value, Distribution):
        return store(value)
    if isinstance(value, list | tuple) and value and all(isinstance(v, Distribution) for v in value):
        return [store(v) for v in value]
    if isinstance(value, Hyper):
        _check(kind, name, value.value)
        return value
    if isinstance(value, Learned):
        _check(kind, name, value.value)
        return Learned(biject_to(kind.arg_constraints[name]).inv(value.value))
    if value is not None and (name in kind.arg_constraints or isinstance(value, jax.Array | np.ndarray)):
        _check(kind, name, value)
        return jnp.asarray(value, jnp.float32)
    return value


def _restore(kind: type[Distribution], name: str, value: Any) -> Any:
    if isinstance(value, Stored):
        return value.rebuild()
    if isinstance(value, list):
        return [v.rebuild() for v in value]
    if isinstance(value, Learned):
        return biject_to(kind.arg_constraints[name])(value.value)
    return value.value if isinstance(value, Hyper) else value  # its median, where nobody draws it


def _check(kind: type[Distribution], name: str, value: Any) -> None:
    """Numpyro takes a negative scale in silence."""
    constraint = kind.arg_constraints.get(name, constraints.dependent)
    checkable = not isinstance(constraint, type(constraints.dependent)) and constraint.event_dim == 0
    if not checkable or isinstance(value, jax.core.Tracer):
        return
    if not np.all(constraint(np.asarray(value, np.float32))):
        raise ValueError(f"`{name}` of {kind.__name__} must be {constraint}, got {value}.")
