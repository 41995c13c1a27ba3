"""Mean-field Normal."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from bdl import _random
from bdl.families._base import use_of
from bdl.networks._use import Use


class NormalFamily(eqx.Module):
    """q(w) = Π Normal(wᵢ; locᵢ, scaleᵢ²), mean field. Made by `normal`.

    Local noise is the local reparameterisation (Kingma, Salimans and Welling 2015): for y = x W,

        y ~ Normal(x loc, x² scale²),

    exact for each example where a weight enters once per example. Where it enters several times (a convolution's
    pixels, time steps, Dense over [B, T, D]), an example has one ε per output unit: its positions are fully correlated
    where truly they correlate as their inputs do.

    Attributes:
        loc: the mean.
        log_scale: the logarithm of the standard deviation.
    """

    loc: jax.Array
    log_scale: jax.Array
    use: Use | None = eqx.field(static=True, default=None)

    @property
    def scale(self) -> jax.Array:
        """The standard deviation, float32."""
        return jnp.exp(self.log_scale)

    @property
    def mean(self) -> jax.Array:
        return self.loc

    @property
    def distribution(self) -> dist.Distribution:
        return dist.Normal(self.loc.astype(jnp.float32), self.scale)

    def sample(self, key: jax.Array) -> jax.Array:
        return self._draws(key, self.loc.shape)

    def sample_each(self, key: jax.Array, examples: int) -> jax.Array:
        """`examples` draws along a new axis 0, from one key."""
        return self._draws(key, (examples, *self.loc.shape))

    def _draws(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        # w = loc + scale ε
        return (self.loc + self.scale * _random.normal(key, shape)).astype(self.loc.dtype)

    def kl(self, prior: dist.Distribution) -> Any:
        """KL to a Normal prior, in nats; `NotImplemented` for others.

        Σ ½ (scale² / σ² + (loc − μ)² / σ² − 1) − log scale + log σ
        """
        if type(prior) is not dist.Normal:
            return NotImplemented
        # From log_scale itself: the logarithm of an exponential would cost as much as all the rest.
        squares = jnp.exp(2 * self.log_scale) + (self.loc.astype(jnp.float32) - prior.loc) ** 2
        terms = 0.5 * squares * (1 / prior.scale**2) - self.log_scale
        log_scale = jnp.log(prior.scale)
        return terms.sum() + self.loc.size * (log_scale.sum() / log_scale.size - 0.5)

    def log_prob(self, w: jax.Array) -> jax.Array:
        return self.distribution.log_prob(w.astype(jnp.float32)).sum()

    def entropy(self) -> jax.Array:
        # ½ log(2πe) + log scale
        return (0.5 * jnp.log(2 * jnp.pi * jnp.e) + self.log_scale).sum()

    def view(self, function: Callable[[jax.Array], jax.Array]) -> "NormalFamily":
        """The family of `function(w)`, for a function that moves, drops and repeats entries."""
        return NormalFamily(function(self.loc), function(self.log_scale))

    def bind(self, use: Use) -> "NormalFamily":
        return dataclasses.replace(self, use=use)

    def local(self, key: jax.Array, x: jax.Array, linear: Any) -> jax.Array:
        mean = linear(x, self.loc)
        variance = linear(x * x, jnp.exp(2 * self.log_scale).astype(x.dtype)).astype(jnp.float32)
        if linear.lookup:  # other rows are independent
            noise = _random.normal(key, mean.shape)
        elif linear.transposed:
            noise = _random.normal(key, (mean.shape[0], 1, mean.shape[2]))
        else:
            units = use_of(self, self.loc.shape).out_shape(self.loc.shape)
            noise = linear.outputs(_random.normal(key, (x.shape[0], *units)))
        # The floor keeps the gradient of the root finite where an example's inputs are all zero.
        return mean + (jnp.sqrt(variance + 1e-12) * noise).astype(mean.dtype)


@dataclasses.dataclass(frozen=True)
class _Initialiser:
    scale: Any

    def __call__(self, array: Any) -> NormalFamily:
        loc = jnp.asarray(array)
        return NormalFamily(loc, jnp.broadcast_to(jnp.log(jnp.asarray(self.scale, jnp.float32)), loc.shape))


def normal(scale: Any = 0.05) -> Any:
    """Mean-field Normal around the network's weights (Hinton and van Camp 1993; Graves 2011; Blundell et al. 2015).

    Args:
        scale: the initial standard deviation of every weight; positive.

    Returns:
        an initialiser: from an array to a `NormalFamily`.

    Raises:
        ValueError: `scale` is not positive and finite.

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> family = bdl.families.normal(scale=0.1)(jnp.zeros((3, 2)))
        >>> family.sample(jax.random.key(0)).shape, round(float(family.scale[0, 0]), 3)
        ((3, 2), 0.1)
    """
    if not isinstance(scale, jax.core.Tracer):
        value = float(scale)
        if not 0 < value < float("inf"):
            raise ValueError(
                f"families.normal: expected a positive, finite scale (a standard deviation), got {value}. "
                "For weights that do not move use `bdl.families.point`."
            )
    return _Initialiser(scale)
