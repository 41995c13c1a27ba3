"""The scale-free prior p(w) ∝ 1 / |w|, under which weights may vanish."""

from typing import Any, NoReturn

import jax
import jax.numpy as jnp
from numpyro.distributions import Distribution, Normal, constraints
from numpyro.distributions.kl import kl_divergence

from bdl.priors._iid import IID, iid

_K1, _K2, _K3 = 0.63576, 1.87320, 1.48695  # Molchanov et al. (2017), equation 14


class LogUniform(Distribution):
    """log p(w) = −log |w| over the real numbers: log |w| is uniform. Improper, so without draws. See `log_uniform`."""

    improper = True
    arg_constraints: dict[str, Any] = {}  # noqa: RUF012, numpyro's own name
    support = constraints.real

    def __init__(self, *, validate_args: bool | None = None):
        super().__init__(batch_shape=(), event_shape=(), validate_args=validate_args)

    def log_prob(self, value: Any) -> jax.Array:
        """−log |w|: the log-density up to a constant, which an improper prior does not have."""
        return -jnp.log(jnp.abs(value))

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> NoReturn:
        """There are no draws.

        Raises:
            NotImplementedError: always.
        """
        del key, sample_shape
        raise NotImplementedError(
            "LogUniform: p(w) ∝ 1 / |w| does not integrate to one, so it has no draws. For what needs draws of the "
            "prior take a proper one, such as priors.normal() or dist.StudentT(df=2.0)."
        )


def log_uniform() -> IID:
    """Every weight independently from p(w) ∝ 1 / |w|: the prior of sparse variational dropout.

    No scale of a weight is preferred to another, so that a weight that the data do not need shrinks to zero under its
    own noise. The prior is improper: the objective bounds no evidence (`ElboTerms.is_bound`), and must not rank models.

    Against a Normal(m, σ²) the KL depends on alpha = σ² / m² alone, and is approximated by

        KL ≈ k₁ sigmoid(−(k₂ + k₃ log alpha)) + ½ log(1 + 1 / alpha),   k = (0.63576, 1.8732, 1.48695),

    to 0.01 nats per weight, its derivative in log alpha to 0.014. An improper prior leaves a constant free: here KL ≥ 0
    and KL → 0 as alpha → ∞, so that it is the excess of E[log q(w) + log |w|] over the least value that this can have,
    −½ (log 2πe + γ + log 2) = −2.054 nats per weight.

    The density is infinite at w = 0, and weights without a density of their own (point masses, dropout) run off to it.
    So give this prior by path to the weights that have a family such as `families.sparse_dropout`, and none to biases.

    Reference:
        Molchanov, Ashukha and Vetrov (2017), Variational dropout sparsifies deep neural networks,
        https://arxiv.org/abs/1701.05369; Hron, Matthews and Ghahramani (2018), Variational Bayesian dropout: pitfalls
        and fixes, https://arxiv.org/abs/1807.01969, on what an improper prior costs.

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
        >>> posterior = bdl.variational(params, bdl.families.sparse_dropout(scale=1.0))
        >>> prior = bdl.priors.as_prior({"kernel": bdl.priors.log_uniform()}, params)
        >>> round(float(bdl.kl(jax.random.key(0), posterior, prior)) / 6, 3)  # alpha is 1
        0.431
    """
    return iid(LogUniform)


def _kl_normal_log_uniform(q: Normal, p: LogUniform) -> jax.Array:
    del p
    inverse = (q.loc / q.scale) ** 2  # 1 / alpha: finite at m = 0, where log alpha is not
    # The floor stands for log alpha = 69, where all is flat; without it the gradient at m = 0 would be 0 · ∞.
    minus_log_alpha = jnp.log(inverse + 1e-30)
    return _K1 * jax.nn.sigmoid(_K3 * minus_log_alpha - _K2) + 0.5 * jnp.log1p(inverse)


kl_divergence.register(Normal, LogUniform)(_kl_normal_log_uniform)
