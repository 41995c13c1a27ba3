"""Radial: a uniform direction times a Normal distance."""

import dataclasses
import math
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from bdl import _random
from bdl.families._checks import check_positive
from bdl.families._cross_entropy import normal_cross_entropy
from bdl.families._local import reparameterised
from bdl.networks._use import Use


class Radial(eqx.Module):
    """w = loc + √n scale ∘ (ε / ‖ε‖) r, ε ~ Normal(0, I), one r ~ Normal(0, 1) for the array of n. Made by `radial`.

    The distance of a draw from its mean, in units of √n scale, is |r|: draws come near the mean however many weights an
    array has, where those of a mean-field Normal are all at about that distance. A weight's standard deviation is
    scale; the paper's σ is √n times it.

    Local noise has the mean and the variance of the draws for each example,

        y = x loc + r √(x² scale²) ε

    with an own r for each example and an ε for each of its output units: an approximation in distribution, good where
    an array has many inputs. Where a weight enters an example several times it approximates as in `NormalFamily`.

    Attributes:
        loc: the mean.
        log_scale: the logarithm of the standard deviation.
    """

    loc: jax.Array
    log_scale: jax.Array
    use: Use | None = eqx.field(static=True, default=None)
    local_rule: ClassVar[str] = "moment matching"

    @property
    def scale(self) -> jax.Array:
        """The standard deviation, float32."""
        return jnp.exp(self.log_scale)

    @property
    def mean(self) -> jax.Array:
        return self.loc

    def sample(self, key: jax.Array) -> jax.Array:
        key_direction, key_distance = jax.random.split(key)
        noise = _random.normal(key_direction, self.loc.shape)
        # 16-bit normals are never 0, and nor is the norm.
        direction = noise / jnp.sqrt((noise**2).sum())
        radius = math.sqrt(self.loc.size) * _random.normal(key_distance, ())
        return (self.loc + self.scale * direction * radius).astype(self.loc.dtype)

    def bind(self, use: Use) -> "Radial":
        return dataclasses.replace(self, use=use)

    def local(self, key: jax.Array, x: jax.Array, linear: Any) -> jax.Array:
        key_direction, key_distance = jax.random.split(key)
        mean = linear(x, self.loc)
        noise = reparameterised(key_direction, x, linear, jnp.exp(2 * self.log_scale))
        distance = _random.normal(key_distance, (x.shape[0], 1, 1))
        return mean + (distance * noise).astype(mean.dtype)

    def kl(self, prior: Any) -> Any:
        """KL to a Normal prior, in nats, from E[w] and Var(w) = scale²; `NotImplemented` for others."""
        cross_entropy = normal_cross_entropy(prior, self.loc, jnp.exp(2 * self.log_scale))
        return cross_entropy if cross_entropy is NotImplemented else cross_entropy - self.entropy()

    def log_prob(self, w: jax.Array) -> jax.Array:
        # With v = (w − loc) / (√n scale): p(v) = p(|r| = ‖v‖) / (Aₙ ‖v‖ⁿ⁻¹), infinite at v = 0, hence the floor.
        v = (w.astype(jnp.float32) - self.loc.astype(jnp.float32)) / (math.sqrt(self.loc.size) * self.scale)
        square = (v**2).sum()
        distance = 0.5 * math.log(2 / math.pi) - 0.5 * square
        spread = 0.5 * (self.loc.size - 1) * jnp.log(square + 1e-30)
        return distance - spread - self._log_area - self._log_sizes

    def entropy(self) -> jax.Array:
        # H(v) = H(|r|) + (n − 1) E log |r| + log Aₙ, with H(|r|) = ½ log(πe / 2) and E log |r| = −½ (γ + log 2)
        radius = 0.5 * math.log(math.pi * math.e / 2) - 0.5 * (self.loc.size - 1) * (_EULER + math.log(2))
        return radius + self._log_area + self._log_sizes

    @property
    def _log_sizes(self) -> jax.Array:
        # Σ log(√n scale)
        return self.log_scale.sum() + 0.5 * self.loc.size * math.log(self.loc.size)

    @property
    def _log_area(self) -> float:
        # Of the unit sphere in n dimensions: 2 π^(n/2) / Γ(n/2)
        half = self.loc.size / 2
        return math.log(2) + half * math.log(math.pi) - math.lgamma(half)


_EULER = 0.5772156649015329


@dataclasses.dataclass(frozen=True)
class _Initialiser:
    scale: Any

    def __call__(self, array: Any) -> Radial:
        loc = jnp.asarray(array)
        return Radial(loc, jnp.broadcast_to(jnp.log(jnp.asarray(self.scale, jnp.float32)), loc.shape))


def radial(scale: Any = 0.05) -> Any:
    """Radial posterior around the network's weights (Farquhar, Osborne and Gal 2020).

    Args:
        scale: the initial standard deviation of every weight; positive.

    Returns:
        an initialiser: from an array to a `Radial`.

    Raises:
        ValueError: `scale` is not positive and finite.

    Reference:
        Farquhar, Osborne and Gal (2020), Radial Bayesian neural networks, https://arxiv.org/abs/1907.00865

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> family = bdl.families.radial(scale=0.1)(jnp.zeros((300, 20)))
        >>> draws = jax.vmap(family.sample)(jax.random.split(jax.random.key(0), 1_000))
        >>> 0.08 < float(draws.std()) < 0.12
        True
    """
    check_positive("radial", "scale", scale, "For weights that do not move use `bdl.families.point`.")
    return _Initialiser(scale)
