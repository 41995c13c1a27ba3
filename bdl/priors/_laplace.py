"""Laplace weights, and the closed form of a mean-field Normal's KL to them."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import erf
from numpyro.distributions import Laplace, Normal
from numpyro.distributions.kl import kl_divergence

from bdl.priors._iid import IID, iid


def laplace(scale: Any = 1.0) -> IID:
    """Every weight independently from Laplace(0, scale): log p(w) = −|w| / scale − log(2 scale).

    The maximum a posteriori weights are those of an L1 penalty, and many are zero; a posterior's draws are not. The KL
    from a Normal has a closed form.

    Args:
        scale: the mean of |w|, which is the standard deviation over √2; fixed, or `bdl.learned(...)`.

    Raises:
        ValueError: `scale` is not positive.

    Reference:
        Williams (1995), Bayesian regularization and pruning using a Laplace prior,
        https://doi.org/10.1162/neco.1995.7.1.117

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> posterior = bdl.variational({"w": jnp.zeros(10)}, bdl.families.normal(scale=1.0))
        >>> round(float(bdl.kl(jax.random.key(0), posterior, bdl.priors.laplace(scale=1.0))), 4)
        0.7209
    """
    return iid(Laplace, loc=0.0, scale=scale)


def _kl_normal_laplace(q: Normal, p: Laplace) -> jax.Array:
    """KL(Normal(μ, σ²) || Laplace(m, b)) = log 2b + E|w − m| / b − ½ log(2πe σ²), in nats."""
    distance = _mean_distance(*jnp.broadcast_arrays(q.loc - p.loc, q.scale))
    entropy = jnp.log(q.scale) + 0.5 * math.log(2 * math.pi * math.e)
    return distance / p.scale + jnp.log(2 * p.scale) - entropy


@jax.custom_jvp
def _mean_distance(offset: jax.Array, scale: jax.Array) -> jax.Array:
    """E|w| under Normal(offset, scale²), the mean of a folded Normal: scale √(2/π) exp(−z²/2) + offset erf(z/√2)."""
    z = offset / scale
    return scale * math.sqrt(2 / math.pi) * jnp.exp(-0.5 * z**2) + offset * erf(z * math.sqrt(0.5))


@_mean_distance.defjvp
def _mean_distance_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    # Both derivatives are at most 1, but by the chain rule they are sums of 0 · ∞ where z is large.
    offset, scale = primals
    z = offset / scale
    by_offset, by_scale = erf(z * math.sqrt(0.5)), math.sqrt(2 / math.pi) * jnp.exp(-0.5 * z**2)
    return scale * by_scale + offset * by_offset, by_offset * tangents[0] + by_scale * tangents[1]


kl_divergence.register(Normal, Laplace)(_kl_normal_laplace)
