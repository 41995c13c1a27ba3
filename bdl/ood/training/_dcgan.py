"""A generator and a discriminator of images, small enough to train beside a classifier."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bdl._keys import derive
from bdl._random import flat
from bdl.networks._base import Network
from bdl.networks._reference import check_images, initialised

_INIT = partial(flat, nn.initializers.normal(0.02))


class Generator(nn.Module):
    """Images [N, *shape] from Normal latents [N, L]. See `dcgan`.

    Attributes:
        shape: (H, W, C) of an image.
        channels: of the layers before the last one, each at twice the resolution of that before it.
        low, high: the range of the pixels.
    """

    shape: tuple[int, int, int]
    channels: Sequence[int] = (64, 32)
    low: float = 0.0
    high: float = 1.0

    @nn.compact
    def __call__(self, z: Any, train: bool = False) -> Any:
        """The images."""
        height, width, colours = self.shape
        first, *middle = self.channels
        factor = 2 ** len(self.channels)
        x = nn.Dense(height // factor * (width // factor) * first, use_bias=False, kernel_init=_INIT)(z)
        x = x.reshape(len(z), height // factor, width // factor, first)
        for channels in (*middle, colours):
            x = nn.relu(nn.BatchNorm(not train, momentum=0.9)(x))
            x = nn.ConvTranspose(channels, (4, 4), (2, 2), use_bias=channels is colours, kernel_init=_INIT)(x)
        return self.low + (self.high - self.low) * nn.sigmoid(x)


class Discriminator(nn.Module):
    """The logit [N] of an image being of the data and not made. See `dcgan`.

    Attributes:
        channels: of the convolutions, each at half the resolution of that before it.
    """

    channels: Sequence[int] = (32, 64)

    @nn.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        """The logits."""
        for i, channels in enumerate(self.channels):
            x = nn.Conv(channels, (4, 4), (2, 2), use_bias=i == 0, kernel_init=_INIT)(x)
            x = nn.leaky_relu(nn.BatchNorm(not train, momentum=0.9)(x) if i else x, 0.2)
        return nn.Dense(1, kernel_init=_INIT, name="head")(x.reshape(len(x), -1))[:, 0]


def dcgan(
    key: Any,
    x: Any,
    *,
    latent_size: int = 100,
    channels: Sequence[int] = (64, 32),
    low: float = 0.0,
    high: float = 1.0,
) -> tuple[Network, Network]:
    """A generator and a discriminator for images, with initial weights, for `confidence_gan`.

    The generator doubles the resolution once for each of `channels`, the discriminator halves it with the same in
    reverse order: convolutions of 4 × 4, batch normalisation but at both ends, weights of standard deviation 0.02.

    Args:
        key: of the initial weights.
        x: images [N, H, W, C], or their `jax.ShapeDtypeStruct`; H and W are multiples of 2 ** len(channels).
        latent_size: L, the numbers that an image is made from.
        channels: of the generator; the authors of the paper took (512, 256, 128) for 32 × 32 × 3.
        low, high: the range of the pixels of x.

    Returns:
        generator: from [N, L] to [N, H, W, C].
        discriminator: from [N, H, W, C] to logits [N].

    Raises:
        ValueError: the images are not [N, H, W, C], or of other sizes; there are no channels; `low` is not below
            `high`.

    Reference:
        Radford, Metz and Chintala (2016), Unsupervised representation learning with deep convolutional generative
        adversarial networks, https://arxiv.org/abs/1511.06434

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from bdl.ood.training import dcgan
        >>> images = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
        >>> generator, discriminator = dcgan(jax.random.key(0), images, channels=(4, 2))
        >>> generator.params["Dense_0"]["kernel"].shape
        (100, 16)
    """
    channels = tuple(channels)
    if not channels or latent_size < 1 or not low < high:
        raise ValueError(
            "dcgan: expected at least one of `channels`, a `latent_size` of at least 1 and low < high, got "
            f"{channels}, {latent_size}, {low} and {high}."
        )
    check_images(x, "dcgan", multiple=2 ** len(channels))
    latents = jax.ShapeDtypeStruct((1, latent_size), jnp.float32)
    generator = Generator(tuple(x.shape[1:]), channels, low, high)
    discriminator = Discriminator(channels[::-1])
    return initialised(derive(key, "generator"), generator, latents), initialised(
        derive(key, "discriminator"), discriminator, x
    )
