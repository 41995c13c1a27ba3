"""The prior's part of a KL, where the means and variances of the weights are enough."""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist


def normal_cross_entropy(prior: Any, mean: jax.Array, variance: jax.Array) -> Any:
    """E_q[−log p(w)] for a Normal prior, in nats; `NotImplemented` for others.

    Σ ½ (variance + (mean − μ)²) / σ² + log σ + ½ log 2π

    Args:
        prior: a numpyro distribution over the entries.
        mean: of the entries under q, whatever its shape otherwise.
        variance: of the entries, float32; it broadcasts against the means.
    """
    if type(prior) is not dist.Normal:
        return NotImplemented
    squares = variance + (mean.astype(jnp.float32) - prior.loc) ** 2
    terms = 0.5 * squares / prior.scale**2 + jnp.log(prior.scale) + 0.5 * jnp.log(2 * jnp.pi)
    return jnp.broadcast_to(terms, mean.shape).sum()
