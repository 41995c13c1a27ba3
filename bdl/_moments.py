"""Running moments of draws: merged without loss of precision, in memory that does not grow."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp


class Moments(eqx.Module):
    """The mean and the sum of squared deviations of `count` draws of an array (Welford 1962; Chan et al. 1983).

    Never E[x²] − E[x]², which loses all digits where the mean is large.
    """

    count: jax.Array
    mean: jax.Array
    squares: jax.Array

    @classmethod
    def empty(cls, like: Any) -> "Moments":
        """No draws of an array of `like`'s shape."""
        zeros = jnp.zeros(like.shape, jnp.float32)
        return cls(jnp.float32(0), zeros, zeros)

    @classmethod
    def of(cls, draws: jax.Array, valid: jax.Array) -> "Moments":
        """The moments of draws along axis 0, of those that are `valid` [S]."""
        draws = draws.astype(jnp.float32)
        count = valid.sum().astype(jnp.float32)
        weight = valid.reshape(-1, *[1] * (draws.ndim - 1))
        # Deviations from the first draw keep the digits of a mean far from zero.
        mean = draws[0] + jnp.sum((draws - draws[0]) * weight, 0) / jnp.maximum(count, 1)
        return cls(count, mean, jnp.sum((draws - mean) ** 2 * weight, 0))

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both sets of draws."""
        count = self.count + other.count
        delta = other.mean - self.mean
        share = other.count / jnp.maximum(count, 1)
        mean = self.mean + delta * share
        return Moments(count, mean, self.squares + other.squares + delta * delta * self.count * share)

    def variance(self, ddof: int = 1) -> jax.Array:
        """The variance over the draws, with 1 / (S − ddof); 0 where there is one draw."""
        return self.squares / jnp.maximum(self.count - ddof, 1)

    @property
    def standard_error(self) -> jax.Array:
        """The Monte Carlo standard error of the mean, for independent draws."""
        return jnp.sqrt(self.variance() / jnp.maximum(self.count, 1))
