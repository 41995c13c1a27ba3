"""Normal with a covariance of low rank beside its diagonal."""

import dataclasses
import math
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from bdl import _random
from bdl._paths import stable_hash
from bdl.families._checks import check_positive
from bdl.families._local import reparameterised
from bdl.networks._use import Use

# The size of the initial factors beside the scale: not 0, where their gradient vanishes.
_START = 0.1
# What the correlation matrix of the factors' columns is lifted by: its rounding in float32.
_JITTER = 1e-6


class LowRankNormal(eqx.Module):
    """q(vec w) = Normal(loc, diag(scale²) + F Fᵀ). Made by `low_rank_normal`.

    A draw is loc + scale ε + F z with `rank` numbers z that the whole array shares, so weights of an array correlate.

    Local noise is the local reparameterisation for the diagonal, and for the rest an own z for each example:

        y = x loc + √(x² scale²) ε + Σ_r z_r x F_r,

    exact for each example where a weight enters once per example. Where it enters several times, so is the part with z,
    and that of the diagonal approximates as in `NormalFamily`. It costs `rank` + 2 linear operations.

    Attributes:
        loc: the mean.
        log_scale: the logarithm of the diagonal part's standard deviation.
        relative_factors: G = F / scale, [rank, *shape], float32. Learned in F's place, so that a step of Adam is small
            beside the scale of a weight whatever the rank.
    """

    loc: jax.Array
    log_scale: jax.Array
    relative_factors: jax.Array
    use: Use | None = eqx.field(static=True, default=None)
    local_rule: ClassVar[str] = "local reparameterisation + low rank"

    @property
    def scale(self) -> jax.Array:
        """The standard deviation of the diagonal part, float32."""
        return jnp.exp(self.log_scale)

    @property
    def factors(self) -> jax.Array:
        """F, [rank, *shape], float32."""
        return self.scale * self.relative_factors

    @property
    def mean(self) -> jax.Array:
        return self.loc

    @property
    def distribution(self) -> dist.Distribution:
        """The entries' marginals, Normal(loc, scale² + Σ_r F_r²)."""
        return dist.Normal(self.loc.astype(jnp.float32), self.scale * jnp.sqrt(1 + self._relative_variance))

    def sample(self, key: jax.Array) -> jax.Array:
        return self.sample_each(key, 1)[0]

    def sample_each(self, key: jax.Array, examples: int) -> jax.Array:
        """`examples` draws along a new axis 0, from one key."""
        # w = loc + scale ε + F z
        key_diagonal, key_rank = jax.random.split(key)
        diagonal = self.scale * _random.normal(key_diagonal, (examples, *self.loc.shape))
        shared = jnp.tensordot(self._shared(key_rank, examples), self.factors, 1, precision="highest")
        return (self.loc + diagonal + shared).astype(self.loc.dtype)

    def bind(self, use: Use) -> "LowRankNormal":
        return dataclasses.replace(self, use=use)

    def local(self, key: jax.Array, x: jax.Array, linear: Any) -> jax.Array:
        key_diagonal, key_rank = jax.random.split(key)
        mean = linear(x, self.loc)
        diagonal = reparameterised(key_diagonal, x, linear, jnp.exp(2 * self.log_scale))
        z = self._shared(key_rank, x.shape[0])[:, :, None, None]
        shared = sum(z[:, r] * linear(x, factor.astype(x.dtype)) for r, factor in enumerate(self.factors))
        return mean + (diagonal + shared).astype(mean.dtype)

    def log_prob(self, w: jax.Array) -> jax.Array:
        # With G = F / scale and d = (w − loc) / scale, dᵀ (I + G Gᵀ)⁻¹ d = min_u |d − G u|² + |u|², a sum of squares in
        # which nothing cancels.
        g = self._whitened
        lengths, cholesky = _capacitance(g)
        d = ((w.astype(jnp.float32) - self.loc.astype(jnp.float32)) / self.scale).reshape(-1)
        u = jax.scipy.linalg.cho_solve((cholesky, True), _dot(g, d) / lengths) / lengths
        squares = ((d - _dot(u, g)) ** 2).sum() + (u**2).sum()
        return -0.5 * (squares + self.loc.size * math.log(2 * math.pi)) - self._half_log_det(lengths, cholesky)

    def entropy(self) -> jax.Array:
        # ½ log det(2πe Σ)
        return 0.5 * self.loc.size * math.log(2 * math.pi * math.e) + self._half_log_det(*_capacitance(self._whitened))

    def total_correlation(self) -> jax.Array:
        """The sum of the marginals' entropies less the joint one, in nats: what the entries' dependence costs.

        ½ [Σᵢ log(1 + Σ_r Gᵢᵣ²) − log det(I + Gᵀ G)],   G = F / scale
        """
        marginal = self.log_scale.sum() + 0.5 * jnp.log1p(self._relative_variance).sum()
        return marginal - self._half_log_det(*_capacitance(self._whitened))

    @property
    def _whitened(self) -> jax.Array:
        # G = F / scale, [rank, n]
        return self.relative_factors.reshape(len(self.relative_factors), -1)

    @property
    def _relative_variance(self) -> jax.Array:
        # Σ_r G_r². Added one by one: XLA's sum over a short axis takes twenty times as long on a CPU.
        return sum(factor**2 for factor in self.relative_factors)

    def _half_log_det(self, lengths: jax.Array, cholesky: jax.Array) -> jax.Array:
        # ½ log det Σ = Σ log scale + ½ log det(I + Gᵀ G), the matrix determinant lemma
        return self.log_scale.sum() + jnp.log(lengths).sum() + jnp.log(jnp.diagonal(cholesky)).sum()

    def _shared(self, key: jax.Array, examples: int) -> jax.Array:
        return _random.normal(key, (examples, len(self.relative_factors)))


