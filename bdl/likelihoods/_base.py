"""What a likelihood is, and what is taken for one."""

import inspect
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
from numpyro.distributions import Distribution


@runtime_checkable
class Likelihood(Protocol):
    """From a network's outputs to a numpyro distribution over targets: an `equinox.Module` that is called."""

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
