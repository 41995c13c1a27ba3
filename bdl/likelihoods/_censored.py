"""Targets of which only a lower limit is known."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr
from numpyro import distributions as dist

from bdl.likelihoods import _targets
from bdl.likelihoods._base import as_likelihood
from bdl.likelihoods._wrapped import Wrapped


def censored(likelihood: Any) -> "Censored":
    """`likelihood`, with targets of which some are right-censored: it is known that they are larger than what is given.

    Targets are a pair (y, is_censored), the second boolean. An observed one contributes log p(y), a censored one
    log P(Y > y), which does not underflow far out in the tail. Predictions are about Y itself, not about what would be
    observed of it.

    Args:
        likelihood: whose distribution is a Normal, Laplace, logistic, exponential, log-normal or Weibull one, or has a
            method `log_survival(y)`.

    Raises:
        ValueError: (with the data) the targets are not such a pair.
        TypeError: (with the data) the distribution has no log survival function here.

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.zeros((2, 1))})
        >>> model = bdl.Model(network, bdl.likelihoods.censored(bdl.likelihoods.Normal(scale=1.0)))
        >>> y, is_censored = jnp.array([[0.0], [0.0], [30.0]]), jnp.array([[False], [True], [True]])
        >>> found = model.log_likelihood(jax.random.key(0), jnp.zeros((3, 1)), (y, is_censored))
        >>> [round(float(log_prob), 2) for log_prob in found]
        [-0.92, -0.69, -454.32]
    """
    return Censored(as_likelihood(likelihood))


class Censored(Wrapped):
    """A likelihood with right-censored targets. Made by `censored`."""

    def log_prob(self, distribution: dist.Distribution, y: Any) -> jax.Array:
        """Log p(y), or log P(Y > y) where it is censored, in nats."""
        y, is_censored = self._pair(distribution, y)
        observed = super().log_prob(distribution, y)
        return jnp.where(is_censored, log_survival(distribution, y), observed)

    def training_weight(self, distribution: dist.Distribution, y: Any) -> Any:
        """The weights of `likelihood`."""
        return super().training_weight(distribution, self._pair(distribution, y)[0])

    def check_targets(self, distribution: dist.Distribution, y: Any) -> None:
        """Whether the targets are a pair, whose first is what `likelihood` takes.

        Raises:
            ValueError, TypeError: they are not.
        """
        values, _ = self._pair(distribution, jax.tree.map(np.asarray, y))
        super().check_targets(distribution, values)
        jax.eval_shape(lambda: log_survival(distribution, jnp.asarray(values)))

    def _pair(self, distribution: dist.Distribution, y: Any) -> tuple[Any, jax.Array]:
        y, is_censored = _targets.pair("censored", "is_censored", y)
        _targets.check_flags("censored", "is_censored", distribution, is_censored)
        return y, is_censored


def log_survival(distribution: dist.Distribution, y: Any) -> jax.Array:
    """Log P(Y > y) in nats, without underflow.

    Raises:
        TypeError: the distribution has none here.
    """
    if hasattr(distribution, "log_survival"):
        return distribution.log_survival(y)
    for kind, function in _LOG_SURVIVAL.items():
        if isinstance(distribution, kind):
            return function(distribution, y)
    raise TypeError(
        f"censored: {type(distribution).__name__} has no log survival function here; "
        f"{', '.join(kind.__name__ for kind in _LOG_SURVIVAL)} have one. Give your distribution a method "
        "`log_survival(y)`, the logarithm of P(Y > y)."
    )


def _normal_tail(z: jax.Array) -> jax.Array:
    """Log P(Z > z) of a standard Normal."""
    # log φ(z) − log z + log(1 − z⁻² + 3 z⁻⁴ − 15 z⁻⁶ + 105 z⁻⁸): `log_ndtr` is right there, but its gradient is not.
    far = jnp.where(z > _FAR, z, _FAR)
    q = far**-2
    tail = -0.5 * far**2 - jnp.log(far * math.sqrt(2 * math.pi)) + jnp.log1p(-q * (1 - q * (3 - q * (15 - q * 105))))
    return jnp.where(z > _FAR, tail, log_ndtr(-jnp.where(z > _FAR, _FAR, z)))


_FAR = 8.0


def _laplace_tail(z: jax.Array) -> jax.Array:
    right, left = jnp.where(z > 0, z, 0.0), jnp.where(z > 0, 0.0, z)
    return jnp.where(z > 0, -right - math.log(2.0), jnp.log1p(-0.5 * jnp.exp(left)))


_LOG_SURVIVAL: dict[type, Any] = {
    dist.Normal: lambda d, y: _normal_tail((y - d.loc) / d.scale),
    dist.Laplace: lambda d, y: _laplace_tail((y - d.loc) / d.scale),
    dist.Logistic: lambda d, y: jax.nn.log_sigmoid(-(y - d.loc) / d.scale),
    dist.Exponential: lambda d, y: -d.rate * y,
    dist.LogNormal: lambda d, y: _normal_tail((jnp.log(y) - d.loc) / d.scale),
    dist.Weibull: lambda d, y: -((y / d.scale) ** d.concentration),
}
