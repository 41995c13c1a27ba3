"""What the layers of a network compute, beside its outputs."""

import dataclasses
import fnmatch
from collections.abc import Sequence
from typing import Any

from bdl.networks._base import Network


def features(network: Network, where: str | Sequence[str]) -> Network:
    """`network` with outputs that are a pair: its own, and a dict of what the layers named by `where` returned.

    The user's module is not touched. A path is that of the layer's weights, without the array's name: `"Dense_0"`,
    `"Block_1/Conv_0"`, `"layers/2"`; layers without weights have paths too. In Linen what a module has sown stands
    under its path and the name. A layer that is called several times gives a tuple. Not seen are functions
    (`nn.relu`) and, in NNX, layers inside of a transform (`nnx.scan`, `nnx.remat`).

    Args:
        network: from `bdl.from_linen` or `bdl.from_nnx`.
        where: a glob over the layers' paths, or several; `*` crosses `/`, and `"*"` is all layers.

    Raises:
        TypeError: the network is a function, which has no layers.
        ValueError: (when the network is applied) a glob matches no layer; the message lists the paths.

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> network = bdl.networks.mlp(jax.random.key(0), jnp.ones((1, 3)), 2, widths=(50, 20))
        >>> network = bdl.networks.features(network, "Dense_*")
        >>> (outputs, layers), _ = network.apply(network.params, network.state, jnp.ones((5, 3)))
        >>> {path: array.shape for path, array in layers.items()}
        {'Dense_0': (5, 50), 'Dense_1': (5, 20)}
    """
    globs = (where,) if isinstance(where, str) else tuple(where)
    if not knows_layers(network.function):
        raise TypeError(
            "features: this network is a function or has features already, and its layers are not known. Let the "
            "function return what you need, or name all layers in one call."
        )
    return dataclasses.replace(network, function=_Features(capturing(network.function), globs))


def knows_layers(function: Any) -> bool:
    """Whether the function of a network can return what its layers do."""
    return hasattr(function, "capture")


def capturing(function: Any, capture: bool = True) -> Any:
    """That function, with outputs that come with those of every layer, by path; one for which `knows_layers`."""
    return dataclasses.replace(function, capture=capture)


@dataclasses.dataclass(frozen=True)
class _Features:
    function: Any
    globs: tuple[str, ...]

    def __call__(self, params: Any, state: Any, x: Any, key: Any, train: bool) -> tuple[Any, Any]:
        (outputs, layers), state = self.function(params, state, x, key, train)
        for glob in self.globs:
            if not fnmatch.filter(layers, glob):
                raise ValueError(
                    f"features: the glob {glob!r} matches no layer; the paths are {', '.join(sorted(layers))}. "
                    "Correct the glob, or leave it out."
                )
        chosen = {p: v for p, v in layers.items() if any(fnmatch.fnmatchcase(p, glob) for glob in self.globs)}
        return (outputs, chosen), state
