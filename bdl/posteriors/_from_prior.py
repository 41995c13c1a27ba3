"""Draws of the weights before any data."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from bdl._hyper import has_hypers, sample_hypers
from bdl._keys import derive
from bdl._paths import map_named
from bdl._weights import Weights
from bdl.networks._use import Use


class FromPrior(eqx.Module):
    """A posterior that is the prior. Made by `from_prior`."""

    prior: Any
    weights: Weights = eqx.field(static=True)

    def sample(self, key: jax.Array) -> Any:
        """One draw of the weights from the prior. The array at a path has a key of its own.

        Raises:
            ValueError: the prior of an array is flat, improper or without draws, or does not know the network yet.
        """
        prior = sample_hypers(derive(key, "hyper"), self.prior)
        return map_named(lambda path, array: _draw(derive(key, path), path, prior, array), self.weights.zeros())

    def log_prob(self, params: Any) -> jax.Array:
        """The prior's log p(w), in nats."""
        return self.prior.log_prob(params)

    @property
    def bound(self) -> bool:
        """Whether the prior knows how the network uses its weights."""
        return getattr(self.prior, "bound", True)

    def bind(self, uses: dict[str, Use]) -> "FromPrior":
        """The same of a prior that knows how the network uses its weights."""
        return FromPrior(self.prior.bind(uses) if hasattr(self.prior, "bind") else self.prior, self.weights)


def from_prior(model: Any) -> FromPrior:
    """The posterior without data: its draws of the weights come from the model's prior.

    Whatever takes a posterior takes it: `bdl.predict` gives prior predictive moments (as `bdl.prior_predictive` does),
    `bdl.function_draw` a function of the prior to look at.

    Args:
        model: whose prior has a distribution for each weight array.

    Raises:
        ValueError: the prior is a function, which cannot be drawn from; the likelihood has a hyper-prior; or the model
            was made from a network without its params.

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.ones((3, 1))})
        >>> model = bdl.Model(network, bdl.likelihoods.Normal(scale=0.1), bdl.priors.normal(scale=2.0))
        >>> bdl.posteriors.from_prior(model).sample(jax.random.key(0))["w"].shape
        (3, 1)
    """
    if not hasattr(model.prior, "distribution"):
        raise ValueError(
            f"from_prior: {type(model.prior).__name__} has a log_prob, but no `distribution` to draw from. Give the "
            "model a numpyro distribution, one of bdl.priors, or a subclass of bdl.priors.FactorisedPrior."
        )
    if model.weights is None:
        raise ValueError(
            "from_prior: the model does not know the shapes of its weights, for it was made from another model's "
            "network, which has none. Give bdl.Model the network that bdl.from_linen, bdl.from_nnx or bdl.network made."
        )
    if has_hypers(model.likelihood):
        raise ValueError(
            "from_prior: the likelihood has a number under a hyper-prior, of which predictions draw the posterior. "
            "Give the likelihood a plain number to look at draws of the prior."
        )
    return FromPrior(model.prior, model.weights)


def _draw(key: jax.Array, path: str, prior: Any, array: jax.Array) -> jax.Array:
    distribution = prior.distribution(path, array)
    if distribution is None:
        raise ValueError(_refusal(path, "flat"))
    if getattr(distribution, "improper", False):
        raise ValueError(_refusal(path, "improper"))
    try:
        sample = distribution.expand(array.shape).sample(key)
    except NotImplementedError as error:
        raise ValueError(_refusal(path, f"a {type(distribution).__name__} without `sample`")) from error
    return jnp.asarray(sample, jnp.float32).astype(array.dtype)


def _refusal(path: str, what: str) -> str:
    return (
        f"from_prior: the prior of {path!r} is {what}, and has no draws. Give that path a proper distribution, such "
        "as bdl.priors.fan_in()."
    )
