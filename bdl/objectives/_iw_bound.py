"""The importance-weighted bound."""

import math
from typing import Any

import jax

from bdl.model import Model
from bdl.objectives._base import Draws, ElboTerms


def iw_bound(
    key: Any,
    posterior: Any,
    model: Model,
    data: tuple[Any, Any],
    *,
    num_data: Any,
    num_samples: int = 10,
    noise: str = "shared",
    kl_weight: Any = 1.0,
    train: bool = False,
) -> ElboTerms:
    """A bound of the log evidence that K draws tighten:

        E[ log (1/K) Σₖ p(y | x, wₖ) p(wₖ) / q(wₖ) ],   wₖ ~ q.

    K = 1 is the ELBO; with K it grows to the log evidence. It holds for all data at once: with a factor N / batch
    inside the logarithm of a mean it would be no bound, and with an own draw for each example it would be another one.

    Args:
        key, posterior, model, train: as in `bdl.elbo`; every array needs a family with a density.
        data: all of the data, (x, y).
        num_data: N, the number of rows of `data`.
        num_samples: K.
        noise: `"shared"`.
        kl_weight: 1.

    Returns:
        `ElboTerms`; `log_likelihood` and `kl` are means over the draws, and do not add up to the bound.

    Raises:
        ValueError: the data are a batch, noise is local, kl_weight is not 1, or an array has no density or no proper
            prior.

    Reference:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders, https://arxiv.org/abs/1509.00519

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.ones((3, 1))})
        >>> posterior = bdl.variational(network.params, bdl.families.normal(scale=0.1))
        >>> model, data = bdl.Model(network, bdl.likelihoods.Normal(scale=1.0)), (jnp.ones((5, 3)), jnp.ones((5, 1)))
        >>> key = jax.random.key(0)
        >>> tighter = bdl.objectives.iw_bound(key, posterior, model, data, num_data=5, num_samples=1_000).elbo
        >>> bool(tighter > bdl.elbo(key, posterior, model, data, num_data=5, num_samples=1_000).elbo)
        True
    """
    batch = jax.tree.leaves(data[1])[0].shape[0]
    if not isinstance(num_data, int | float) or num_data != batch:
        raise ValueError(
            f"iw_bound: expected all of the data at once, got a batch of {batch} and num_data={num_data}: N / batch "
            "inside a log-mean-exp is no bound. Pass every row (batch_size=N in bdl.fit), or use bdl.elbo or "
            "bdl.objectives.alpha, which are sums over examples."
        )
    if noise != "shared":
        raise ValueError('iw_bound: a weight belongs to one draw for all examples. Pass noise="shared".')
    if not (isinstance(kl_weight, int | float) and kl_weight == 1):
        raise ValueError("iw_bound: a weighted KL bounds nothing. Pass kl_weight=1, or use bdl.elbo.")
    draws = Draws(
        "iw_bound", key, posterior, model, data,
        num_data=num_data, num_samples=num_samples, noise=noise, train=train, from_draws=True,
    )  # fmt: skip
    densities = all(hasattr(leaf, "log_prob") for leaf in getattr(draws.posterior, "leaves", {}).values())
    if not (densities and draws.is_bound):
        raise ValueError(
            "iw_bound: importance weights need a density q(w) and a proper prior for every array, and a likelihood "
            "that is not reweighted. Point masses, dropout, flat and log-uniform priors have no density: use families "
            "such as bdl.families.normal()."
        )
    log_likelihood, divergence, state = draws.map(lambda terms: terms.sum())
    value = jax.nn.logsumexp(log_likelihood - divergence) - math.log(num_samples)
    return ElboTerms(value, log_likelihood.mean(), divergence.mean(), state, True, draws.monte_carlo)
