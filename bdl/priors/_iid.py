"""Every weight of a network, or of an array, independently from one distribution."""

from typing import Any

from numpyro.distributions import Distribution, Normal, constraints

from bdl.priors._base import FactorisedPrior, broadcasts
from bdl.priors._stored import Stored, store


class IID(FactorisedPrior):
    """Every weight independently from one distribution. See `iid`."""

    stored: Stored

    def distribution(self, path: str, array: Any) -> Distribution:
        """The distribution, rebuilt from its arguments.

        Raises:
            ValueError: its batch shape does not broadcast to the array's.
        """
        rebuilt = self.stored.rebuild()
        shape, batch = tuple(array.shape), rebuilt.batch_shape
        if not broadcasts(batch, shape):
            raise ValueError(
                f"the prior of {path!r} has batch shape {batch}, which does not broadcast to the array's {shape}. "
                "Give it scalar arguments, or arguments of the array's shape under a glob of its own."
            )
        return rebuilt


def iid(distribution: Distribution | type[Distribution], **arguments: Any) -> IID:
    """Every weight independently from `distribution`: log p(w) = Σᵢ log p(wᵢ).

    Args:
        distribution: a numpyro distribution over one real number, or its class.
        **arguments: the class's arguments by name; numbers are traced and fixed, `bdl.learned(...)` ones are learned.

    Raises:
        ValueError: the distribution is over vectors, or over less than all real numbers.
        TypeError: an argument of the distribution's constructor cannot be read back from it.

    Example:
        >>> import jax.numpy as jnp, numpyro.distributions as dist, bdl
        >>> prior = bdl.priors.iid(dist.StudentT, df=4.0, loc=0.0, scale=bdl.learned(0.5))
        >>> round(float(prior.log_prob({"w": jnp.zeros((2, 2))})), 3)
        -1.151
    """
    is_class = isinstance(distribution, type)
    if arguments and not is_class:
        raise TypeError("arguments go with a class of distributions, but a distribution was given. Pass one or other.")
    if is_class:
        stored = Stored(distribution, arguments)
        _check(stored.rebuild())
    else:
        _check(distribution)
        stored = store(distribution)
    return IID(stored)


def normal(loc: Any = 0.0, scale: Any = 1.0) -> IID:
    """Every weight independently from Normal(loc, scale²).

    A wide network under Normal(0, 1) has huge outputs, and mean field collapses to it; `fan_in` does not.

    Args:
        loc: the mean.
        scale: the standard deviation. Either may be `bdl.learned(...)`.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> prior = bdl.priors.normal(scale=bdl.learned(0.5))
        >>> round(float(prior.log_prob({"w": jnp.zeros(3)})), 3)
        -0.677
    """
    return iid(Normal, loc=loc, scale=scale)


def _check(distribution: Distribution) -> None:
    name = type(distribution).__name__
    if distribution.event_shape:
        raise ValueError(
            f"a prior of weights needs a distribution over one number, but {name} is over events of shape "
            f"{distribution.event_shape}. Take its univariate form, or pass a function `log_prob(params) -> scalar`."
        )
    if distribution.support is not constraints.real:
        raise ValueError(
            f"weights take any real value, but the support of {name} is {distribution.support}. Take a distribution "
            "over the reals, such as Normal, Laplace, StudentT or a mixture of them, or pass a function."
        )
