"""Sparse variational dropout: a noise level of its own for every weight."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from bdl.families._checks import check_positive
from bdl.families._normal import NormalFamily


class SparseDropout(NormalFamily):
    """q(w) = Π Normal(wᵢ; mᵢ, alphaᵢ mᵢ²): Gaussian dropout with a rate for every weight. Made by `sparse_dropout`.

    It is the `NormalFamily` under another reading of its scale, with all that it can do: draws, local
    reparameterisation, closed-form KLs.

    Attributes:
        loc: the mean m.
        log_scale: log σ, of σ² = alpha m². It is learned itself, and not log alpha ("additive noise"): so the gradient
            of m has no noise that grows with alpha.
    """

    @property
    def log_alpha(self) -> jax.Array:
        """The logarithm of alpha, log σ² − log m², float32; ∞ where m is 0."""
        return 2 * (self.log_scale - jnp.log(jnp.abs(self.loc.astype(jnp.float32))))

    @property
    def rate(self) -> jax.Array:
        """The rate alpha / (1 + alpha) of the binary dropout whose noise has the same variance."""
        return jax.nn.sigmoid(self.log_alpha)


@dataclasses.dataclass(frozen=True)
class _Initialiser:
    scale: Any

    def __call__(self, array: Any) -> Any:
        loc = jnp.asarray(array)
        if loc.ndim < 2:
            return loc
        log_scale = jnp.broadcast_to(jnp.log(jnp.asarray(self.scale, jnp.float32)), loc.shape)
        return SparseDropout(loc=loc, log_scale=log_scale)


def sparse_dropout(scale: Any = 0.01) -> Any:
    """Sparse variational dropout around the network's weights (Molchanov, Ashukha and Vetrov 2017).

    Its prior is `priors.log_uniform()`, under which the weights that the data do not need drown in their own noise
    (alpha → ∞); `bdl.prune` then sets those with log alpha > 3 to zero. Arrays of fewer than two axes (biases) stay
    point masses, and must have another prior, or none:

        model = bdl.Model(network, likelihood, {"*/kernel": bdl.priors.log_uniform()})

    Start the KL's weight at 0, or most weights are gone before they have learned anything:
    `bdl.inference.vi(optimizer, kl_weight=optax.linear_schedule(0.0, 1.0, steps))`.

    Args:
        scale: the initial standard deviation of every weight; positive, and small beside the weights.

    Returns:
        an initialiser: from an array to a `SparseDropout`, or to itself where it has fewer than two axes.

    Raises:
        ValueError: `scale` is not positive and finite.

    Reference:
        Molchanov, Ashukha and Vetrov (2017), Variational dropout sparsifies deep neural networks,
        https://arxiv.org/abs/1701.05369

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> family = bdl.families.sparse_dropout(scale=0.1)(jnp.full((3, 2), 0.1))
        >>> round(float(family.log_alpha[0, 0]), 3), round(float(family.rate[0, 0]), 3)
        (0.0, 0.5)
    """
    advice = "Take one that is small beside the weights, such as 0.01."
    check_positive("sparse_dropout", "scale (a standard deviation)", scale, advice)
    return _Initialiser(scale)
