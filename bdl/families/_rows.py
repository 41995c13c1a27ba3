"""Numbers for the rows of a weight array: all weights that leave one input unit."""

import abc
import dataclasses
import math
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp

from bdl import _random
from bdl.families._base import use_of
from bdl.networks._use import Use


class RowNoise(eqx.Module):
    """A family whose draws multiply the rows of a kernel by random factors of mean 1, with a field `use`."""

    kernel: jax.Array

    @abc.abstractmethod
    def _factors(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Factors of `shape`, one draw each."""

    def _each_factors(self, key: jax.Array, examples: int, shape: tuple[int, ...]) -> jax.Array:
        # [examples, *shape]. They are drawn flat, since XLA's loops over a last axis of 1 are slow on a CPU.
        return self._factors(key, (examples, math.prod(shape))).reshape(examples, *shape)

    @property
    def mean(self) -> jax.Array:
        return self.kernel

    def sample(self, key: jax.Array) -> jax.Array:
        use = use_of(self, self.kernel.shape)
        factors = self._factors(key, use.row_shape(self.kernel.shape))
        return self.kernel * use.expand(factors, self.kernel.shape).astype(self.kernel.dtype)

    def bind(self, use: Use) -> Self:
        replace: Any = dataclasses.replace
        bound: Self = replace(self, use=use)
        return bound

    def local(self, key: jax.Array, x: jax.Array, linear: Any) -> jax.Array:
        """`linear(x, w)` where each example multiplies the rows by factors of its own."""
        factors = self._each_factors(key, x.shape[0], linear.use.row_shape(self.kernel.shape)).astype(x.dtype)
        if linear.transposed:
            return linear(x, self.kernel) * linear.outputs(factors)
        return linear(x * linear.inputs(factors), self.kernel)


def hard_factors(key: jax.Array, rate: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Masks of mean 1: 0 with probability `rate`, and otherwise one over the probability of keeping."""
    kept, keep_probability = _random.bernoulli(key, rate, shape)
    return jnp.where(kept, 1 / keep_probability, 0.0)


def sum_rows(array: jax.Array, use: Use) -> jax.Array:
    """The sum over the entries of each row, of `use.row_shape`."""
    # Each axis is cut into its rows, and into what is summed over: (size, 1), (1, size) or (groups, size / groups).
    cuts = zip(array.shape, use.row_shape(array.shape), strict=True)
    shape = [n for size, rows in cuts for n in (rows, size // rows)]
    return array.reshape(shape).sum(tuple(range(1, len(shape), 2)))


def spread(rows: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Numbers per row, or one for all, repeated where needed so that they broadcast against an array of `shape`."""
    for axis, (size, row) in enumerate(zip(shape, rows.shape, strict=True)):
        if 1 < row < size:  # the rows of a grouped convolution
            rows = jnp.repeat(rows, size // row, axis)
    return rows
