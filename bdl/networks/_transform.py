"""Networks made from networks."""

import dataclasses
from typing import Any

import jax

from bdl._equation import Literal, open_jaxpr
from bdl._paths import stable_hash
from bdl.networks._base import Network


def stochastic(network: Network) -> Network:
    """`network` with its own stochastic layers on: every draw hands them a key, and they count as random.

    Without it a network's dropout layers are off, in training as in prediction, and randomness comes from the
    posterior alone. With it they are on in both, so a network that was trained with dropout is a Monte Carlo dropout
    posterior as it stands (Gal and Ghahramani 2016, https://arxiv.org/abs/1506.02142). Batch normalisation keeps
    using the statistics in the state: that is another switch.

    Raises:
        ValueError: the network is a function that takes no key.

    Example:
        >>> import jax, jax.numpy as jnp, flax.linen as nn, bdl
        >>> module = nn.Sequential([nn.Dense(3), nn.Dropout(0.5, deterministic=True)])
        >>> network = bdl.networks.stochastic(bdl.from_linen(module, module.init(jax.random.key(0), jnp.ones((1, 2)))))
        >>> network.stochastic
        True
    """
    if getattr(network.function, "takes_key", True) is False:
        raise ValueError(
            "this network is a function without a `key` argument, so it cannot draw. "
            "Write it as fn(params, x, key=None)."
        )
    return dataclasses.replace(network, stochastic=True)


def draws_by_itself(network: Network, params: Any, x: Any) -> bool:
    """Whether the network's outputs depend on a key where it gets one: whether it has dropout layers of its own."""

    def outputs(key: Any) -> Any:
        return network.apply(params, network.state, x, key=key)[0]

    if getattr(network.function, "takes_key", True) is False:
        return False
    jaxpr = open_jaxpr(jax.make_jaxpr(outputs)(jax.random.key(stable_hash("draws_by_itself"))))
    random = set(jaxpr.invars)
    for eqn in jaxpr.eqns:
        if any(not isinstance(v, Literal) and v in random for v in eqn.invars):
            random.update(eqn.outvars)
    return any(not isinstance(v, Literal) and v in random for v in jaxpr.outvars)
