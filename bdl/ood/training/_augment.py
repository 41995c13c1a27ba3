"""Random crops, flips and changes of light: copies of an image that are still of it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdl._data_checks import is_traced
from bdl._keys import derive
from bdl.networks._reference import check_images


def augmented(
    key: Any,
    images: Any,
    *,
    area: tuple[float, float] = (0.08, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
    flip: float = 0.5,
    brightness: float = 0.4,
    contrast: float = 0.4,
) -> jax.Array:
    """Each image cropped, resized, mirrored, brightened and stretched at random, by draws of its own:

        x ↦ b (x̄ + c (x − x̄)),   x̄ the mean over pixels, of each channel.

    A crop is a rectangle with a share `area` of the image's, brought to the size of the image by bilinear
    interpolation. Nothing is clipped, as the unit of the pixels is yours. Other settings: `functools.partial`.

    Args:
        key: one random key.
        images: [N, H, W, C], of any number of channels.
        area: the least and the greatest share of the area, uniform between them; (1, 1) for no crop.
        aspect: the least and the greatest ratio of width to height, beside that of the image, uniform in the logarithm.
            A side that would be longer than the image's is as long.
        flip: the probability of left and right being exchanged.
        brightness: b is uniform in [1 − brightness, 1 + brightness].
        contrast: c likewise.

    Returns:
        [N, H, W, C], of the type of the images.

    Raises:
        ValueError: inputs that are no images [N, H, W, C], or a number out of its range.
        TypeError: pixels are integers.

    Reference:
        Chen, Kornblith, Norouzi and Hinton (2020), A simple framework for contrastive learning of visual
        representations, https://arxiv.org/abs/2002.05709; the defaults are those of Tack et al. (2020), without their
        changes of hue and saturation.

    Example:
        >>> import functools, jax, jax.numpy as jnp
        >>> from bdl.ood.training import augmented
        >>> images = jnp.ones((5, 8, 8, 3))
        >>> augmented(jax.random.key(0), images, brightness=0.0).round(4).max()
        Array(1., dtype=float32)
        >>> mild = functools.partial(augmented, area=(0.5, 1.0), flip=0.0)  # of digits, which have a left and a right
        >>> mild(jax.random.key(0), images).shape
        (5, 8, 8, 3)
    """
    images = jnp.asarray(images)
    check_images(images, "augmented")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"augmented: expected floating pixels, got {images.dtype}. Pass images / 255.")
    _check_range("area", area, 1.0)
    _check_range("aspect", aspect, np.inf)
    for called, value in {"flip": flip, "brightness": brightness, "contrast": contrast}.items():
        if not is_traced(value) and not 0 <= value <= 1:
            raise ValueError(f"augmented: expected `{called}` in [0, 1], got {value}.")
    return _augmented(key, images, area, aspect, flip, brightness, contrast)


@jax.jit
def _augmented(
    key: Any, images: jax.Array, area: Any, aspect: Any, flip: Any, brightness: Any, contrast: Any
) -> jax.Array:
    count, height, width = images.shape[:3]

    def uniform(name: str, least: Any, greatest: Any) -> jax.Array:
        return least + (greatest - least) * jax.random.uniform(derive(key, name), (count,))

    share = uniform("area", *area)
    ratio = jnp.exp(uniform("aspect", *map(jnp.log, aspect)))
    # A crop of height h and width w, as shares of the image's: h w = area, w / h = aspect.
    tall, wide = jnp.minimum(1.0, jnp.sqrt(share / ratio)), jnp.minimum(1.0, jnp.sqrt(share * ratio))
    top, left = (1 - tall) * uniform("top", 0.0, 1.0), (1 - wide) * uniform("left", 0.0, 1.0)
    rows = resampling(height, top, tall)
    columns = resampling(width, left, wide)
    mirrored = uniform("flip", 0.0, 1.0) < flip
    columns = jnp.where(mirrored[:, None, None], columns[:, ::-1], columns)
    cropped = jnp.einsum("nij,njkc,nlk->nilc", rows, images.astype(jnp.float32), columns, precision="highest")
    mean = cropped.mean((1, 2), keepdims=True)
    light, stretch = (
        uniform(name, 1 - most, 1 + most)[:, None, None, None]
        for name, most in (("brightness", brightness), ("contrast", contrast))
    )
    # b (x̄ + c (x − x̄))
    return (light * (mean + stretch * (cropped - mean))).astype(images.dtype)


def resampling(size: int, start: jax.Array, length: jax.Array) -> jax.Array:
    """Weights [N, size, size] that resample a line of pixels from a part of it, bilinearly.

    Args:
        size: pixels of the line, and of the result.
        start: where the part begins, [N], as a share of the line.
        length: that of the part, [N], likewise.
    """
    pixels = jnp.arange(size, dtype=jnp.float32)
    # The centre of pixel i of the result lies at start + length (i + ½) / size; those of the line at (j + ½) / size.
    place = start[:, None] * size + length[:, None] * (pixels[None] + 0.5) - 0.5
    place = jnp.clip(place, 0.0, size - 1.0)
    # Linear interpolation: a weight of 1 − |distance| for the two pixels that are nearer than one.
    return jnp.maximum(0.0, 1 - jnp.abs(place[..., None] - pixels[None, None]))


def _check_range(called: str, value: Any, most: float) -> None:
    if is_traced(value):
        return
    if np.shape(value) != (2,) or not 0 < value[0] <= value[1] <= most or not np.isfinite(value[1]):
        bound = "" if np.isinf(most) else f" <= {most:g}"
        raise ValueError(
            f"augmented: expected `{called}` as (least, greatest), 0 < least <= greatest{bound}; got {value!r}."
        )
