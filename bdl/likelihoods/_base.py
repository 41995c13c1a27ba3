"""What a likelihood is, what is taken for one, and the log-probability it gives to targets."""

import inspect
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
from numpyro.distributions import Distribution

from bdl.likelihoods import _targets


@runtime_checkable
class Likelihood(Protocol):
    """From a network's outputs to a numpyro distribution over targets: an `equinox.Module` that is called.

    That is all most need. Where the log-likelihood of a target is not the distribution's `log_prob` of it, a likelihood
    may have one or more of these members; `bdl.Model` looks for them, and nothing else does:

    * `log_prob(distribution, y)`: the log-probabilities of the elements of the targets, in nats, of the shape
      `distribution.batch_shape`; so that targets may be more than one array (a mask, a flag of censoring).
    * `check_targets(distribution, y)`: raises where targets are not what `log_prob` takes; outside of a trace.
    * `is_reweighted` and `training_weight(distribution, y)`: whether training multiplies the log-probabilities by
      weights, and these. Then what is trained is no bound of the evidence, and `ElboTerms.is_bound` says so;
      `bdl.log_predictive` scores by `log_prob`, without them.
    """

    def __call__(self, outputs: Any, *, key: Any = None) -> Distribution:
        """The distribution of the targets given the outputs.

        Args:
            outputs: the network's, in float32, examples along axis 0.
            key: only for likelihoods that integrate by Monte Carlo; the others may leave the argument out.

        Returns:
            A distribution whose batch axis 0 is the examples.
        """
        ...


class FunctionLikelihood(eqx.Module):
    """A likelihood given as a function `outputs -> distribution`, or `(outputs, *, key)`."""

    function: Callable[..., Distribution] = eqx.field(static=True)

    def __call__(self, outputs: Any, *, key: Any = None) -> Distribution:
        """The function's distribution of the targets."""
        return call(self.function, outputs, key)


def as_likelihood(spec: Any) -> Likelihood:
    """`spec` if it is an `equinox.Module`, otherwise the function `spec` as a likelihood.

    Raises:
        TypeError: it cannot be called with a network's outputs.

    Example:
        >>> import numpyro.distributions as dist, jax.numpy as jnp, bdl
        >>> poisson = bdl.likelihoods.as_likelihood(lambda outputs: dist.Poisson(jnp.exp(outputs)))
        >>> poisson(jnp.zeros(4)).mean
        Array([1., 1., 1., 1.], dtype=float32)
    """
    if isinstance(spec, type) or not callable(spec):
        raise TypeError(
            "expected a likelihood: a callable from the network's outputs to a numpyro distribution over targets, got "
            f"{spec!r}. Pass `bdl.likelihoods.Normal()`, or a function of the outputs."
        )
    if isinstance(spec, eqx.Module) and isinstance(spec, Likelihood):
        return spec
    return FunctionLikelihood(spec)


def call(likelihood: Callable[..., Distribution], outputs: Any, key: Any) -> Distribution:
    """The distribution over targets, whether or not the likelihood takes a key."""
    takes_key = "key" in inspect.signature(likelihood).parameters
    return likelihood(outputs, key=key) if takes_key else likelihood(outputs)


def log_prob(likelihood: Any, distribution: Distribution, y: Any) -> jax.Array:
    """The log-probabilities of the targets' elements in nats: the likelihood's own, else the distribution's.

    Raises:
        ValueError: the targets' shape is not that of the distribution.
        TypeError: the distribution is over integers and the targets are not.
    """
    if hasattr(likelihood, "log_prob"):
        return likelihood.log_prob(distribution, y)
    _targets.check_shape(distribution, y)
    return distribution.log_prob(y)


def is_reweighted(likelihood: Any) -> bool:
    """Whether training multiplies the log-probabilities by weights."""
    return bool(getattr(likelihood, "is_reweighted", False))


def training_weight(likelihood: Any, distribution: Distribution, y: Any) -> Any:
    """The weights of the targets' elements in training, 1 where the likelihood has none."""
    return likelihood.training_weight(distribution, y) if is_reweighted(likelihood) else 1.0


def check_targets(likelihood: Any, distribution: Distribution, y: Any) -> None:
    """Whether the targets can be what the distribution describes, with NumPy.

    Raises:
        ValueError, TypeError: they cannot; the message names the row.
    """
    if hasattr(likelihood, "check_targets"):
        likelihood.check_targets(distribution, y)
    else:
        _targets.check(distribution, y)
