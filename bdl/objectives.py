"""Objectives: the only home of signs, and of N / batch."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from bdl import noise as noise_
from bdl._bind import bind
from bdl._keys import derive
from bdl.kl import is_bound, kl
from bdl.model import Model


class ElboTerms(eqx.Module):
    """The evidence lower bound and its terms, in nats for the whole data set.

    Attributes:
        elbo: log_likelihood − kl_weight · kl (higher is better).
        log_likelihood: (N / batch) Σ log p(y | x, w), the mean over draws of w.
        kl: KL(q || p), not weighted.
        state: the network's state after the pass.
        is_bound: whether elbo bounds the evidence: every array has a density, the prior is proper, kl_weight is 1.
    """

    elbo: jax.Array
    log_likelihood: jax.Array
    kl: jax.Array
    state: Any
    is_bound: bool = eqx.field(static=True)


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
        train: whether batch normalisation uses and updates the batch's statistics.

    Raises:
        ValueError: `noise` is neither, or local for a posterior without families; num_data or num_samples below one.

    Reference:
        Graves (2011), Practical variational inference for neural networks; Kingma, Salimans and Welling (2015),
        Variational dropout and the local reparameterization trick, https://arxiv.org/abs/1506.02557

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.ones((3, 1))})
        >>> posterior = bdl.variational(network.params, bdl.families.normal(scale=0.1))
        >>> model = bdl.Model(network, bdl.likelihoods.Normal(scale=1.0))
        >>> terms = bdl.elbo(jax.random.key(0), posterior, model, (jnp.ones((5, 3)), jnp.ones((5, 1))), num_data=50)
        >>> terms.elbo.shape, terms.is_bound
        ((), True)
    """
    x, y = data
    if isinstance(num_data, int | float) and not num_data >= 1:
        raise ValueError(f"elbo: expected num_data, the size of the data set, of at least 1; got {num_data}.")
    if num_samples < 1:
        raise ValueError(f"elbo: expected num_samples of at least 1, got {num_samples}.")
    posterior, model = bind(posterior, model, x)
    key = derive(key, "elbo")

    def one(index: Any) -> tuple[jax.Array, Any]:
        draw = derive(key, "draw", index)
        outputs, state = draw_outputs(draw, posterior, model, x, noise=noise, train=train)
        log_likelihood = model.log_likelihood(derive(draw, "likelihood"), outputs, y)
        return num_data / log_likelihood.shape[0] * log_likelihood.sum(), state

    if num_samples == 1:
        log_likelihood, state = one(0)
    else:
        log_likelihood, state = jax.tree.map(lambda a: a.mean(0), jax.lax.map(one, jnp.arange(num_samples)))
    divergence = kl(key, posterior, model.prior, num_samples=num_samples)
    bound = isinstance(kl_weight, int | float) and kl_weight == 1 and is_bound(posterior, model.prior)
    return ElboTerms(log_likelihood - kl_weight * divergence, log_likelihood, divergence, state, bound)


def draw_outputs(key: Any, posterior: Any, model: Model, x: Any, *, noise: str, train: bool = False) -> tuple[Any, Any]:
    """The network's outputs and state for one draw of the weights, or for one per example."""
    network_key = derive(key, "network") if model.network.stochastic else None
    if noise == "shared":
        return model.apply(posterior.sample(key), x, key=network_key, train=train)
    if noise != "local":
        raise ValueError(f'expected noise="local" or noise="shared", got {noise!r}.')
    if not hasattr(posterior, "tree"):
        raise ValueError(
            f"local noise needs a posterior with a family for each array, and {type(posterior).__name__} has none. "
            'Pass noise="shared".'
        )

    def apply(params: Any, x: Any, state: Any, network_key: Any) -> tuple[Any, Any]:
        return model.network.apply(params, state, x, key=network_key, train=train)

    if not posterior.families:
        return apply(posterior.tree, x, model.network.state, network_key)
    return noise_.local(key, apply, posterior.tree, x, model.network.state, network_key)
