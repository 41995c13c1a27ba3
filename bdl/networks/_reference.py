"""What the reference networks share: their initial weights, and how a module becomes a network."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bdl._keys import derive
from bdl.networks._base import Network
from bdl.networks._linen import from_linen


def initialiser(name: str) -> Callable[..., Any]:
    """Normal weights of variance 2 / fan_in (He et al. 2015), or 2 / (fan_in + fan_out) (Glorot and Bengio 2010).

    Raises:
        ValueError: the name is neither.
    """
    if name not in ("he", "xavier"):
        raise ValueError(f'expected init="he" (for ReLU) or init="xavier" (for tanh), got {name!r}.')

    def draw(key: Any, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        *others, inputs, outputs = shape
        scale = 2.0 if name == "he" else 2 * inputs / (inputs + outputs)
        # The same numbers as those of an array of four axes, whose draw XLA takes ten times as long to compile.
        matrix = math.prod(others) * inputs, outputs
        return nn.initializers.variance_scaling(scale, "fan_in", "truncated_normal")(key, matrix, dtype).reshape(shape)

    return draw


def initialised(key: Any, module: nn.Module, x: Any) -> Network:
    """The network of a Linen module with initial weights for inputs like `x`; nothing but the weights is computed."""
    inputs = jax.tree.map(lambda a: jax.ShapeDtypeStruct((1, *a.shape[1:]), a.dtype), x)
    return from_linen(module, module.lazy_init(derive(key, "network"), inputs))


def check_images(x: Any, what: str, multiple: int = 1) -> None:
    """Raise where `x` are no images [N, H, W, C] with height and width divisible by `multiple`.

    Raises:
        ValueError: the message says how to add an axis, or to which sizes to pad or crop.
    """
    if x.ndim != 4:
        edit = " Pass x[..., None] for images of one channel." if x.ndim == 3 else ""
        raise ValueError(f"{what}: expected images [N, H, W, C], got inputs of shape {tuple(x.shape)}.{edit}")
    sizes = x.shape[1:3]
    if any(size < multiple for size in sizes) or any(size % multiple for size in sizes):
        pad = " × ".join(str(-(-size // multiple) * multiple) for size in sizes)
        crop = " × ".join(str(size // multiple * multiple) for size in sizes)
        crop = "" if "0" in crop.split(" × ") else f" or crop them to {crop}"
        raise ValueError(
            f"{what}: height and width must be multiples of {multiple}, and these images are "
            f"{sizes[0]} × {sizes[1]}. Pad them to {pad}{crop}."
        )
