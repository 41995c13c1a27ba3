"""Quantiles of the predictive mixture."""

from typing import Any

import jax
import jax.numpy as jnp

from bdl._keys import derive
from bdl.model import Model

_HALVINGS = 40


@jax.jit
def quantiles(key: Any, model: Model, draws: Any, levels: jax.Array) -> jax.Array:
    """The quantiles [Q, N, ...] of (1/S) Σₛ p(y | outputsₛ): its distribution function is bisected.

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
            return method(model.distribution(derive(draw_key, "likelihood"), outputs))

        return jax.vmap(one)(index, draws)

    mean = components(lambda d: d.mean)
    scale = jnp.sqrt(components(lambda d: d.variance).max(0))
    # Chebyshev: a component has at most 1/k² of its mass beyond k standard deviations.
    reach = scale / jnp.sqrt(jnp.minimum(levels, 1 - levels).min())
    start = (mean.min(0) - reach, mean.max(0) + reach)

    def find(level: jax.Array) -> jax.Array:
        def halve(_: Any, bounds: Any) -> Any:
            low, high = bounds
            middle = 0.5 * (low + high)
            below = components(lambda d: d.cdf(middle)).mean(0) < level
            return jnp.where(below, middle, low), jnp.where(below, high, middle)

        low, high = jax.lax.fori_loop(0, _HALVINGS, halve, start)
        return 0.5 * (low + high)

    return jax.vmap(find)(levels)
