"""Dropout as a variational posterior: Monte Carlo dropout."""

import dataclasses
import math
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from bdl._learned import fixed_field
from bdl.families._base import use_of
from bdl.families._checks import check_rate
from bdl.families._quasi_kl import quasi_kl, rate_entropy
from bdl.families._rows import RowNoise, hard_factors
from bdl.networks._use import Use


class BernoulliDropout(RowNoise):
    """Rows of the array are dropped: all weights that leave one input unit. Made by `bernoulli_dropout`.

    q(row) = (1 − rate) δ(m / (1 − rate)) + rate δ(0), so that E[w] = m, the kernel.

    Local noise is a mask on the inputs, one per example: shared by its time steps (variational RNN dropout, Gal and
    Ghahramani 2016b) and its pixels (channel dropout), exact for each example's marginal.

    The masks have 16 bits, and are rescaled by the rate that they really have; `rate` below 2⁻¹⁷ drops nothing.

    Attributes:
        kernel: m.
        rate: the probability of dropping; fixed, not learned.
    """

    rate: jax.Array = fixed_field()
    use: Use | None = eqx.field(static=True, default=None)
    local_rule: ClassVar[str] = "input mask"

    def kl(self, prior: Any) -> jax.Array:
        """The quasi-KL to a prior that factorises over the weights (Hron, Matthews and Ghahramani 2018), in nats:

            Σ_rows [ −(1 − rate) log p(m / (1 − rate)) − rate log p(0) − H(rate) ].

        Args:
            prior: a numpyro distribution over the entries with 0 < p(0) < ∞.
        """
        return quasi_kl(prior, self.kernel, 1 - self.rate, self.rate, self.entropy())

    def entropy(self) -> jax.Array:
        """The entropy of the masks, Σ_rows H(rate), in nats."""
        shape = self.kernel.shape
        rows = math.prod(use_of(self, shape).row_shape(shape))
        return rows * rate_entropy(self.rate)

    def _factors(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return hard_factors(key, self.rate, shape)


@dataclasses.dataclass(frozen=True)
class _Initialiser:
    rate: Any

    def __call__(self, array: Any) -> Any:
        array = jnp.asarray(array)
        return array if array.ndim < 2 else BernoulliDropout(array, jnp.asarray(self.rate, jnp.float32))


def bernoulli_dropout(rate: Any) -> Any:
    """Dropout of whole rows, at training and at prediction alike: Monte Carlo dropout (Gal and Ghahramani 2016).

    Arrays of fewer than two axes (biases) stay point masses. The objective is the quasi-KL's, and bounds no evidence.

    Args:
        rate: the probability of dropping, in [0, 1). It may be traced, so that a grid of rates is one program.

    Returns:
        an initialiser: from an array to a `BernoulliDropout`.

    Raises:
        ValueError: the rate is outside [0, 1), or marked as learned.

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> family = bdl.families.bernoulli_dropout(rate=0.5)(jnp.ones((4, 2)))
        >>> sorted(set(family.sample(jax.random.key(0)).ravel().tolist()))
        [0.0, 2.0]
    """
    check_rate("bernoulli_dropout", rate)
    return _Initialiser(rate)
