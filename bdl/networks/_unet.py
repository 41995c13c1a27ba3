"""U-Net: an output for each pixel."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from bdl.networks._base import Network
from bdl.networks._normalisation import activation, norm_layer
from bdl.networks._reference import check_images, initialised, initialiser
from bdl.networks._resnet import convolution


class UNet(nn.Module):
    """A U-Net on images [N, H, W, C]; outputs [N, H, W, K]. See `unet`."""

    num_outputs: int
    widths: Sequence[int] = (16, 32, 64)
    norm: str = "batch"
    weight_init: str = "he"

    @nn.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        """The outputs, [N, H, W, K]."""
        *widths, bottom = self.widths
        check_images(x, "UNet", multiple=2 ** len(widths))
        skips = []
        for width in widths:
            x = self._level(x, width, train)
            skips.append(x)
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = self._level(x, bottom, train)
        for width, skip in zip(reversed(widths), reversed(skips), strict=True):
            up = nn.ConvTranspose(width, (2, 2), strides=(2, 2), kernel_init=initialiser(self.weight_init))(x)
            x = self._level(jnp.concatenate([skip, up], axis=-1), width, train)
        return nn.Conv(self.num_outputs, (1, 1), kernel_init=initialiser(self.weight_init), name="head")(x)

    def _level(self, x: Any, width: int, train: bool) -> Any:
        for _ in range(2):
            x = norm_layer(self.norm, train)(convolution(x, width, 1, self.norm, self.weight_init))
            x = activation(self.norm)(x)
        return x


def unet(
    key: Any,
    x: Any,
    num_outputs: int,
    *,
    widths: Sequence[int] = (16, 32, 64),
    norm: str = "batch",
    init: str = "he",
) -> Network:
    """A U-Net with initial weights, for dense prediction: outputs for each pixel, at the size of the image.

    Two convolutions at each of `len(widths)` resolutions, each half of the one before; on the way up an array joins the
    one of its size on the way down, so that edges stay where they are. The last layer, of 1 × 1 pixels, is the `head`.

    Args:
        key: of the initial weights.
        x: images [N, H, W, C], or their `jax.ShapeDtypeStruct`; height and width are multiples of 2^(len(widths) − 1).
        num_outputs: K for each pixel: classes for `bdl.likelihoods.Categorical`, twice the columns of the targets for
            `bdl.likelihoods.HeteroscedasticNormal`.
        widths: channels at each resolution, the full one first.
        norm: `"batch"`, `"filter_response"` or `"none"`; see `bdl.networks.resnet`.
        init: `"he"` or `"xavier"`; see `bdl.networks.mlp`.

    Raises:
        ValueError: the images are not [N, H, W, C], or of other sizes; the message says to which to pad or crop.

    Reference:
        Ronneberger, Fischer and Brox (2015), U-Net, https://arxiv.org/abs/1505.04597

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> network = bdl.networks.unet(jax.random.key(0), jnp.ones((2, 8, 12, 3)), 5, widths=(4, 8))
        >>> network.apply(network.params, network.state, jnp.ones((2, 16, 8, 3)))[0].shape
        (2, 16, 8, 5)
    """
    return initialised(key, UNet(num_outputs, tuple(widths), norm, init), x)
