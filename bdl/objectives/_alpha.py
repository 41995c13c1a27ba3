"""The black-box α-energy."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from bdl.model import Model
from bdl.objectives._base import Draws, ElboTerms


def alpha(
    key: Any,
    posterior: Any,
    model: Model,
    data: tuple[Any, Any],
    *,
    num_data: Any,
    alpha: float = 0.5,
    num_samples: int = 10,
    noise: str = "local",
    kl_weight: Any = 1.0,
    train: bool = False,
) -> ElboTerms:
    """The negative black-box α-energy, with the expectation inside of each example's term:

        (N / batch) Σₙ (1/α) log (1/K) Σₖ p(yₙ | xₙ, wₖ)^α − kl_weight · KL(q || p).

    α near 0 is the ELBO, α = 1 fits the predictive density of each example; in between, the posterior covers more of
    the mass than the ELBO's. It is a sum over examples, so that it can be taken on batches. It bounds no evidence, and
    its estimate is biased, by O(1/K).

    Args:
        key, posterior, model, data, num_data, noise, kl_weight, train: as in `bdl.elbo`.
        alpha: α, not 0.
        num_samples: K, draws of the weights.

    Returns:
        `ElboTerms`, its `log_likelihood` the first term.

    Raises:
        ValueError: α is 0 or not finite, or as in `bdl.elbo`.

    Reference:
        Li and Gal (2017), Dropout inference in Bayesian neural networks with alpha-divergences,
        https://arxiv.org/abs/1703.02914

    Example:
        >>> import functools, optax, bdl
        >>> objective = functools.partial(bdl.objectives.alpha, alpha=0.5)
        >>> algorithm = bdl.inference.vi(optax.adam(1e-3), num_samples=10, objective=objective)
    """
    if not (math.isfinite(alpha) and alpha != 0):
        raise ValueError(f"alpha: expected a finite alpha other than 0, got {alpha}. Near 0 it is bdl.elbo: use that.")
    draws = Draws(
        "alpha", key, posterior, model, data,
        num_data=num_data, num_samples=num_samples, noise=noise, train=train,
    )  # fmt: skip
    terms, divergences, state = draws.map(lambda terms: terms)
    energies = (jax.nn.logsumexp(alpha * terms, 0) - math.log(num_samples)) / alpha
    log_likelihood = num_data / energies.shape[0] * energies.sum()
    divergence = jnp.mean(divergences)
    return ElboTerms(
        log_likelihood - kl_weight * divergence, log_likelihood, divergence, state, False, draws.monte_carlo
    )
