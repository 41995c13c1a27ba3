"""Quantiles of the predictive mixture."""

from typing import Any

import jax
import jax.numpy as jnp
from numpyro import distributions as dist

from bdl._keys import derive
from bdl.model import Model

_HALVINGS = 40
_REACH = 40.0  # sinh(40) is 1e17 standard deviations


@jax.jit
def quantiles(key: Any, model: Model, draws: Any, levels: jax.Array) -> jax.Array:
    """The quantiles [Q, N, ...] of (1/S) Σₛ p(y | outputsₛ): its distribution function is bisected.

    Of a multivariate Normal they are those of each target by itself.

    Args:
        key: the caller's key of `predict`.
        model: its likelihood needs a distribution with `cdf`.
        draws: the network's outputs, [S, N, ...].
        levels: probabilities [Q].
    """
    index = jnp.arange(jax.tree.leaves(draws)[0].shape[0])

    def components(method: Any) -> Any:
        def one(i: Any, outputs: Any) -> Any:
            draw_key = derive(key, "predict", i)
            return method(_marginal(model.distribution(derive(draw_key, "likelihood"), outputs)))

        return jax.vmap(one)(index, draws)

    like = jax.eval_shape(model.distribution, key, jax.tree.map(lambda a: a[0], draws))
    where, scale = components(_location), components(_scale)
    centre = 0.5 * (where.min(0) + where.max(0))
    unit = scale.max(0) + where.max(0) - centre

    # y = centre + unit sinh(u): some bits for the middle, and room for tails without moments.
    def value(u: jax.Array) -> jax.Array:
        return centre + unit * jnp.sinh(u)

    def find(level: jax.Array) -> jax.Array:
        def halve(_: Any, bounds: Any) -> Any:
            low, high = bounds
            middle = 0.5 * (low + high)
            # The distribution function of some is NaN below the support, where it is 0.
            below = jnp.nan_to_num(components(lambda d: d.cdf(value(middle)))).mean(0) < level
            return jnp.where(below, middle, low), jnp.where(below, high, middle)

        low, high = jax.lax.fori_loop(
            0, _HALVINGS, halve, (jnp.full_like(centre, -_REACH), jnp.full_like(centre, _REACH))
        )
        found = value(0.5 * (low + high))
        return jnp.round(found) if like.is_discrete else found

    return jax.vmap(find)(levels)


def _marginal(distribution: Any) -> Any:
    if isinstance(distribution, dist.MultivariateNormal | dist.LowRankMultivariateNormal):
        return dist.Normal(distribution.mean, jnp.sqrt(distribution.variance))
    return distribution


def _location(distribution: Any) -> jax.Array:
    mean = distribution.mean
    return jnp.where(jnp.isfinite(mean), mean, getattr(distribution, "loc", 0.0))


def _scale(distribution: Any) -> jax.Array:
    variance = distribution.variance
    other = getattr(distribution, "scale", 1.0)
    return jnp.where(jnp.isfinite(variance), jnp.sqrt(variance), other)
