"""Normalisation layers by name, each with the activation that follows it."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class FilterResponseNorm(nn.Module):
    """Filter response normalisation: y = scale · x / √(ν² + ε) + bias, where ν² is the mean of x² over the pixels.

    Each channel of each example is normalised by itself: there are no batch statistics, so that a prediction for an
    image does not depend on others, nor on what was seen in training.

    Reference:
        Singh and Krishnan (2020), Filter response normalization layer, https://arxiv.org/abs/1911.09737
    """

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """`x` normalised, [N, ..., C]."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        squares = jnp.mean(x * x, axis=tuple(range(1, x.ndim - 1)), keepdims=True)
        return scale * (x * jax.lax.rsqrt(squares + self.epsilon)) + bias


class ThresholdedLinearUnit(nn.Module):
    """max(x, threshold) with a learned threshold for each channel, 0 at first: what follows filter response norm."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """`x` with its values below the threshold raised to it."""
        return jnp.maximum(x, self.param("threshold", nn.initializers.zeros, (x.shape[-1],)))


def norm_layer(norm: str, train: bool) -> Callable[[Any], Any]:
    """The normalisation layer of this name, made in the module that calls this.

    Raises:
        ValueError: there is none of this name.
    """
    if norm == "batch":
        return nn.BatchNorm(use_running_average=not train, momentum=0.9)
    if norm == "filter_response":
        return FilterResponseNorm()
    if norm == "none":
        return lambda x: x
    raise ValueError(f'expected norm="batch", norm="filter_response" or norm="none", got {norm!r}.')


def activation(norm: str) -> Callable[[Any], Any]:
    """The activation that goes with a normalisation layer, made in the module that calls this."""
    return ThresholdedLinearUnit() if norm == "filter_response" else nn.relu
