"""Recurrent layers for sequences."""

from typing import Any

import flax.linen as nn

from bdl.networks._base import Network
from bdl.networks._reference import initialised


class LSTM(nn.Module):
    """LSTM layers and a dense one on sequences [N, T, D]; outputs [N, T, K], or [N, K]. See `lstm`."""

    num_outputs: int
    width: int = 64
    depth: int = 1
    last: bool = False

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """The outputs, [N, T, K], or [N, K] of the last step."""
        if x.ndim != 3:
            edit = " Pass x[..., None] for sequences of one number a step." if x.ndim == 2 else ""
            raise ValueError(f"LSTM: expected sequences [N, T, D], got inputs of shape {tuple(x.shape)}.{edit}")
        for _ in range(self.depth):
            x = nn.RNN(nn.OptimizedLSTMCell(self.width))(x)
        return nn.Dense(self.num_outputs, name="head")(x[:, -1] if self.last else x)


def lstm(key: Any, x: Any, num_outputs: int, *, width: int = 64, depth: int = 1, last: bool = False) -> Network:
    """A long short-term memory network with initial weights: recurrent layers, and a dense one, the `head`.

    With `noise="local"` a sequence has its own draw of the weights, the same at all of its steps: a dropout family on
    `"*/kernel"` is variational recurrent dropout, one mask for a sequence.

    Args:
        key: of the initial weights.
        x: sequences [N, T, D], or their `jax.ShapeDtypeStruct`; T may differ from call to call.
        num_outputs: K, at each step.
        width: units of a layer.
        depth: recurrent layers.
        last: only the last step's outputs, [N, K], as for the class of a sequence; otherwise [N, T, K].

    Raises:
        ValueError: the inputs are not [N, T, D].

    Reference:
        Hochreiter and Schmidhuber (1997), https://doi.org/10.1162/neco.1997.9.8.1735; for the dropout Gal and
        Ghahramani (2016), https://arxiv.org/abs/1512.05287

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> network = bdl.networks.lstm(jax.random.key(0), jnp.ones((2, 7, 3)), 1, width=8)
        >>> network.apply(network.params, network.state, jnp.ones((2, 9, 3)))[0].shape
        (2, 9, 1)
    """
    return initialised(key, LSTM(num_outputs, width, depth, last), x)
