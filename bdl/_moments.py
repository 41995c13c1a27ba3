"""Running moments of draws: merged without loss of precision, in memory that does not grow."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp


class Moments(eqx.Module):
    """The mean and the sum of squared deviations of `count` draws of an array (Welford 1962; Chan et al. 1983).

    Never E[x²] − E[x]², which loses all digits where the mean is large.

    Attributes:
        count, mean, squares: as said.
        products: the sums of products of deviations of all pairs along the last axis, [..., K, K], where asked for.
    """

    count: jax.Array
    mean: jax.Array
    squares: jax.Array
    products: jax.Array | None = None

    @classmethod
    def empty(cls, like: Any, *, joint: bool = False) -> "Moments":
        """No draws of an array of `like`'s shape, with products where `joint`."""
        zeros = jnp.zeros(like.shape, jnp.float32)
        products = jnp.zeros((*like.shape, like.shape[-1]), jnp.float32) if joint else None
        return cls(jnp.float32(0), zeros, zeros, products)

    @classmethod
    def of(cls, draws: jax.Array, valid: jax.Array, *, joint: bool = False) -> "Moments":
        """The moments of draws along axis 0, of those that are `valid` [S], with products where `joint`."""
        draws = draws.astype(jnp.float32)
        count = valid.sum().astype(jnp.float32)
        weight = valid.reshape(-1, *[1] * (draws.ndim - 1))
        # Deviations from the first draw keep the digits of a mean far from zero.
        mean = draws[0] + jnp.sum((draws - draws[0]) * weight, 0) / jnp.maximum(count, 1)
        products = None
        if joint:
            deviations = (draws - mean) * weight
            products = jnp.einsum("s...i,s...j->...ij", deviations, deviations, precision="highest")
        return cls(count, mean, jnp.sum((draws - mean) ** 2 * weight, 0), products)

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both sets of draws."""
        count = self.count + other.count
        delta = other.mean - self.mean
        share = other.count / jnp.maximum(count, 1)
        mean = self.mean + delta * share
        squares = self.squares + other.squares + delta * delta * self.count * share
        if self.products is None or other.products is None:
            return Moments(count, mean, squares)
        outer = delta[..., :, None] * delta[..., None, :]
        return Moments(count, mean, squares, self.products + other.products + outer * self.count * share)

    def variance(self, ddof: int = 1) -> jax.Array:
        """The variance over the draws, with 1 / (S − ddof); 0 where there is one draw."""
        return self.squares / jnp.maximum(self.count - ddof, 1)

    def covariance(self, ddof: int = 1) -> jax.Array | None:
        """The covariance over the draws of all pairs along the last axis, with 1 / (S − ddof), or None."""
        return None if self.products is None else self.products / jnp.maximum(self.count - ddof, 1)

    @property
    def standard_error(self) -> jax.Array:
        """The Monte Carlo standard error of the mean, for independent draws."""
        return jnp.sqrt(self.variance() / jnp.maximum(self.count, 1))
