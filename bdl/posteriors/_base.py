"""What a posterior is: anything that can draw the network's weights."""

from typing import Any, Protocol, runtime_checkable

import jax


@runtime_checkable
class Posterior(Protocol):
    """A distribution over all weights of a network, as an `equinox.Module`.

    Everything after inference uses `sample` only. Two more methods are used where they exist:

    * `bind(uses) -> Posterior`, told how the network uses each weight array, by path (`bdl.networks.Use`);
    * `log_prob(params) -> scalar` in nats, for the KL by Monte Carlo; without it, only a `Factorised` has a KL.
    """

    def sample(self, key: jax.Array) -> Any:
        """One draw of the weights: nested dicts of arrays, as `network.params`."""
        ...
