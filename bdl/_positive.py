"""Positive numbers, stored as their logarithms so that a learned one stays positive."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdl._hyper import Hyper
from bdl._learned import Learned, value_of


def to_log(name: str, value: Any) -> jax.Array | Learned | Hyper:
    """The logarithm of a positive number, in float32; learned where `value` is `bdl.learned(...)`, or a `Hyper`.

    Raises:
        ValueError: `value` is not positive; `name` is named.
    """
    if isinstance(value, Learned):
        return Learned(to_log(name, value.value))
    if isinstance(value, Hyper):
        to_log(name, value.value)
        return dataclasses.replace(value, log=True)
    if not isinstance(value, jax.core.Tracer) and not np.all(np.asarray(value) > 0):
        raise ValueError(f"`{name}` must be positive, got {value}.")
    return jnp.log(jnp.asarray(value, jnp.float32))


def from_log(log_value: Any) -> jax.Array:
    """The positive number whose logarithm is stored."""
    if isinstance(log_value, Hyper):
        return log_value.value
    return jnp.exp(value_of(log_value))
