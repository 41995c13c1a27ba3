"""Normal with a full covariance within an array."""

import dataclasses
import math
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from bdl import _random
from bdl.families._checks import check_positive
from bdl.networks._use import Use


class FullNormal(eqx.Module):
    """q(vec w) = Normal(loc, L Lᵀ), with a lower triangular L. Made by `full_normal`.

    L is learned by its diagonal and by what stands below it over the diagonal of its row, so that a step of Adam is
    small beside the scale of a weight however many others it correlates with.

    Local noise draws the whole array for each example: exact however the network uses it, in the memory of as many
    arrays as there are examples.

    Attributes:
        loc: the mean.
        log_diagonal: the logarithm of the diagonal of L, [n].
        lower: Lᵢⱼ / Lᵢᵢ below the diagonal, [n, n]; the rest of this matrix is not used.
    """

    loc: jax.Array
    log_diagonal: jax.Array
    lower: jax.Array
    use: Use | None = eqx.field(static=True, default=None)
    local_rule: ClassVar[str] = "own draw per example"

    @property
    def cholesky(self) -> jax.Array:
        """L, float32 [n, n], over the entries in row-major order."""
        # L = diag(exp(log_diagonal)) (I + lower)
        return jnp.exp(self.log_diagonal)[:, None] * (jnp.tril(self.lower, -1) + jnp.eye(self.loc.size))

    @property
    def scale(self) -> jax.Array:
        """The standard deviation of each weight, float32."""
        return jnp.sqrt((self.cholesky**2).sum(1)).reshape(self.loc.shape)

    @property
    def mean(self) -> jax.Array:
        return self.loc

    @property
    def distribution(self) -> dist.Distribution:
        """The entries' marginals."""
        return dist.Normal(self.loc.astype(jnp.float32), self.scale)

    def sample(self, key: jax.Array) -> jax.Array:
        return self.sample_each(key, 1)[0]

    def sample_each(self, key: jax.Array, examples: int) -> jax.Array:
        """`examples` draws along a new axis 0, from one key."""
        # w = loc + L ε
        noise = jnp.dot(_random.normal(key, (examples, self.loc.size)), self.cholesky.T, precision="highest")
        return (self.loc + noise.reshape(examples, *self.loc.shape)).astype(self.loc.dtype)

    def bind(self, use: Use) -> "FullNormal":
        return dataclasses.replace(self, use=use)

    def local(self, key: jax.Array, x: jax.Array, linear: Any) -> jax.Array:
        return linear.each(x, self.sample_each(key, x.shape[0]))

    def log_prob(self, w: jax.Array) -> jax.Array:
        difference = (w.astype(jnp.float32) - self.loc.astype(jnp.float32)).reshape(-1)
        whitened = jax.scipy.linalg.solve_triangular(self.cholesky, difference, lower=True)
        return -0.5 * ((whitened**2).sum() + self.loc.size * math.log(2 * math.pi)) - self.log_diagonal.sum()

    def entropy(self) -> jax.Array:
        # ½ log det(2πe L Lᵀ)
        return 0.5 * self.loc.size * math.log(2 * math.pi * math.e) + self.log_diagonal.sum()

    def total_correlation(self) -> jax.Array:
        """The sum of the marginals' entropies less the joint one, in nats: Σᵢ log scaleᵢ − log Lᵢᵢ."""
        return (jnp.log(self.scale).reshape(-1) - self.log_diagonal).sum()


@dataclasses.dataclass(frozen=True)
class _Initialiser:
    scale: Any
    max_size: int

    def __call__(self, array: Any) -> FullNormal:
        loc = jnp.asarray(array)
        if loc.size > self.max_size:
            raise ValueError(
                f"families.full_normal: an array of shape {loc.shape} has {loc.size} weights, and its covariance "
                f"{loc.size}² numbers; expected at most max_size={self.max_size}. Choose smaller arrays by path "
                f"(such as the last layer), take families.low_rank_normal(rank), or raise max_size."
            )
        log_diagonal = jnp.broadcast_to(jnp.log(jnp.asarray(self.scale, jnp.float32)), (loc.size,))
        return FullNormal(loc, log_diagonal, jnp.zeros((loc.size, loc.size)))


def full_normal(scale: Any = 0.05, max_size: int = 2000) -> Any:
    """Normal around the network's weights with a full covariance within each array (Opper and Archambeau 2009).

    It starts with independent weights. Arrays are independent of each other.

    Args:
        scale: the initial standard deviation of every weight; positive.
        max_size: the most weights that an array may have: n weights have n² numbers in their covariance.

    Returns:
        an initialiser: from an array to a `FullNormal`; it raises a ValueError for an array that is too large.

    Raises:
        ValueError: `scale` is not positive and finite.

    Reference:
        Opper and Archambeau (2009), The variational Gaussian approximation revisited,
        https://doi.org/10.1162/neco.2008.08-07-592

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> family = bdl.families.full_normal(scale=0.1)(jnp.zeros((3, 2)))
        >>> family.cholesky.shape, family.sample(jax.random.key(0)).shape
        ((6, 6), (3, 2))
    """
    check_positive("full_normal", "scale (a standard deviation)", scale)
    return _Initialiser(scale, max_size)
