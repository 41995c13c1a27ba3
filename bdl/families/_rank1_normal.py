"""Rank-1 Normal factors on a deterministic kernel."""

import dataclasses
import math
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions.kl import kl_divergence

from bdl import _random
from bdl._keys import derive
from bdl._learned import fixed_field
from bdl.families._base import use_of
from bdl.families._checks import check_members, check_positive
from bdl.families._members import Chosen, draw_member, kernel_kl, own_key, scaled
from bdl.networks._use import Use


class Rank1Normal(eqx.Module):
    """w = kernel ∘ r sᵀ, r ~ Normal per row and s ~ Normal per output; of K components. See `rank1_normal`.

    Local noise draws r and s for each example, and scales the inputs by r and the outputs by s: exact for each
    example's marginal, under re-use too.

    Attributes:
        kernel: the shared array, a point mass.
        row_loc, row_log_scale: of r, [K, *use.row_shape].
        output_loc, output_log_scale: of s, [K, *use.out_shape].
        prior_scale: the standard deviation of the factors' Normal prior around 1; fixed.
    """

    kernel: jax.Array
    row_loc: jax.Array
    row_log_scale: jax.Array
    output_loc: jax.Array
    output_log_scale: jax.Array
    prior_scale: jax.Array = fixed_field()
    use: Use | None = eqx.field(static=True, default=None)
    # Whether axis 0 of the factors runs over the examples of a batch, a component each.
    each: bool = eqx.field(static=True, default=False)

    local_rule: ClassVar[str] = "rank-1 factors"

    @property
    def members(self) -> int:
        """K, the number of components; 1 once one is chosen."""
        return 1 if self.each else self.row_loc.shape[0]

    @property
    def awaits_use(self) -> bool:
        """Whether the factors are not there yet: which axes are rows is not known."""
        return self.use is None

    @property
    def mean(self) -> jax.Array:
        if self.use is None:  # all factors have mean 1 still
            return self.kernel
        return scaled(self.kernel, self.row_loc, self.output_loc, self.use).mean(0).astype(self.kernel.dtype)

    def member(self, index: jax.Array) -> "Rank1Normal":
        """The family of component `index`; where `index` is [B], of a component for each example."""
        each = jnp.ndim(index) > 0
        rows = index if each else index[None]
        picked = {name: getattr(self, name)[rows] for name in _FACTORS}
        return dataclasses.replace(self, **picked, each=each)

    def sample(self, key: jax.Array) -> jax.Array:
        return self.sample_each(key, 1)[0]

    def sample_each(self, key: jax.Array, examples: int) -> jax.Array:
        """`examples` draws along a new axis 0, from one key."""
        rows, outputs = self._factors(key, examples)
        return scaled(self.kernel, rows, outputs, use_of(self, self.kernel.shape))

    def bind(self, use: Use) -> "Rank1Normal":
        if self.use is not None:
            return self
        shape, members = self.kernel.shape, self.members
        rows, outputs = (members, *use.row_shape(shape)), (members, *use.out_shape(shape))
        # Components that start alike stay alike.
        signs = [
            _random.normal(k, s)
            for k, s in zip(jax.random.split(own_key(0, self.kernel)), (rows, outputs), strict=True)
        ]
        spread = jnp.exp(self.row_log_scale.reshape(-1)[0]) if members > 1 else 0.0
        return dataclasses.replace(
            self,
            row_loc=1 + spread * signs[0],
            row_log_scale=jnp.broadcast_to(self.row_log_scale, rows),
            output_loc=1 + spread * signs[1],
            output_log_scale=jnp.broadcast_to(self.output_log_scale, outputs),
            use=use,
        )

    def local(self, key: jax.Array, x: jax.Array, linear: Any) -> jax.Array:
        rows, outputs = self._factors(key, x.shape[0], linear.use)
        return Chosen(self.kernel, rows, outputs, linear.use).local(key, x, linear)

    def kl(self, prior: Any) -> jax.Array:
        """−log p(kernel) + (1/K) Σₖ KL(q(rₖ) q(sₖ) || Normal(1, prior_scale²)), in nats.

        The factors' part is no less than the KL of the mixture of the K components.
        """
        return kernel_kl(self.kernel, prior) - self.entropy()

    def entropy(self) -> jax.Array:
        """What stands for an entropy: minus the KL of the factors from their own prior, in nats."""
        own = dist.Normal(1.0, self.prior_scale)
        parts = ((self.row_loc, self.row_log_scale), (self.output_loc, self.output_log_scale))
        return -sum(kl_divergence(dist.Normal(m, jnp.exp(s)), own).sum() for m, s in parts) / self.members

    def _factors(self, key: jax.Array, examples: int, use: Use | None = None) -> tuple[jax.Array, jax.Array]:
        # [examples, *row_shape] and [examples, *out_shape]
        family = self
        if self.members > 1:
            family = self.member(draw_member(key, self.members, (examples,)))
        use = use or use_of(self, self.kernel.shape)
        shapes = use.row_shape(self.kernel.shape), use.out_shape(self.kernel.shape)
        parts = (family.row_loc, family.row_log_scale), (family.output_loc, family.output_log_scale)
        rows, outputs = (
            _draw(derive(key, name), loc, log_scale, (examples, math.prod(shape))).reshape(-1, *shape)
            for name, (loc, log_scale), shape in zip(("rows", "outputs"), parts, shapes, strict=True)
        )
        return rows, outputs


