"""The likelihood of a network that draws latent variables: what makes a variational autoencoder's bound of an ELBO."""

import copy
from typing import Any

import jax
from numpyro import distributions as dist

from bdl.likelihoods._base import as_likelihood, is_reweighted
from bdl.likelihoods._wrapped import Wrapped


class Latent(Wrapped):
    """A likelihood that also counts the latents' weight. See `latent`."""

    def __call__(self, outputs: Any, *, key: Any = None) -> dist.Distribution:
        """The distribution of the targets given the latents, with the latents' `log_weight` [N] beside it.

        Raises:
            TypeError: the outputs are not `bdl.networks.LatentOutputs`.
        """
        if not (hasattr(outputs, "outputs") and hasattr(outputs, "log_weight")):
            raise TypeError(
                f"latent: expected the network to return bdl.networks.LatentOutputs, got {type(outputs).__name__}. Use "
                "bdl.networks.vae, or return LatentOutputs(outputs, log_weight) from your own network."
            )
        # A copy: the distribution may be one that the user keeps.
        distribution = copy.copy(super().__call__(outputs.outputs, key=key))
        distribution.log_weight = outputs.log_weight
        return distribution

    def log_prob(self, distribution: dist.Distribution, y: Any) -> jax.Array:
        """The terms log p(yₙ | zₙ) + log p(zₙ) − log q(zₙ | xₙ) in nats, [N]."""
        log_prob = super().log_prob(distribution, y)
        return log_prob.sum(axis=tuple(range(1, log_prob.ndim))) + distribution.log_weight


def latent(likelihood: Any) -> Latent:
    """The likelihood p(y | z) of a network that draws latents z, such as `bdl.networks.vae`, for its evidence bound.

    The log-likelihood of an example is log p(y | z) + log p(z) − log q(z | x), for the z that the network drew. Its
    expectation is the evidence lower bound, so that `bdl.elbo` and `bdl.fit` are those of the autoencoder (in nats, for
    the whole data set, maximised); and `bdl.log_predictive` over S draws is the importance-weighted bound, which rises
    with S to log p(y). It is unbiased and, unlike a KL in closed form, has no variance where q is the exact posterior.

    In `bdl.predict` the draws are of z too, so that epistemic holds what x leaves open about z.

    Args:
        likelihood: of the targets given the decoder's outputs, as for `bdl.Model`.

    Raises:
        TypeError: it is no likelihood.
        ValueError: training multiplies its terms by weights, so that they bound nothing.

    Reference:
        Kingma and Welling (2014), Auto-encoding variational Bayes, https://arxiv.org/abs/1312.6114; Burda, Grosse and
        Salakhutdinov (2016), Importance weighted autoencoders, https://arxiv.org/abs/1509.00519

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> x = jax.random.normal(jax.random.key(0), (5, 3))
        >>> network = bdl.networks.vae(jax.random.key(1), x, 2, widths=())
        >>> model = bdl.Model(network, bdl.latent(bdl.likelihoods.Normal(scale=bdl.learned(0.5))))
        >>> weights = bdl.variational(network.params, {})
        >>> bdl.log_predictive(jax.random.key(2), weights, model, (x, x), num_samples=100).shape
        (5,)
    """
    likelihood = as_likelihood(likelihood)
    if is_reweighted(likelihood):
        raise ValueError("latent: a reweighted likelihood gives no bound of the evidence. Pass it without its weights.")
    return Latent(likelihood)
