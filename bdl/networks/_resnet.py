"""Residual networks."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from bdl.networks._base import Network
from bdl.networks._normalisation import activation, norm_layer
from bdl.networks._reference import check_images, initialised, initialiser


class ResidualBlock(nn.Module):
    """Two 3 × 3 convolutions and the identity beside them: activation(x + f(x)). See `resnet`."""

    channels: int
    stride: int = 1
    norm: str = "batch"
    weight_init: str = "he"
    shortcut: bool = True

    @nn.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        """[N, H / stride, W / stride, channels]."""
        y = convolution(x, self.channels, self.stride, self.norm, self.weight_init)
        y = activation(self.norm)(norm_layer(self.norm, train)(y))
        y = norm_layer(self.norm, train)(convolution(y, self.channels, 1, self.norm, self.weight_init))
        if self.shortcut:
            # Where the shape changes, pixels are left out and channels of zeros put in: a shortcut has no weights.
            x = x[:, :: self.stride, :: self.stride]
            y = y + jnp.pad(x, [(0, 0), (0, 0), (0, 0), (0, self.channels - x.shape[-1])])
        return activation(self.norm)(y)


class ResNet(nn.Module):
    """A residual network on images [N, H, W, C]; outputs [N, K]. See `resnet`."""

    num_outputs: int
    depth: int = 20
    width: int = 16
    norm: str = "batch"
    weight_init: str = "he"
    shortcut: bool = True

    @nn.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        """The outputs, [N, K]."""
        check_images(x, "ResNet")
        if self.depth < 8 or self.depth % 6 != 2:
            near = max(8, (self.depth + 1) // 6 * 6 + 2)
            raise ValueError(f"ResNet: expected a depth of 6 n + 2 layers, got {self.depth}. The nearest is {near}.")
        x = convolution(x, self.width, 1, self.norm, self.weight_init)
        x = activation(self.norm)(norm_layer(self.norm, train)(x))
        for stage in range(3):
            for block in range(self.depth // 6):
                stride = 2 if stage and not block else 1
                x = ResidualBlock(self.width * 2**stage, stride, self.norm, self.weight_init, self.shortcut)(x, train)
        return nn.Dense(self.num_outputs, kernel_init=initialiser(self.weight_init), name="head")(x.mean(axis=(1, 2)))


def convolution(x: Any, channels: int, stride: int, norm: str, init: str) -> Any:
    """A 3 × 3 convolution, made in the module that calls this; a normalisation after it has the bias."""
    kernel = initialiser(init)
    return nn.Conv(channels, (3, 3), strides=(stride, stride), use_bias=norm == "none", kernel_init=kernel)(x)


def resnet(
    key: Any,
    x: Any,
    num_outputs: int,
    *,
    depth: int = 20,
    width: int = 16,
    norm: str = "batch",
    init: str = "he",
    shortcut: bool = True,
) -> Network:
    """A residual network with initial weights, in the form of He et al. for CIFAR-10.

    A first convolution, then three stages of (depth − 2) / 6 blocks with 1, 2 and 4 times `width` channels, the image
    halved before the second and the third; the mean over the pixels; and one dense layer, the `head`. It ends as class
    activation maps need it: see `bdl.activation_maps`.

    Args:
        key: of the initial weights.
        x: images [N, H, W, C], or their `jax.ShapeDtypeStruct`; any height and width.
        num_outputs: K, the number of classes for `bdl.likelihoods.Categorical`.
        depth: layers with weights, 6 n + 2: 8, 14, 20, 32, 44, 56, 110.
        width: channels of the first stage.
        norm: `"batch"`; `"filter_response"`, of each image by itself, with a learned threshold for ReLU's 0; `"none"`,
            with which signals grow from block to block, so that deep ones do not start.
        init: `"he"` or `"xavier"`; see `bdl.networks.mlp`.
        shortcut: whether the blocks add their input to what they compute; without, it is a plain network.

    Raises:
        ValueError: the images are not [N, H, W, C], or `depth`, `norm` or `init` is not one of those.

    Reference:
        He et al. (2016), Deep residual learning for image recognition, https://arxiv.org/abs/1512.03385; for the
        second norm Singh and Krishnan (2020), https://arxiv.org/abs/1911.09737

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> network = bdl.networks.resnet(jax.random.key(0), jnp.ones((5, 32, 32, 3)), 10, depth=8)
        >>> list(network.params), list(network.state)
        (['BatchNorm_0', 'Conv_0', 'ResidualBlock_0', 'ResidualBlock_1', 'ResidualBlock_2', 'head'], ['batch_stats'])
    """
    return initialised(key, ResNet(num_outputs, depth, width, norm, init, shortcut), x)