def _draw(key: jax.Array, loc: jax.Array, log_scale: jax.Array, shape: tuple[int, int]) -> jax.Array:
    # Flat, [examples, units]: XLA's loops over a last axis of 1 are slow on a CPU.
    loc, scale = loc.reshape(len(loc), -1), jnp.exp(log_scale).reshape(len(log_scale), -1)
    return loc + scale * _random.normal(key, shape)


_FACTORS = ("row_loc", "row_log_scale", "output_loc", "output_log_scale")


@dataclasses.dataclass(frozen=True)
class _Initialiser:
    scale: Any
    prior_scale: Any
    members: int

    def __call__(self, array: Any) -> Any:
        array = jnp.asarray(array)
        if array.ndim < 2:
            return array
        shape = (self.members, *(1,) * array.ndim)
        log_scale = jnp.full(shape, jnp.log(jnp.asarray(self.scale, jnp.float32)))
        return Rank1Normal(
            array, jnp.ones(shape), log_scale, jnp.ones(shape), log_scale, jnp.asarray(self.prior_scale, jnp.float32)
        )


def rank1_normal(scale: Any = 0.05, *, prior_scale: Any = 0.1, members: int = 1) -> Any:
    """Mean-field Normal factors, one for each row and each output of an array, on a deterministic kernel.

    As many random numbers as units, where a mean-field Normal has as many as weights. The prior of the weights is that
    of the shared kernel, which is a point mass: the factors have Normal(1, prior_scale²). So there is no density over
    the weights, and the objective bounds no evidence. Arrays of fewer than two axes stay point masses.

    Args:
        scale: the initial standard deviation of the factors.
        prior_scale: the standard deviation of the factors' prior around 1.
        members: K, the components of a mixture: with several, a draw of the network takes the same component
            everywhere, and local noise one for each example.

    Returns:
        an initialiser: from an array to a `Rank1Normal`.

    Raises:
        ValueError: a scale is not positive and finite, or there is no member.

    Reference:
        Dusenberry et al. (2020), Efficient and scalable Bayesian neural nets with rank-1 factors,
        https://arxiv.org/abs/2005.07186

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> family = bdl.families.rank1_normal(scale=0.1)(jnp.ones((4, 2)))
        >>> family.sample(jax.random.key(0)).shape
        (4, 2)
    """
    check_members("rank1_normal", members)
    check_positive("rank1_normal", "scale", scale)
    check_positive("rank1_normal", "prior_scale", prior_scale)
    return _Initialiser(scale, prior_scale, int(members))
