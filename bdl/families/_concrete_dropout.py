"""Dropout whose rate is learned."""

import dataclasses
import math
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from bdl import _random
from bdl._learned import fixed_field, value_of
from bdl.families._base import use_of
from bdl.families._checks import check_positive
from bdl.families._quasi_kl import logit_rate_entropy, quasi_kl
from bdl.families._rows import RowNoise, hard_factors
from bdl.networks._use import Use

# A logit of the rate beyond which 1 / (1 − rate) grows no more, lest it overflow; there all rows are dropped.
_LIMIT = 60.0


class ConcreteDropout(RowNoise):
    """Rows of the array are dropped with one learned rate. Made by `concrete_dropout`.

    The posterior is that of `BernoulliDropout`, and its draws have hard masks. Those of `relaxed()`, from which the
    objectives learn, keep the fraction z of a row in place of all or nothing,

        z = sigmoid(−(logit rate + log u − log(1 − u)) / temperature),   u ~ Uniform(0, 1),

    which has a gradient with respect to the rate. At temperature 0.1 the mean of z differs from 1 − rate by less than
    0.002.

    Local noise is a mask on the inputs, as for `BernoulliDropout`: exact for each example.

    Attributes:
        kernel: m, the mean of the weights.
        logit_rate: log(rate / (1 − rate)), learned.
        temperature: of the relaxation; fixed.
        hard: whether draws have hard masks.
    """

    logit_rate: jax.Array
    temperature: jax.Array = fixed_field()
    use: Use | None = eqx.field(static=True, default=None)
    hard: bool = eqx.field(static=True, default=True)
    local_rule: ClassVar[str] = "input mask"

    @property
    def rate(self) -> jax.Array:
        """The probability of dropping, float32."""
        return jax.nn.sigmoid(self.logit_rate)

    def relaxed(self) -> "ConcreteDropout":
        """The family with the concrete relaxation, whose draws have gradients with respect to the rate."""
        return dataclasses.replace(self, hard=False)

    def kl(self, prior: Any) -> jax.Array:
        """The quasi-KL of hard masks, in nats, as that of `BernoulliDropout`, with a gradient for the rate.

        Args:
            prior: a numpyro distribution over the entries with 0 < p(0) < ∞.
        """
        return quasi_kl(prior, self.kernel, jax.nn.sigmoid(-self.logit_rate), self.rate, self.entropy())

    def entropy(self) -> jax.Array:
        """The entropy of the masks, Σ_rows H(rate), in nats."""
        shape = self.kernel.shape
        return math.prod(use_of(self, shape).row_shape(shape)) * logit_rate_entropy(self.logit_rate)

    def _factors(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        if self.hard:
            return hard_factors(key, self.rate, shape)
        z = jax.nn.sigmoid(-(self.logit_rate + _logit(_random.uniform(key, shape))) / self.temperature)
        return z * (1 + jnp.exp(jnp.minimum(self.logit_rate, _LIMIT)))  # z / (1 − rate)


def _logit(u: jax.Array) -> jax.Array:
    return jnp.log(u / (1 - u))


@dataclasses.dataclass(frozen=True)
class _Initialiser:
    rate: Any
    temperature: Any

    def __call__(self, array: Any) -> Any:
        array = jnp.asarray(array)
        if array.ndim < 2:
            return array
        rate = jnp.asarray(self.rate, jnp.float32)
        return ConcreteDropout(array, jnp.log(rate) - jnp.log1p(-rate), jnp.asarray(self.temperature, jnp.float32))


def concrete_dropout(initial_rate: Any = 0.1, *, temperature: Any = 0.1) -> Any:
    """Dropout of whole rows with a rate that is learned, one for each array (Gal, Hron and Kendall 2017).

    The rate follows the data: it falls with N, and grows where the weights are not needed. Arrays of fewer than two
    axes (biases) stay point masses. The objective is the quasi-KL's, and bounds no evidence.

    Args:
        initial_rate: the probability of dropping at the start, in (0, 1).
        temperature: of the relaxation that gradients go through: nearer 0 it is nearer to hard masks, and its
            gradients have more variance.

    Returns:
        an initialiser: from an array to a `ConcreteDropout`.

    Raises:
        ValueError: the rate is outside (0, 1), or the temperature is not positive.

    Reference:
        Gal, Hron and Kendall (2017), Concrete dropout, https://arxiv.org/abs/1705.07832

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> family = bdl.families.concrete_dropout(initial_rate=0.5)(jnp.ones((4, 2)))
        >>> sorted(set(family.sample(jax.random.key(0)).ravel().tolist()))
        [0.0, 2.0]
        >>> gradient = jax.grad(lambda f: f.relaxed().sample(jax.random.key(0)).sum())(family)
        >>> bool(gradient.logit_rate != 0)
        True
    """
    initial_rate = value_of(initial_rate)  # it is learned anyway
    if not isinstance(initial_rate, jax.core.Tracer) and not 0 < float(initial_rate) < 1:
        raise ValueError(
            "families.concrete_dropout: expected initial_rate, the probability of dropping, in (0, 1); got "
            f"{float(initial_rate)}. A rate that starts at 0 or 1 has no gradient."
        )
    advice = "For hard masks with a fixed rate use `bdl.families.bernoulli_dropout`."
    check_positive("concrete_dropout", "temperature", temperature, advice)
    return _Initialiser(initial_rate, temperature)
