"""Made-up arrays and weights that cost no compilation."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import bdl
from bdl._paths import map_named


def normals(seed: int, *shape: int) -> jax.Array:
    """Standard Normal numbers, float32."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def filled(module: nn.Module, x: Any) -> bdl.networks.Network:
    """The network with weights of the right shapes; scales are positive, biases not zero."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    rng = np.random.default_rng(1)

    def fill(path: str, a: Any) -> jax.Array:
        fan_in = max(int(np.prod(a.shape[:-1])), 1)
        values = rng.normal(size=a.shape) * np.sqrt(2 / fan_in) if a.ndim > 1 else 0.3 * rng.random(a.shape)
        return jnp.asarray(values + (path.split("/")[-1] in ("scale", "var")), a.dtype)

    return bdl.from_linen(module, map_named(fill, shapes))
