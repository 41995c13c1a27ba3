"""The model: a prior over the weights of a network, and a likelihood of the data given its outputs."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from numpyro.distributions import Distribution

from bdl._keys import derive
from bdl._paths import stable_hash
from bdl._weights import Weights, weights_of
from bdl.likelihoods import _base as likelihoods
from bdl.likelihoods._base import Likelihood, as_likelihood, call
from bdl.networks._base import Network
from bdl.priors import Prior, as_prior


class Model(eqx.Module):
    """The joint p(y, w | x) = p(w) Πₙ p(yₙ | f(xₙ; w)).

    Attributes:
        network: without its params: the weights are the posterior's.
        likelihood: from the network's outputs to a numpyro distribution over targets.
        prior: over the network's params.
        weights: the structure, shapes and dtypes of the params, for what draws them from the prior; `None` where the
            network came without them.

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> network = bdl.network(lambda params, x: x @ params["w"], {"w": jnp.ones((3, 1))})
        >>> model = bdl.Model(network, bdl.likelihoods.Normal(scale=0.1), bdl.priors.normal())
        >>> x, y = jnp.ones((5, 3)), 3 * jnp.ones((5, 1))
        >>> round(float(model.log_joint(jax.random.key(0), network.params, (x, y))), 2)
        2.66
    """

    network: Network
    likelihood: Likelihood
    prior: Prior
    weights: Weights | None = eqx.field(static=True)

    def __init__(self, network: Network, likelihood: Any, prior: Any = None, *, weights: Weights | None = None):
        """Put a model together.

        Args:
            network: from `bdl.from_linen`, `bdl.from_nnx` or `bdl.network`.
            likelihood: one of `bdl.likelihoods`, or a function from the outputs to a numpyro distribution.
            prior: one of `bdl.priors`; a numpyro distribution, of every weight independently; a dict of them by path
                glob; a function `log_prob(params)`; `None` for `bdl.priors.fan_in()`.
            weights: those of the network's params, which need not be given.

        Raises:
            TypeError: one of the three is not of these kinds.
            ValueError: a glob of the prior matches no path of the network's params.
        """
        if not isinstance(network, Network):
            raise TypeError(
                f"expected a bdl network as the first argument, got {type(network).__name__}. Make one with "
                "bdl.from_linen(module, variables), bdl.from_nnx(module) or bdl.network(fn, params)."
            )
        self.network = dataclasses.replace(network, params=None)
        self.likelihood = as_likelihood(likelihood)
        self.prior = as_prior(prior, network.params)
        self.weights = weights if network.params is None else weights_of(network.params)

    def apply(self, params: Any, x: Any, *, key: Any = None, train: bool = False) -> tuple[Any, Any]:
        """The network's outputs and state for these weights, from the model's state. See `Network.apply`."""
        return self.network.apply(params, self.network.state, x, key=key, train=train)

    def with_state(self, state: Any) -> "Model":
        """The model whose network carries `state`, as `apply` returned it."""
        return dataclasses.replace(self, network=dataclasses.replace(self.network, state=state))

    def distribution(self, key: Any, outputs: Any) -> Distribution:
        """The numpyro distribution over targets, of the outputs in float32.

        Args:
            key: for likelihoods that integrate by Monte Carlo; `None` will do for the others.
            outputs: the network's, examples along axis 0.
        """
        return call(self.likelihood, jax.tree.map(_float32, outputs), key)

    def log_likelihood(self, key: Any, outputs: Any, y: Any, *, training: bool = False) -> jax.Array:
        """The log-likelihood log p(yₙ | outputsₙ) in nats, [N]: summed over all axes of an example, in float32.

        Args:
            key: as in `distribution`.
            outputs: the network's, examples along axis 0.
            y: the targets: an array, or what else the likelihood takes (a pair with a mask, say).
            training: whether to apply the weights of a likelihood that is trained with some (`class_weighted`, β-NLL).

        Raises:
            ValueError: the targets' shape is not that of the likelihood's distribution.
            TypeError: the distribution is over integers and the targets are not.
        """
        distribution = self.distribution(key, outputs)
        y = jax.tree.map(lambda a: _float32(jnp.asarray(a)), y)
        log_prob = likelihoods.log_prob(self.likelihood, distribution, y)
        if training:
            log_prob = log_prob * likelihoods.training_weight(self.likelihood, distribution, y)
        return log_prob.sum(axis=tuple(range(1, log_prob.ndim)))

    def log_prior(self, params: Any) -> jax.Array:
        """The prior's log p(w) in nats, a float32 scalar."""
        return self.prior.log_prob(params)

    def log_joint(self, key: Any, params: Any, data: tuple[Any, Any], *, num_data: float | None = None) -> jax.Array:
        """The joint log p(w) + (N / batch) Σₙ log p(yₙ | xₙ, w), in nats for the whole data set (higher is better).

        Args:
            key: for a stochastic network and for likelihoods that integrate by Monte Carlo.
            params: the weights.
            data: inputs and targets, (x, y).
            num_data: the size N of the data set; the batch's where `None`.
        """
        x, y = data
        network_key = derive(key, "network") if self.network.stochastic else None
        outputs, _ = self.apply(params, x, key=network_key)
        log_likelihood = self.log_likelihood(derive(key, "likelihood"), outputs, y)
        weight = 1.0 if num_data is None else num_data / len(log_likelihood)
        return self.log_prior(params) + weight * log_likelihood.sum()

    def check_targets(self, outputs: Any, y: Any) -> None:
        """Whether targets can be what the network's outputs describe. Outside a trace, with NumPy.

        Args:
            outputs: arrays or `jax.ShapeDtypeStruct`s of the outputs' shapes; only these are looked at.
            y: the targets.

        Raises:
            ValueError: the shape is wrong, or a target is NaN, infinite or outside the likelihood's support; the
                message names its row.
            TypeError: the distribution is over integers and the targets are not.

        Example:
            >>> import jax.numpy as jnp, numpy as np, bdl
            >>> network = bdl.network(lambda params, x: x @ params["w"], {"w": jnp.ones((3, 2))})
            >>> model = bdl.Model(network, bdl.likelihoods.Categorical())
            >>> model.check_targets(jnp.zeros((3, 2)), np.array([0, 1, 2]))
            Traceback (most recent call last):
            ...
            ValueError: the targets are 2 at row 2, outside of [0, 1], the values this likelihood can take.
        """
        # One example tells the support of all: a data set of images, times noise samples, would not fit into memory.
        rows = jax.tree.leaves(outputs)[0].shape[0]
        zeros = jax.tree.map(lambda o: jnp.zeros((1, *o.shape[1:]), o.dtype), outputs)
        distribution = self.distribution(jax.random.key(stable_hash("check_targets")), zeros)
        distribution._batch_shape = (rows, *distribution.batch_shape[1:])
        likelihoods.check_targets(self.likelihood, distribution, y)


def _float32(array: Any) -> jax.Array:
    return array.astype(jnp.float32) if jnp.issubdtype(array.dtype, jnp.floating) else array
