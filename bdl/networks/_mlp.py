"""Dense layers one after another."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn

from bdl.networks._base import Network
from bdl.networks._reference import initialised, initialiser


class MLP(nn.Module):
    """A multilayer perceptron on inputs [N, ...], which are flattened; outputs [N, K]. See `mlp`.

    Attributes:
        num_outputs: K, or the shape of one example's outputs.
        widths: units of the hidden layers.
        activation: between layers.
        weight_init: `"he"` or `"xavier"`.
        use_bias: whether layers add a bias.
    """

    num_outputs: int | tuple[int, ...]
    widths: Sequence[int] = (50,)
    activation: Callable[[Any], Any] = nn.relu
    weight_init: str = "he"
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """The outputs, [N, K] or [N, *num_outputs]."""
        shape = (self.num_outputs,) if isinstance(self.num_outputs, int) else tuple(self.num_outputs)
        layer = functools.partial(nn.Dense, use_bias=self.use_bias, kernel_init=initialiser(self.weight_init))
        x = x.reshape(len(x), -1)
        for width in self.widths:
            x = self.activation(layer(width)(x))
        x = layer(math.prod(shape), name="head")(x)
        return x.reshape(len(x), *shape)


def mlp(
    key: Any,
    x: Any,
    num_outputs: int | tuple[int, ...],
    *,
    widths: Sequence[int] = (50,),
    activation: Callable[[Any], Any] = nn.relu,
    init: str = "he",
    use_bias: bool = True,
) -> Network:
    """A multilayer perceptron with initial weights: `len(widths)` hidden layers and the last one, `head`.

    Args:
        key: of the initial weights.
        x: inputs [N, ...], or their `jax.ShapeDtypeStruct`; only the shape of an example matters.
        num_outputs: K, or the shape of one example's outputs.
        widths: units of the hidden layers; `()` for a linear model.
        activation: between layers.
        init: `"he"`, weights of variance 2 / fan_in, for ReLU; `"xavier"`, 2 / (fan_in + fan_out), for tanh.
        use_bias: whether layers add a bias; not for `bdl.ood.training.DeepSAD`.

    Raises:
        ValueError: `init` is neither.

    Reference:
        He et al. (2015), Delving deep into rectifiers, https://arxiv.org/abs/1502.01852; Glorot and Bengio (2010),
        https://proceedings.mlr.press/v9/glorot10a.html

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> network = bdl.networks.mlp(jax.random.key(0), jnp.ones((5, 3)), 2, widths=(50, 50))
        >>> list(network.params), network.params["head"]["kernel"].shape
        (['Dense_0', 'Dense_1', 'head'], (50, 2))
    """
    return initialised(key, MLP(num_outputs, tuple(widths), activation, init, use_bias), x)
