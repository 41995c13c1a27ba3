"""The two switches of a network, and the flags by which layers know them."""

import inspect
from collections.abc import Callable
from typing import Any


def layer_flags(train: bool, random: bool) -> dict[str, bool]:
    """What a layer's flags must be: batch statistics follow `train`, stochastic layers `random`, never each other."""
    return {"use_running_average": not train, "deterministic": not random}


def network_flags(call: Callable[..., Any], train: bool) -> dict[str, Any]:
    """The arguments of a network's `__call__` that say whether this is a training step."""
    accepted = inspect.signature(call).parameters
    return {name: train for name in ("train", "training", "is_training") if name in accepted}


def with_arguments(
    signature: inspect.Signature, flags: dict[str, bool], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """`args` and `kwargs` of a call with the `flags` in them, by position or by name, whatever they were."""
    bound = signature.bind_partial(*args, **kwargs)
    bound.arguments.update(flags)
    return bound.args, bound.kwargs
