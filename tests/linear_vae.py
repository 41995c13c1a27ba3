"""A variational autoencoder whose encoder is the exact posterior: x = A z + b + scale ε, all Normal."""

from typing import Any

import jax.numpy as jnp
import numpy as np


def exact_params(weights: np.ndarray, bias: np.ndarray, scale: float) -> dict[str, Any]:
    """The weights of `bdl.networks.vae(..., widths=())` with q(z | x) = p(z | x).

    Args:
        weights: A, [D, L], of orthogonal columns, so that the posterior of z is a product as q is.
        bias: b, [D].
        scale: of the noise.
    """
    precision = 1 + (weights**2).sum(0) / scale**2
    to_mean = weights / scale**2 / precision
    encoder = np.concatenate([to_mean, np.zeros_like(to_mean)], 1)
    offset = np.concatenate([-bias @ to_mean, -0.5 * np.log(precision)])
    layers = {"encoder": (encoder, offset), "decoder": (weights.T, bias)}
    array = lambda a: jnp.asarray(a, jnp.float32)
    return {name: {"head": {"kernel": array(k), "bias": array(b)}} for name, (k, b) in layers.items()}
