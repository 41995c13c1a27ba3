"""The evidence lower bound."""

from typing import Any

from bdl.model import Model
from bdl.objectives._base import Draws, ElboTerms


def elbo(
    key: Any,
    posterior: Any,
    model: Model,
    data: tuple[Any, Any],
    *,
    num_data: Any,
    num_samples: int = 1,
    noise: str = "local",
    kl_weight: Any = 1.0,
    sticking_the_landing: bool = False,
    train: bool = False,
) -> ElboTerms:
    """An unbiased estimate of the evidence lower bound of the whole data set from a batch:

        (N / batch) Σₙ E_q[log p(yₙ | xₙ, w)] − kl_weight · KL(q || p).

    Args:
        key: one random key.
        posterior: q; from `bdl.variational`, or anything with `sample` for `noise="shared"`.
        model: prior, network and likelihood.
        data: a batch (x, y), examples along axis 0.
        num_data: N, the size of the data set.
        num_samples: draws of the weights, averaged.
        noise: `"local"`, a draw of the weights for each example (less variance), or `"shared"`, one for the batch.
        kl_weight: a factor on the KL; below 1 it tempers the posterior, and the result bounds nothing.
        sticking_the_landing: estimate the KL from the draws that the likelihood saw, and take no gradient through the
            parameters of log q(w): the gradient's variance is then zero where q is the exact posterior. It needs
            `noise="shared"`.
        train: whether batch normalisation uses and updates the batch's statistics.

    Raises:
        ValueError: `noise` is neither, or local for a posterior without families, or local with
            `sticking_the_landing`; num_data or num_samples below one.

    Reference:
        Graves (2011), Practical variational inference for neural networks; Kingma, Salimans and Welling (2015),
        Variational dropout and the local reparameterization trick, https://arxiv.org/abs/1506.02557; Roeder, Wu and
        Duvenaud (2017), Sticking the landing, https://arxiv.org/abs/1703.09194

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.ones((3, 1))})
        >>> posterior = bdl.variational(network.params, bdl.families.normal(scale=0.1))
        >>> model = bdl.Model(network, bdl.likelihoods.Normal(scale=1.0))
        >>> terms = bdl.elbo(jax.random.key(0), posterior, model, (jnp.ones((5, 3)), jnp.ones((5, 1))), num_data=50)
        >>> terms.elbo.shape, terms.is_bound, terms.monte_carlo
        ((), True, ())
    """
    if sticking_the_landing and noise != "shared":
        raise ValueError(
            "elbo: sticking_the_landing holds the densities at the draws that the likelihood saw, and local noise has "
            'none of the whole network. Pass noise="shared".'
        )
    draws = Draws(
        "elbo", key, posterior, model, data,
        num_data=num_data, num_samples=num_samples, noise=noise, train=train,
        from_draws=sticking_the_landing, fixed_density=sticking_the_landing,
    )  # fmt: skip
    log_likelihoods, divergences, state = draws.map(lambda terms: num_data / terms.shape[0] * terms.sum())
    log_likelihood, divergence = log_likelihoods.mean(), divergences.mean()
    bound = isinstance(kl_weight, int | float) and kl_weight == 1 and draws.is_bound
    return ElboTerms(
        log_likelihood - kl_weight * divergence, log_likelihood, divergence, state, bound, draws.monte_carlo
    )
