"""Tells a posterior and a prior how the network uses its weights."""

import dataclasses
from typing import Any

import jax

from bdl._paths import stable_hash
from bdl.model import Model
from bdl.noise import find_uses


def bind(posterior: Any, model: Model, x: Any) -> tuple[Any, Model]:
    """`posterior` and `model`, told along which axes each weight array meets its inputs.

    A dropout family drops rows, and `priors.fan_in` scales by the number of inputs; both depend on how the network
    uses an array: the kernel [D, heads, d] of attention has its inputs along axis 0, a convolution's along axis 2.
    `fit`, `predict` and `elbo` call this by themselves, `posterior.sample` and `prior.log_prob` cannot.

    Args:
        posterior: as `bdl.variational` made it.
        model: its network is traced once, without computing anything.
        x: a batch of inputs, arrays or `jax.ShapeDtypeStruct`s.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> network = bdl.network(lambda p, x: x @ p["w"].T, {"w": jnp.ones((2, 3))})
        >>> posterior = bdl.variational(network.params, bdl.families.bernoulli_dropout(rate=0.1))
        >>> model = bdl.Model(network, bdl.likelihoods.Normal())
        >>> posterior, model = bdl.bind(posterior, model, jnp.ones((5, 3)))
        >>> posterior.tree["w"].use.in_axes
        (1,)
    """
    if is_bound(posterior) and is_bound(model.prior):
        return posterior, model
    network = model.network
    params = jax.eval_shape(lambda: _weights(posterior, model))
    uses = find_uses(lambda params, x, state: network.apply(params, state, x), params, x, network.state)
    if hasattr(posterior, "bind"):
        posterior = posterior.bind(uses)
    prior = model.prior.bind(uses) if hasattr(model.prior, "bind") else model.prior
    return posterior, dataclasses.replace(model, prior=prior)


def _weights(posterior: Any, model: Model) -> Any:
    # What a draw depends on may not be known yet: the rows of a family, the fan-in of a prior.
    if hasattr(posterior, "mean"):
        return posterior.mean
    return posterior.sample(jax.random.key(stable_hash("bind"))) if model.weights is None else model.weights.zeros()


def is_bound(node: Any) -> bool:
    """Whether a posterior or a prior needs no `bind` any more."""
    families = getattr(node, "families", {})
    return getattr(node, "bound", True) and all(getattr(f, "use", True) is not None for f in families.values())
