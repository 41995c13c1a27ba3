"""Mean-field Normal."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from bdl import _random
from bdl.families._checks import check_positive
from bdl.families._local import flipped, reparameterised, variance_of
from bdl.families._rows import spread
from bdl.networks._use import Use

# The least |w| that a relative scale is taken of.
_SMALLEST = 1e-3


class NormalFamily(eqx.Module):
    """q(w) = Π Normal(wᵢ; locᵢ, scaleᵢ²), mean field. Made by `normal`.

    Local noise is the local reparameterisation (Kingma, Salimans and Welling 2015): for y = x W,

        y ~ Normal(x loc, x² scale²),

    exact for each example where a weight enters once per example. Where it enters several times (a convolution's
    pixels, time steps, Dense over [B, T, D]), an example has one ε per output unit: its positions are fully correlated
    where truly they correlate as their inputs do.

    With `flipout` (Wen et al. 2018) all examples share the size of the perturbation scale ∘ ε of the weights, and each
    multiplies its rows and its columns by random signs of its own. Each example's draw of the weights is then exactly
    q's, however often a weight enters, and different examples' draws do not correlate, but they are not independent.

    Attributes:
        loc: the mean.
        log_scale: the logarithm of the standard deviation; of the array's shape, of one number per row with
            `tied="row"`, or of a single one with `tied="array"`.
        tied: what has one scale in common: `None` (nothing), `"array"` or `"row"`.
        flipout: whether local noise is Flipout's.
    """

    loc: jax.Array
    log_scale: jax.Array
    use: Use | None = eqx.field(static=True, default=None)
    tied: str | None = eqx.field(static=True, default=None)
    flipout: bool = eqx.field(static=True, default=False)

    @property
    def scale(self) -> jax.Array:
        """The standard deviation, float32; it broadcasts to the array's shape."""
        return jnp.exp(self._log_scales)

    @property
    def mean(self) -> jax.Array:
        return self.loc

    @property
    def distribution(self) -> dist.Distribution:
        return dist.Normal(self.loc.astype(jnp.float32), self.scale)

    @property
    def local_rule(self) -> str:
        return "Flipout" if self.flipout else "local reparameterisation"

    @property
    def awaits_use(self) -> bool:
        """Whether the number of scales is not known before `bind`."""
        return self.tied == "row" and self.use is None

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
        squares = jnp.exp(2 * self._log_scales) + (self.loc.astype(jnp.float32) - prior.loc) ** 2
        terms = 0.5 * squares * (1 / prior.scale**2) - self._log_scales
        log_scale = jnp.log(prior.scale)
        return terms.sum() + self.loc.size * (log_scale.sum() / log_scale.size - 0.5)

    def log_prob(self, w: jax.Array) -> jax.Array:
        return self.distribution.log_prob(w.astype(jnp.float32)).sum()

    def entropy(self) -> jax.Array:
        # ½ log(2πe) + log scale, as often as a scale has weights
        terms = 0.5 * jnp.log(2 * jnp.pi * jnp.e) + self.log_scale
        return terms.sum() * (self.loc.size / self.log_scale.size)

    def view(self, function: Callable[[jax.Array], jax.Array]) -> "NormalFamily":
        """The family of `function(w)`, for a function that moves, drops and repeats entries."""
        log_scale = jnp.broadcast_to(self._log_scales, self.loc.shape)
        return NormalFamily(function(self.loc), function(log_scale), flipout=self.flipout)

    def bind(self, use: Use) -> "NormalFamily":
        log_scale = self.log_scale
        if self.awaits_use:
            log_scale = jnp.broadcast_to(log_scale, use.row_shape(self.loc.shape))
        return dataclasses.replace(self, use=use, log_scale=log_scale)

    def local(self, key: jax.Array, x: jax.Array, linear: Any) -> jax.Array:
        mean = linear(x, self.loc)
        if self.flipout:
            key_weights, key_signs = jax.random.split(key)
            perturbation = self.scale * _random.normal(key_weights, self.loc.shape)
            return mean + flipped(key_signs, x, linear, perturbation)
        return mean + reparameterised(key, x, linear, self._variances).astype(mean.dtype)

    def local_moments(self, x: jax.Array, linear: Any) -> tuple[jax.Array, jax.Array] | None:
        """Mean and variance of `local`, [B, P', O], where its noise is one ε per example and output unit."""
        if self.flipout or linear.lookup or linear.transposed:
            return None
        return linear(x, self.loc), variance_of(x, linear, self._variances)

    @property
    def _variances(self) -> jax.Array:
        return jnp.broadcast_to(jnp.exp(2 * self._log_scales), self.loc.shape)

    @property
    def _log_scales(self) -> jax.Array:
        return spread(self.log_scale, self.loc.shape)


@dataclasses.dataclass(frozen=True)
class _Initialiser:
    scale: Any
    relative: bool
    tied: str | None
    flipout: bool

    def __call__(self, array: Any) -> NormalFamily:
        loc = jnp.asarray(array)
        log_scale = jnp.log(jnp.asarray(self.scale, jnp.float32))
        if self.relative:
            log_scale += jnp.log(jnp.maximum(jnp.abs(loc.astype(jnp.float32)), _SMALLEST))
        shape = loc.shape if self.tied is None else (1,) * loc.ndim
        return NormalFamily(loc, jnp.broadcast_to(log_scale, shape), tied=self.tied, flipout=self.flipout)


def normal(
    scale: Any = 0.05, *, relative: bool = False, tied: str | None = None, local: str = "reparameterisation"
) -> Any:
    """Mean-field Normal around the network's weights (Hinton and van Camp 1993; Graves 2011; Blundell et al. 2015).

    Args:
        scale: the initial standard deviation of every weight; positive.
        relative: whether a weight's initial standard deviation is `scale` · max(|w|, 0.001) in place of `scale`, for
            networks that are trained already (MOPED, Krishnan et al. 2020).
        tied: `"array"` learns one standard deviation for the whole array, `"row"` one for all weights that leave one
            input unit, as the network uses the array. The number of rows is known after `bdl.bind`, which `fit`,
            `elbo` and `predict` do by themselves.
        local: what local noise is: `"reparameterisation"`, independent for different examples, an approximation where
            a weight is used again within one; or `"flipout"`, exact there, with examples that share part of the noise.

    Returns:
        an initialiser: from an array to a `NormalFamily`.

    Raises:
        ValueError: `scale` is not positive and finite; `tied` or `local` is none of the above; `tied` and `relative`
            are both asked for.

    Reference:
        Wen et al. (2018), Flipout, https://arxiv.org/abs/1803.04386; Krishnan, Subedar and Tickoo (2020), Specifying
        weight priors in Bayesian deep neural networks with empirical Bayes, https://arxiv.org/abs/1906.05323

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> family = bdl.families.normal(scale=0.1)(jnp.zeros((3, 2)))
        >>> family.sample(jax.random.key(0)).shape, round(float(family.scale[0, 0]), 3)
        ((3, 2), 0.1)
    """
    advice = "For weights that do not move use `bdl.families.point`."
    check_positive("normal", "scale (a standard deviation)", scale, advice)
    if tied not in (None, "array", "row"):
        raise ValueError(f'families.normal: expected tied=None, "array" or "row", got {tied!r}.')
    if local not in ("reparameterisation", "flipout"):
        raise ValueError(f'families.normal: expected local="reparameterisation" or "flipout", got {local!r}.')
    if relative and tied is not None:
        raise ValueError(
            f'families.normal: relative=True has a scale for each weight, and tied="{tied}" one for many. Take one.'
        )
    return _Initialiser(scale, relative, tied, local == "flipout")
