"""The networks and data of the benchmarks. With a `rate` they have Flax's own dropout before each layer."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class MLP(nn.Module):
    width: int = 512
    rate: float | None = None

    @nn.compact
    def __call__(self, x: Any) -> Any:
        for _ in range(3):
            x = nn.relu(nn.Dense(self.width)(_dropout(self.rate, x)))
        return nn.Dense(1)(_dropout(self.rate, x))


class CNN(nn.Module):
    features: int = 32
    rate: float | None = None

    @nn.compact
    def __call__(self, x: Any) -> Any:
        for features in (self.features, 2 * self.features):
            x = nn.relu(nn.Conv(features, (3, 3))(_dropout(self.rate, x, channels=True)))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Dense(4 * self.features)(_dropout(self.rate, x.reshape(x.shape[0], -1))))
        return nn.Dense(10)(_dropout(self.rate, x))


class LSTM(nn.Module):
    features: int = 64

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(1)(nn.RNN(nn.OptimizedLSTMCell(self.features))(x)[:, -1])


def _dropout(rate: float | None, x: Any, channels: bool = False) -> Any:
    if rate is None:
        return x
    return nn.Dropout(rate, deterministic=False, broadcast_dims=(1, 2) if channels else ())(x)


def init(module: nn.Module, x: Any) -> Any:
    return module.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, x)


def inputs(*shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(2), shape, jnp.float32)
