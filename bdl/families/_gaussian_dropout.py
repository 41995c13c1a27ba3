"""Dropout with multiplicative Gaussian noise."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions.kl import kl_divergence

from bdl import _random
from bdl._learned import Learned, fixed_field, map_learned, value_of
from bdl._positive import from_log, to_log
from bdl.families._base import use_of
from bdl.families._checks import check_positive
from bdl.families._cross_entropy import normal_cross_entropy
from bdl.families._local import reparameterised
from bdl.families._normal import NormalFamily
from bdl.families._rows import RowNoise, sum_rows
from bdl.networks._use import Use

# Added to m² under a logarithm, so that its gradient is finite at m = 0.
_FLOOR = 1e-12


class _Multipliers:
    log_alpha: Any

    @property
    def alpha(self) -> jax.Array:
        """The variance of the multipliers, float32."""
        return from_log(self.log_alpha)

    @property
    def rate(self) -> jax.Array:
        """Alpha / (1 + alpha), the rate of the Bernoulli dropout with the same variance."""
        return self.alpha / (1 + self.alpha)


class GaussianRowDropout(RowNoise, _Multipliers):
    """Rows of the array are multiplied by Normal(1, alpha): all weights that leave one input unit, by one number.

    w_row = m_row (1 + √alpha ε_row). Made by `gaussian_dropout(noise="row")`.

    q lives on a line for each row and has no density over the weights. Its KL is

    * to the log-uniform prior, that of the rows' multipliers, which does not depend on m: a sum over rows, each counted
      once however many weights it has (Kingma, Salimans and Welling 2015). It is improper, and so may the posterior be;
    * to other priors, the quasi-KL (Hron, Matthews and Ghahramani 2018), with the entropy on those lines:
      −E_q[log p(w)] − Σ_rows [½ log(2πe alpha) + log ‖m_row‖]. In closed form for Normal priors, from draws otherwise.

    Local noise multiplies the inputs, one number per example and row: exact for each example.

    Attributes:
        kernel: m, the mean of the weights.
        log_alpha: the logarithm of the multipliers' variance; fixed, or `bdl.learned`.
    """

    log_alpha: jax.Array | Learned = fixed_field()
    use: Use | None = eqx.field(static=True, default=None)
    local_rule: ClassVar[str] = "input noise"

    def kl(self, prior: Any) -> Any:
        """The KL of the multipliers or the quasi-KL, in nats; `NotImplemented` where draws must tell it."""
        if getattr(prior, "improper", False):
            shape = self.kernel.shape
            return _multiplier_kl(self.alpha, prior, math.prod(use_of(self, shape).row_shape(shape)))
        cross_entropy = normal_cross_entropy(prior, self.kernel, self.alpha * _squares(self.kernel))
        return cross_entropy if cross_entropy is NotImplemented else cross_entropy - self.entropy()

    def entropy(self) -> jax.Array:
        """The entropy on the rows' lines, Σ_rows ½ log(2πe alpha ‖m_row‖²), in nats."""
        squares = sum_rows(_squares(self.kernel), use_of(self, self.kernel.shape))
        return (0.5 * jnp.log(2 * jnp.pi * jnp.e * self.alpha * (squares + _FLOOR))).sum()

    def _factors(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return 1 + jnp.sqrt(self.alpha) * _random.normal(key, shape)


class GaussianWeightDropout(eqx.Module, _Multipliers):
    """Every weight is multiplied by its own Normal(1, alpha): w = m (1 + √alpha ε).

    q(w) = Normal(m, alpha m²), which has a density where m ≠ 0; so that everything is finite at m = 0, m² + 10⁻¹²
    stands for m² in it. Made by `gaussian_dropout(noise="weight")`.

    The KL to the log-uniform prior does not depend on m: a sum over weights of a function of alpha (Kingma, Salimans
    and Welling 2015). To other priors it is an ordinary KL.

    Local noise is the local reparameterisation; see `NormalFamily` on where it is exact.

    Attributes:
        kernel: m, the mean of the weights.
        log_alpha: the logarithm of the multipliers' variance; fixed, or `bdl.learned`.
    """

    kernel: jax.Array
    log_alpha: jax.Array | Learned = fixed_field()
    use: Use | None = eqx.field(static=True, default=None)
    local_rule: ClassVar[str] = "local reparameterisation"

    @property
    def mean(self) -> jax.Array:
        return self.kernel

    @property
    def distribution(self) -> dist.Distribution:
        variance = self.alpha * (_squares(self.kernel) + _FLOOR)
        return dist.Normal(self.kernel.astype(jnp.float32), jnp.sqrt(variance))

    def sample(self, key: jax.Array) -> jax.Array:
        return self._draws(key, self.kernel.shape)

    def sample_each(self, key: jax.Array, examples: int) -> jax.Array:
        """`examples` draws along a new axis 0, from one key."""
        return self._draws(key, (examples, *self.kernel.shape))

    def _draws(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        # No square root of m², which has no gradient at 0.
        factors = 1 + jnp.sqrt(self.alpha) * _random.normal(key, shape)
        return self.kernel * factors.astype(self.kernel.dtype)

    def bind(self, use: Use) -> "GaussianWeightDropout":
        return dataclasses.replace(self, use=use)

    def view(self, function: Callable[[jax.Array], jax.Array]) -> NormalFamily:
        """The family of `function(w)`, for a function that moves, drops and repeats entries."""
        # As a Normal its arrays all have the array's shape, and can be concatenated.
        log_scale = 0.5 * jnp.log(self.alpha * (_squares(self.kernel) + _FLOOR))
        return NormalFamily(function(self.kernel), function(log_scale))

    def local(self, key: jax.Array, x: jax.Array, linear: Any) -> jax.Array:
        mean = linear(x, self.kernel)
        noise = reparameterised(key, x, linear, self.alpha * _squares(self.kernel))
        return mean + noise.astype(mean.dtype)

    def kl(self, prior: Any) -> Any:
        """The KL to the log-uniform prior, in nats; `NotImplemented` for others."""
        if not getattr(prior, "improper", False):
            return NotImplemented
        return _multiplier_kl(self.alpha, prior, self.kernel.size)

    def log_prob(self, w: jax.Array) -> jax.Array:
        return self.distribution.log_prob(w.astype(jnp.float32)).sum()

    def entropy(self) -> jax.Array:
        # ½ log(2πe alpha m²)
        return (0.5 * jnp.log(2 * jnp.pi * jnp.e * self.alpha * (_squares(self.kernel) + _FLOOR))).sum()


def _squares(kernel: jax.Array) -> jax.Array:
    return kernel.astype(jnp.float32) ** 2


def _multiplier_kl(alpha: jax.Array, prior: Any, count: int) -> Any:
    # The log-uniform prior has no scale, so that of w = m (1 + √alpha ε) only the factor matters.
    try:
        return count * kl_divergence(dist.Normal(1.0, jnp.sqrt(alpha)), prior)
    except NotImplementedError:  # another improper prior, unknown to numpyro's registry
        return NotImplemented


@dataclasses.dataclass(frozen=True)
class _Initialiser:
    log_alpha: Any
    noise: str

    def __call__(self, array: Any) -> Any:
        array = jnp.asarray(array)
        if array.ndim < 2:
            return array
        family = GaussianRowDropout if self.noise == "row" else GaussianWeightDropout
        return family(array, self.log_alpha)


def gaussian_dropout(rate: Any = None, *, alpha: Any = None, noise: str = "row") -> Any:
    """Dropout with multiplicative Normal(1, alpha) noise: variational dropout (Kingma, Salimans and Welling 2015).

    Arrays of fewer than two axes (biases) stay point masses.

    Args:
        rate: the dropout rate with the same variance, alpha = rate / (1 − rate), in (0, 1). Give this or `alpha`.
        alpha: the variance of the noise, positive; `bdl.learned(...)` learns one number for each array. Beside a
            Normal prior it has an optimum; the log-uniform prior favours noise, and alpha above 1 is then usual for
            weights that are not needed.
        noise: `"row"`, one number for all weights that leave one input unit (exact local noise, a quasi-KL), or
            `"weight"`, one for each weight (a density, and an evidence bound under a proper prior).

    Returns:
        an initialiser: from an array to a `GaussianRowDropout` or a `GaussianWeightDropout`.

    Raises:
        ValueError: not exactly one of `rate` and `alpha` is given, or it is out of range; `noise` is neither.

    Reference:
        Kingma, Salimans and Welling (2015), Variational dropout and the local reparameterization trick,
        https://arxiv.org/abs/1506.02557; Hron, Matthews and Ghahramani (2018), Variational Bayesian dropout: pitfalls
        and fixes, https://arxiv.org/abs/1807.01969

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> family = bdl.families.gaussian_dropout(rate=0.2)(jnp.ones((4, 2)))
        >>> draw = family.sample(jax.random.key(0))
        >>> round(float(family.alpha), 3), bool(jnp.all(draw[:, 0] == draw[:, 1]))
        (0.25, True)
    """
    if noise not in ("row", "weight"):
        raise ValueError(f'families.gaussian_dropout: expected noise="row" or noise="weight", got {noise!r}.')
    if (rate is None) == (alpha is None):
        raise ValueError(
            "families.gaussian_dropout: expected either rate or alpha = rate / (1 − rate), got "
            f"rate={rate!r} and alpha={alpha!r}. Give one of them."
        )
    if rate is not None:
        value = value_of(rate)
        if not isinstance(value, jax.core.Tracer) and not 0 < float(value) < 1:
            raise ValueError(f"families.gaussian_dropout: expected a rate in (0, 1), got {float(value)}.")
        alpha = map_learned(_alpha, rate)
    if not isinstance(alpha, Learned):
        check_positive("gaussian_dropout", "alpha", alpha)
    return _Initialiser(to_log("alpha", alpha), noise)


def _alpha(rate: Any) -> jax.Array:
    rate = jnp.asarray(rate, jnp.float32)
    return rate / (1 - rate)
