"""Counts: Poisson, and negative binomial where they vary more."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln
from numpyro import distributions as dist

from bdl._hyper import Hyper
from bdl._learned import Learned
from bdl._positive import from_log, to_log
from bdl.likelihoods._heads import LIMIT, clipped, halves

_STIRLING = 20.0  # above it, four terms of Stirling's series are exact in float32


class Poisson(eqx.Module):
    """y ~ Poisson(exp(f(x))): outputs are the log rate, targets counts (integers), of one shape [N, ...].

    Log rates are clipped to [−30, 30]; gradients pass the clip.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> bdl.likelihoods.Poisson()(jnp.zeros((1, 2))).variance
        Array([[1., 1.]], dtype=float32)
    """

    def __call__(self, outputs: Any, *, key: Any = None) -> dist.Distribution:
        """The distribution of counts of the outputs' shape.

        Raises:
            ValueError: outside of a trace, a log rate is not finite.
        """
        del key
        return dist.Poisson(jnp.exp(clipped("Poisson", "log rate", outputs)))


class NegativeBinomial(eqx.Module):
    """y ~ NegativeBinomial(mean μ = exp(f(x)), concentration r): counts whose variance, μ + μ²/r, exceeds their mean.

    p(y) = Γ(y + r) / (Γ(r) y!) (r / (r + μ))^r (μ / (r + μ))^y. With r → ∞ it is Poisson's. Log means are clipped to
    [−30, 30] and predicted log concentrations to [−15, 15]; gradients pass the clip.

    Args:
        concentration: r, fixed or `bdl.learned(...)`; outputs are then the log mean, of the targets' shape. `None`
            where the network predicts it: outputs [N, ..., 2K] are K log means and K log concentrations, or a pair of
            both, of the targets' shape.

    Raises:
        ValueError: `concentration` is not positive.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> bdl.likelihoods.NegativeBinomial(concentration=2.0)(jnp.zeros((1, 2))).variance
        Array([[1.5, 1.5]], dtype=float32)
    """

    log_concentration: jax.Array | Hyper | Learned | None

    def __init__(self, concentration: Any = 1.0):
        self.log_concentration = None if concentration is None else to_log("concentration", concentration)

    def __call__(self, outputs: Any, *, key: Any = None) -> dist.Distribution:
        """The distribution of counts.

        Raises:
            ValueError: `concentration` is None and the columns are odd in number; or, outside of a trace, an output is
                not finite.
        """
        del key
        if self.log_concentration is None:
            log_mean, log_r = halves("NegativeBinomial", "log mean", "log concentration", outputs)
            concentration = jnp.exp(clipped("NegativeBinomial", "log concentration", log_r, LIMIT / 2))
        else:
            log_mean, concentration = outputs, jnp.broadcast_to(from_log(self.log_concentration), outputs.shape)
        return StableNegativeBinomial(jnp.exp(clipped("NegativeBinomial", "log mean", log_mean)), concentration)


class StableNegativeBinomial(dist.NegativeBinomial2):
    """numpyro's, with a log-probability that keeps its digits in float32 where the concentration is large."""

    def log_prob(self, value: Any) -> jax.Array:
        """Log p(value) in nats.

        With y log r − y log(r + μ) = −y log1p(μ/r), what remains is y log μ − (r + y) log1p(μ/r) − log y! and the log
        of Γ(y + r) / (Γ(r) r^y), whose Stirling series has no large terms that cancel.
        """
        r, mean = self.concentration, self.concentration / self.rate
        y = jnp.asarray(value).astype(jnp.float32)
        large = jnp.maximum(r, _STIRLING)
        rest = _series(y + large) - _series(large)
        by_series = (large + y - 0.5) * jnp.log1p(y / large) - y + rest
        small = jnp.minimum(r, _STIRLING)
        by_gamma = gammaln(y + small) - gammaln(small) - y * jnp.log(small)
        ratio = jnp.where(r > _STIRLING, by_series, by_gamma)
        return ratio + y * jnp.log(mean) - (r + y) * jnp.log1p(mean / r) - gammaln(y + 1)


def _series(r: jax.Array) -> jax.Array:
    # log Γ(r) − (r − ½) log r + r − ½ log 2π
    return (1 / 12 - (1 / 360 - 1 / (1260 * r**2)) / r**2) / r
