"""The network's outputs for a draw of the weights, or for one per example."""

from typing import Any

from bdl import noise as noise_
from bdl._keys import derive
from bdl.model import Model


def draw_outputs(
    key: Any, posterior: Any, model: Model, x: Any, *, noise: str, train: bool = False, params: Any = None
) -> tuple[Any, Any]:
    """The network's outputs and state for one draw of the weights, or for one per example.

    Args:
        key: of this draw.
        posterior: anything with `sample`; with families for local noise.
        model: its network is applied.
        x: inputs.
        noise: `"shared"` or `"local"`.
        train: whether batch normalisation uses and updates the batch's statistics.
        params: the draw of the weights, where shared noise has it already.
    """
    network_key = derive(key, "network") if model.network.stochastic else None
    if noise == "shared":
        return model.apply(posterior.sample(key) if params is None else params, x, key=network_key, train=train)
    if noise != "local":
        raise ValueError(f'expected noise="local" or noise="shared", got {noise!r}.')
    if not hasattr(posterior, "tree"):
        raise ValueError(
            f"local noise needs a posterior with a family for each array, and {type(posterior).__name__} has none. "
            'Pass noise="shared".'
        )

    def apply(params: Any, x: Any, state: Any, network_key: Any) -> tuple[Any, Any]:
        return model.network.apply(params, state, x, key=network_key, train=train)

    if not posterior.families:
        return apply(posterior.tree, x, model.network.state, network_key)
    return noise_.local(key, apply, posterior.tree, x, model.network.state, network_key)
