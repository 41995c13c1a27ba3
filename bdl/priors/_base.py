"""What a prior is, and what is taken for one."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from numpyro.distributions import Distribution

from bdl._paths import named_leaves
from bdl.networks._use import Use


@runtime_checkable
class Prior(Protocol):
    """A density over the weights of a network: an `equinox.Module` with `log_prob`.

    Beside it a prior may have two methods that give closed forms and network-dependent scales; all of `bdl.priors`
    have both. Subclass `FactorisedPrior` to write `distribution` only.

    * `distribution(path, array) -> numpyro Distribution | None`: the distribution of one weight array, which broadcasts
      to its shape; `None` where the prior is flat. It says that arrays are independent of each other.
    * `bind(uses) -> Prior`: the prior that knows how the network uses each weight (`bdl.networks.Use` by path).
    """

    def log_prob(self, params: Any) -> jax.Array:
        """The log-density log p(w), a float32 scalar in nats, summed over all weights."""
        ...


class FactorisedPrior(eqx.Module):
    """A prior under which weight arrays are independent. Subclasses write `distribution(path, array)`.

    Example:
        >>> import jax.numpy as jnp, numpyro.distributions as dist, bdl
        >>> class Heavy(bdl.priors.FactorisedPrior):
        ...     def distribution(self, path, array):
        ...         return dist.Cauchy(0.0, 1.0) if path.endswith("kernel") else None
        >>> round(float(Heavy().log_prob({"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)})), 2)
        -6.87
    """

    def distribution(self, path: str, array: Any) -> Distribution | None:
        """The distribution of the array at `path`, or `None` where the prior is flat."""
        raise NotImplementedError

    def log_prob(self, params: Any) -> jax.Array:
        """The log-density Σ_arrays Σ_weights log p(w_ij) in nats, summed in float32 whatever the weights' type."""
        return sum_log_prob(self, params)

    def bind(self, uses: dict[str, Use]) -> "FactorisedPrior":
        """The prior that knows the network's uses of its weights; itself where they do not matter."""
        del uses
        return self


def sum_log_prob(prior: Any, params: Any) -> jax.Array:
    """Σ over all weights of their log-probabilities by `prior.distribution`, in nats, in float32."""
    total = jnp.zeros((), jnp.float32)
    for path, array in named_leaves(params).items():
        distribution = prior.distribution(path, array)
        if distribution is not None:
            log_prob = distribution.log_prob(array.astype(jnp.float32))
            total += jnp.broadcast_to(log_prob, array.shape).sum()
    return total


def broadcasts(batch: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a distribution of this batch shape is one over the entries of an array of this shape."""
    return len(batch) <= len(shape) and all(b in (1, s) for b, s in zip(reversed(batch), reversed(shape), strict=False))


class FunctionPrior(eqx.Module):
    """A prior given as a function `log_prob(params) -> scalar`, in nats."""

    function: Callable[[Any], jax.Array] = eqx.field(static=True)

    def log_prob(self, params: Any) -> jax.Array:
        """The log-density log p(w), in nats.

        Raises:
            ValueError: the function does not return a scalar.
        """
        value = jnp.asarray(self.function(params))
        if value.shape != ():
            raise ValueError(
                f"the prior's function must return one number, log p(w) in nats, but returned shape {value.shape}. "
                "Sum it over the weights."
            )
        return value.astype(jnp.float32)
