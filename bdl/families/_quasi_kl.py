"""The quasi-KL of dropout, which has no density over the weights."""

from typing import Any

import jax
import jax.numpy as jnp


def quasi_kl(prior: Any, kernel: jax.Array, keep: jax.Array, rate: jax.Array, entropy: jax.Array) -> jax.Array:
    """The quasi-KL to a prior that factorises over the weights (Hron, Matthews and Ghahramani 2018), in nats:

        Σ_weights [ −keep log p(m / keep) − rate log p(0) ] − entropy.

    Args:
        prior: a numpyro distribution over the entries with 0 < p(0) < ∞.
        kernel: m, the weights' means.
        keep: the probability of keeping, 1 − rate.
        rate: the probability of dropping; both are given, since 1 − rate loses what is left near 1.
        entropy: of all masks, in nats.

    Raises:
        ValueError: the prior is improper: its density at zero is infinite.
    """
    if getattr(prior, "improper", False):
        raise ValueError(
            f"the quasi-KL of dropped weights needs log p(0), which is infinite for {type(prior).__name__}. "
            "Take a proper prior such as priors.fan_in(), or families.gaussian_dropout, which drops no weight to zero."
        )
    m = kernel.astype(jnp.float32)
    kept = prior.log_prob(m * (1 / keep)).sum()
    at_zero = prior.log_prob(jnp.zeros(()))  # one number, or one for each entry of the prior's own shape
    dropped = at_zero.sum() * (m.size / at_zero.size)
    return -(keep * kept + rate * dropped) - entropy


def rate_entropy(rate: jax.Array) -> jax.Array:
    """The entropy of one mask in nats; 0 at rate 0."""
    return jax.scipy.special.entr(rate) + jax.scipy.special.entr(1 - rate)


def logit_rate_entropy(logit_rate: jax.Array) -> jax.Array:
    """The entropy of one mask in nats, with a gradient for any logit: log(1 + eᵃ) − a sigmoid(a)."""
    return jax.nn.softplus(logit_rate) - logit_rate * jax.nn.sigmoid(logit_rate)