def _capacitance(g: jax.Array) -> tuple[jax.Array, jax.Array]:
    # I + Gᵀ G as the lengths l of its columns and the Cholesky factor of its correlation matrix K: l K l. K has a unit
    # diagonal however large G is, and stays positive definite in float32.
    unit = jnp.eye(len(g))
    matrix = unit + _dot(g, g.T)
    lengths = jnp.sqrt(jnp.diagonal(matrix))
    return lengths, jnp.linalg.cholesky(matrix / (lengths[:, None] * lengths) + _JITTER * unit)


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.dot(a, b, precision="highest")


@dataclasses.dataclass(frozen=True)
class _Initialiser:
    rank: int
    scale: Any

    def __call__(self, array: Any) -> LowRankNormal:
        loc = jnp.asarray(array)
        scale = jnp.asarray(self.scale, jnp.float32)
        rank = min(self.rank, loc.size)
        key = jax.random.key(stable_hash(f"low_rank_normal {loc.shape} {rank}"))
        relative_factors = _START / math.sqrt(rank) * _random.normal(key, (rank, *loc.shape))
        return LowRankNormal(loc, jnp.broadcast_to(jnp.log(scale), loc.shape), relative_factors)


def low_rank_normal(rank: int, scale: Any = 0.05) -> Any:
    """Normal around the network's weights whose covariance is a diagonal and a matrix of rank `rank`, in each array.

    The factors start small and random, a tenth of `scale` together and the same for arrays of one shape: at zero they
    would have no gradient.

    Args:
        rank: the number of directions in which an array's weights move together; at least 1, and at most the array's
            size is used. Memory and the KL's cost grow with it, and its square, times the array's size.
        scale: the initial standard deviation of the diagonal part; positive.

    Returns:
        an initialiser: from an array to a `LowRankNormal`.

    Raises:
        ValueError: `rank` is no whole number of at least 1, or `scale` is not positive and finite.

    Reference:
        Ong, Nott and Smith (2018), Gaussian variational approximation with a factor covariance structure,
        https://arxiv.org/abs/1701.03208

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> family = bdl.families.low_rank_normal(rank=2, scale=0.1)(jnp.zeros((3, 4)))
        >>> family.factors.shape, family.sample(jax.random.key(0)).shape
        ((2, 3, 4), (3, 4))
    """
    if not isinstance(rank, int) or rank < 1:
        raise ValueError(f"families.low_rank_normal: expected rank as a whole number of at least 1, got {rank!r}.")
    check_positive("low_rank_normal", "scale (a standard deviation)", scale)
    return _Initialiser(rank, scale)
