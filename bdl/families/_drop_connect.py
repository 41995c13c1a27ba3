"""Dropout of single weights."""

import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from bdl._learned import fixed_field
from bdl.families._checks import check_rate
from bdl.families._local import reparameterised
from bdl.families._quasi_kl import quasi_kl, rate_entropy
from bdl.families._rows import hard_factors
from bdl.networks._use import Use


class DropConnect(eqx.Module):
    """Every weight is dropped by itself. Made by `drop_connect`.

    q(w) = (1 − rate) δ(m / (1 − rate)) + rate δ(0), so that E[w] = m, the kernel.

    Local noise has the right mean and variance, but is Normal: for y = x W,

        y ~ Normal(x m, x² m² rate / (1 − rate)),

    an approximation in distribution, good where many weights meet in an output (Wan et al. 2013 predict with it).
    Where a weight enters an example several times, it approximates as that of `NormalFamily` does.

    Attributes:
        kernel: m.
        rate: the probability of dropping; fixed, not learned.
    """

    kernel: jax.Array
    rate: jax.Array = fixed_field()
    use: Use | None = eqx.field(static=True, default=None)
    local_rule: ClassVar[str] = "moment matching"

    @property
    def mean(self) -> jax.Array:
        return self.kernel

    def sample(self, key: jax.Array) -> jax.Array:
        return self._draws(key, self.kernel.shape)

    def sample_each(self, key: jax.Array, examples: int) -> jax.Array:
        """`examples` draws along a new axis 0, from one key."""
        return self._draws(key, (examples, *self.kernel.shape))

    def _draws(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return self.kernel * hard_factors(key, self.rate, shape).astype(self.kernel.dtype)

    def bind(self, use: Use) -> "DropConnect":
        return dataclasses.replace(self, use=use)

    def local(self, key: jax.Array, x: jax.Array, linear: Any) -> jax.Array:
        mean = linear(x, self.kernel)
        variance = self.kernel.astype(jnp.float32) ** 2 * (self.rate / (1 - self.rate))
        return mean + reparameterised(key, x, linear, variance).astype(mean.dtype)

    def kl(self, prior: Any) -> jax.Array:
        """The quasi-KL to a prior that factorises over the weights (Hron, Matthews and Ghahramani 2018), in nats:

            Σ_weights [ −(1 − rate) log p(m / (1 − rate)) − rate log p(0) − H(rate) ].

        Args:
            prior: a numpyro distribution over the entries with 0 < p(0) < ∞.
        """
        return quasi_kl(prior, self.kernel, 1 - self.rate, self.rate, self.entropy())

    def entropy(self) -> jax.Array:
        """The entropy of the masks, Σ_weights H(rate), in nats."""
        return self.kernel.size * rate_entropy(self.rate)


@dataclasses.dataclass(frozen=True)
class _Initialiser:
    rate: Any

    def __call__(self, array: Any) -> Any:
        array = jnp.asarray(array)
        return array if array.ndim < 2 else DropConnect(array, jnp.asarray(self.rate, jnp.float32))


def drop_connect(rate: Any) -> Any:
    """Dropout of single weights, at training and at prediction alike (Wan et al. 2013).

    Arrays of fewer than two axes (biases) stay point masses. The objective is the quasi-KL's, and bounds no evidence.

    Args:
        rate: the probability of dropping, in [0, 1). It may be traced, so that a grid of rates is one program.

    Returns:
        an initialiser: from an array to a `DropConnect`.

    Raises:
        ValueError: the rate is outside [0, 1), or marked as learned.

    Reference:
        Wan et al. (2013), Regularization of neural networks using DropConnect,
        https://proceedings.mlr.press/v28/wan13.html

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> family = bdl.families.drop_connect(rate=0.5)(jnp.ones((4, 2)))
        >>> sorted(set(family.sample(jax.random.key(0)).ravel().tolist()))
        [0.0, 2.0]
    """
    check_rate("drop_connect", rate)
    return _Initialiser(rate)
