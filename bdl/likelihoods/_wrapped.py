"""What likelihoods that change another one share."""

from typing import Any

import equinox as eqx
import jax
from numpyro import distributions as dist

from bdl.likelihoods._base import Likelihood, call, check_targets, is_reweighted, log_prob, training_weight


class Wrapped(eqx.Module):
    """A likelihood that is another one in all that it does not define itself."""

    likelihood: Likelihood

    @property
    def is_reweighted(self) -> bool:
        """Whether training weighs examples."""
        return is_reweighted(self.likelihood)

    def __call__(self, outputs: Any, *, key: Any = None) -> dist.Distribution:
        """The distribution of `likelihood`."""
        return call(self.likelihood, outputs, key)

    def log_prob(self, distribution: dist.Distribution, y: Any) -> jax.Array:
        """The log-probabilities of `likelihood`, in nats."""
        return log_prob(self.likelihood, distribution, y)

    def training_weight(self, distribution: dist.Distribution, y: Any) -> Any:
        """The weights of `likelihood`."""
        return training_weight(self.likelihood, distribution, y)

    def check_targets(self, distribution: dist.Distribution, y: Any) -> None:
        """Raise where the targets are not what `likelihood` takes.

        Raises:
            ValueError, TypeError: they are not; the message names the row.
        """
        check_targets(self.likelihood, distribution, y)
