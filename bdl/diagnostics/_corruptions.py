"""Corruptions of images at five severities, and rotations."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdl._data_checks import is_traced
from bdl._keys import check_key, derive
from bdl._random import flat

# The parameters of Hendrycks and Dietterich (2019), of severities 1 to 5: for images of 32 × 32 and of 224 × 224.
_TABLES: dict[str, dict[str, tuple[Any, ...]]] = {
    "cifar10-c": {
        "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),
        "shot_noise": (500, 250, 100, 75, 50),
        "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),
        "speckle_noise": (0.06, 0.10, 0.12, 0.16, 0.20),
        "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1.0),
        "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1)),
        "brightness": (0.05, 0.10, 0.15, 0.20, 0.30),
        "contrast": (0.75, 0.50, 0.40, 0.30, 0.15),
        "pixelate": (0.95, 0.90, 0.85, 0.75, 0.65),
        "rotation": (15.0, 30.0, 45.0, 60.0, 75.0),
    },
    "imagenet-c": {
        "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),
        "shot_noise": (60, 25, 12, 5, 3),
        "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),
        "speckle_noise": (0.15, 0.20, 0.35, 0.45, 0.60),
        "gaussian_blur": (1.0, 2.0, 3.0, 4.0, 6.0),
        "defocus_blur": ((3.0, 0.1), (4.0, 0.5), (6.0, 0.5), (8.0, 0.5), (10.0, 0.5)),
        "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
        "contrast": (0.40, 0.30, 0.20, 0.10, 0.05),
        "pixelate": (0.60, 0.50, 0.40, 0.30, 0.25),
        "rotation": (15.0, 30.0, 45.0, 60.0, 75.0),
    },
}
CORRUPTIONS = tuple(_TABLES["cifar10-c"])
"""The names that `bdl.diagnostics.corrupt` takes."""


def corrupt(key: Any, images: Any, corruption: str, severity: int, *, table: str = "cifar10-c") -> jax.Array:
    """Images with one corruption at one of five severities.

    | `corruption` | formula | parameter c of severities 1, …, 5 (`"cifar10-c"`; `"imagenet-c"`) |
    |---|---|---|
    | `gaussian_noise` | x + c ε, ε ~ Normal(0, 1) | .04 .06 .08 .09 .10; .08 .12 .18 .26 .38 |
    | `shot_noise` | Poisson(c x) / c | 500 250 100 75 50; 60 25 12 5 3 |
    | `impulse_noise` | 0 or 1 with probability c / 2 each | .01 .02 .03 .05 .07; .03 .06 .09 .17 .27 |
    | `speckle_noise` | x + c x ε | .06 .10 .12 .16 .20; .15 .20 .35 .45 .60 |
    | `gaussian_blur` | a Gaussian of scale c pixels, cut at 4 c | .4 .6 .7 .8 1; 1 2 3 4 6 |
    | `defocus_blur` | a disc of radius c₁, smoothed by a Gaussian c₂ | .3 .4 .5 1 1.5; 3 4 6 8 10 |
    | `brightness` | value + c (of hue, saturation, value); gray: x + c | .05 .10 .15 .20 .30; .1 .2 .3 .4 .5 |
    | `contrast` | c (x − x̄) + x̄, x̄ the mean of a channel | .75 .50 .40 .30 .15; .40 .30 .20 .10 .05 |
    | `pixelate` | to c times the size and back, by boxes | .95 .90 .85 .75 .65; .60 .50 .40 .30 .25 |
    | `rotation` | by c degrees (`bdl.diagnostics.rotate`) | 15 30 45 60 75; the same |

    Results are cut to [0, 1], and not rounded to 8 bits. The parameters of all but the rotation are those of CIFAR-10-C
    and of ImageNet-C. Their weather, motion, zoom, glass, elastic and JPEG corruptions are not here: to hold figures
    against published ones take the published images.

    Args:
        key: one random key; the noise of an image depends on the shape of all.
        images: [N, H, W, C] in [0, 1]. Gray is C = 1; `brightness` takes C = 3 for red, green and blue.
        corruption: one of `bdl.diagnostics.CORRUPTIONS`.
        severity: 1, …, 5.
        table: `"cifar10-c"`, for images of about 32 × 32, or `"imagenet-c"`, for about 224 × 224.

    Returns:
        [N, H, W, C], float32.

    Raises:
        ValueError: an unknown name or severity, or images of another shape or range.

    Reference:
        Hendrycks and Dietterich (2019), Benchmarking neural network robustness to common corruptions and perturbations,
        https://arxiv.org/abs/1903.12261

    Example:
        >>> import jax, jax.numpy as jnp, bdl.diagnostics
        >>> images = jnp.zeros((1, 8, 8, 1)).at[:, 4:].set(1.0)
        >>> corrupted = bdl.diagnostics.corrupt(jax.random.key(0), images, "contrast", 2)
        >>> float(corrupted.min()), float(corrupted.max())
        (0.25, 0.75)
    """
    key, images = check_key(key), check_images("corrupt", images)
    if table not in _TABLES:
        raise ValueError(f"corrupt: expected table as one of {sorted(_TABLES)}, got {table!r}.")
    if corruption not in CORRUPTIONS:
        raise ValueError(f"corrupt: expected one of {', '.join(CORRUPTIONS)}; got {corruption!r}.")
    if isinstance(severity, bool) or severity not in (1, 2, 3, 4, 5):
        raise ValueError(f"corrupt: expected a severity of 1, 2, 3, 4 or 5, got {severity!r}.")
    # The parameter is traced: the five severities are one program.
    build, apply = _PROGRAMS[corruption]
    entries = [build(c, images.shape) for c in _TABLES[table][corruption]]
    return _corrupt(derive(key, corruption), images, _alike(entries)[severity - 1], apply)


def rotate(images: Any, degrees: Any) -> jax.Array:
    """Images turned counter-clockwise around their centre, bilinearly; what comes from outside is 0.

    Args:
        images: [N, H, W, C] in [0, 1].
        degrees: the angle.

    Returns:
        [N, H, W, C], float32.

    Raises:
        ValueError: images of another shape or range.

    Example:
        >>> import jax.numpy as jnp, bdl.diagnostics
        >>> bdl.diagnostics.rotate(jnp.array([[[[0.0], [1.0]], [[0.0], [0.0]]]]), 90.0)[0, ..., 0].round(3).tolist()
        [[1.0, 0.0], [0.0, 0.0]]
    """
    return _rotated(check_images("rotate", images), jnp.asarray(degrees, jnp.float32))


def check_images(name: str, images: Any) -> jax.Array:
    """Images as float32.

    Raises:
        ValueError: they are not [N, H, W, C] with numbers in [0, 1].
    """
    shape = np.shape(images)
    if len(shape) != 4 or 0 in shape:
        raise ValueError(
            f"{name}: expected images [N, H, W, C], got shape {shape}. Gray images [N, H, W] are images[..., None]; "
            "where the network takes another shape, reshape in `preprocess`."
        )
    if not is_traced(images):
        low, high = np.min(images), np.max(images)
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"{name}: expected images in [0, 1], got numbers from {low} to {high}. Divide 8-bit images by 255, and "
                "standardise after the corruption (`preprocess`)."
            )
    return jnp.asarray(images).astype(jnp.float32)


@functools.partial(jax.jit, static_argnames="apply")
def _corrupt(key: jax.Array, images: jax.Array, parameter: Any, apply: Any) -> jax.Array:
    return jnp.clip(apply(key, images, parameter), 0.0, 1.0)


def _gaussian_noise(key: jax.Array, x: jax.Array, c: jax.Array) -> jax.Array:
    return x + c * flat(jax.random.normal, key, x.shape)


def _shot_noise(key: jax.Array, x: jax.Array, c: jax.Array) -> jax.Array:
    return jax.random.poisson(key, x * c, x.shape).astype(jnp.float32) / c


def _impulse_noise(key: jax.Array, x: jax.Array, c: jax.Array) -> jax.Array:
    u = flat(jax.random.uniform, key, x.shape)
    return jnp.where(u < 0.5 * c, 0.0, jnp.where(u < c, 1.0, x))


def _speckle_noise(key: jax.Array, x: jax.Array, c: jax.Array) -> jax.Array:
    return x + c * x * flat(jax.random.normal, key, x.shape)


def _brightness(key: jax.Array, x: jax.Array, c: jax.Array) -> jax.Array:
    if x.shape[-1] != 3:
        return x + c
    # Hue and saturation are those of the ratios to the largest channel, the value.
    value = x.max(-1, keepdims=True)
    brighter = jnp.minimum(value + c, 1.0)
    return jnp.where(value > 0, x / jnp.where(value > 0, value, 1.0), 1.0) * brighter


def _contrast(key: jax.Array, x: jax.Array, c: jax.Array) -> jax.Array:
    mean = x.mean((1, 2), keepdims=True)
    return (x - mean) * c + mean


def _along_axes(key: jax.Array, x: jax.Array, matrices: tuple[jax.Array, jax.Array]) -> jax.Array:
    rows, columns = matrices
    return jnp.einsum("ih,nhwc,jw->nijc", rows, x, columns, precision="highest")


def _defocus_blur(key: jax.Array, x: jax.Array, kernel: jax.Array) -> jax.Array:
    reach = kernel.shape[0] // 2
    padded = jnp.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="reflect")
    alike = jnp.moveaxis(padded, -1, 1).reshape(-1, 1, *padded.shape[1:3])
    found = jax.lax.conv(alike, kernel[None, None], (1, 1), "VALID", precision="highest")
    return jnp.moveaxis(found.reshape(x.shape[0], x.shape[-1], *x.shape[1:3]), 1, -1)


def _rotation(key: jax.Array, x: jax.Array, c: jax.Array) -> jax.Array:
    return _rotated(x, c)


@jax.jit
def _rotated(x: jax.Array, degrees: jax.Array) -> jax.Array:
    height, width = x.shape[1:3]
    centre = (height - 1) / 2, (width - 1) / 2
    down, right = jnp.meshgrid(
        jnp.arange(height, dtype=jnp.float32) - centre[0],
        jnp.arange(width, dtype=jnp.float32) - centre[1],
        indexing="ij",
    )
    sine, cosine = jnp.sin(jnp.deg2rad(degrees)), jnp.cos(jnp.deg2rad(degrees))
    # Where a pixel of the result comes from: turned back, with the rows pointing down.
    source = [cosine * down + sine * right + centre[0], cosine * right - sine * down + centre[1]]
    of_plane = functools.partial(jax.scipy.ndimage.map_coordinates, coordinates=source, order=1, mode="constant")
    return jax.vmap(jax.vmap(of_plane, -1, -1))(x)


def _number(c: Any, shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(c, np.float32)


def _gaussian_matrices(c: float, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    return _gaussian_matrix(c, shape[1]), _gaussian_matrix(c, shape[2])


def _gaussian_matrix(scale: float, size: int) -> np.ndarray:
    """The blur of one axis as a matrix; beyond the edge stands the last pixel."""
    reach = int(4 * scale + 0.5)
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (offsets / scale) ** 2)
    matrix = np.zeros((size, size))
    for i in range(size):
        np.add.at(matrix[i], np.clip(i + offsets, 0, size - 1), kernel / kernel.sum())
    return matrix.astype(np.float32)


def _box_matrices(c: float, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    return _box_matrix(c, shape[1]), _box_matrix(c, shape[2])


def _box_matrix(ratio: float, size: int) -> np.ndarray:
    """An axis made smaller and as large as before: means over boxes, then the box that a pixel is in."""
    small = max(1, int(size * ratio))
    centres = (np.arange(size) + 0.5) * small / size
    # A centre on the edge of two boxes belongs to the first when pixels are averaged, to the second when they are read.
    box = np.ceil(centres).astype(int) - 1
    down = (box[None, :] == np.arange(small)[:, None]).astype(np.float64)
    return (down / down.sum(1, keepdims=True))[np.floor(centres).astype(int)].astype(np.float32)


def _disc(c: tuple[float, float], shape: tuple[int, ...]) -> np.ndarray:
    """A disc smoothed by a Gaussian of 3 × 3 taps, 5 × 5 for radii above 8."""
    radius, alias = c
    taps = np.arange(-1, 2) if radius <= 8 else np.arange(-2, 3)
    reach = 8 if radius <= 8 else math.ceil(radius)
    grid = np.arange(-reach, reach + 1)
    disc = (grid[:, None] ** 2 + grid[None, :] ** 2 <= radius**2).astype(np.float64)
    gaussian = np.exp(-0.5 * (taps / alias) ** 2)
    gaussian /= gaussian.sum()
    padded = np.pad(disc / disc.sum(), taps[-1], mode="reflect")
    for axis in (0, 1):
        padded = np.apply_along_axis(np.convolve, axis, padded, gaussian, "valid")
    return padded.astype(np.float32)


def _alike(entries: list[Any]) -> list[Any]:
    """Kernels of one size, as small as holds all; everything else as it is."""
    if not isinstance(entries[0], np.ndarray) or entries[0].ndim != 2:
        return entries
    reach = max(int(np.abs(np.argwhere(k > 0) - len(k) // 2).max()) for k in entries)
    return [np.pad(k, reach)[(s := len(k) // 2) : s + 2 * reach + 1, s : s + 2 * reach + 1] for k in entries]


_Build = Callable[[Any, tuple[int, ...]], Any]
_Apply = Callable[[jax.Array, jax.Array, Any], jax.Array]
_PROGRAMS: dict[str, tuple[_Build, _Apply]] = {
    "gaussian_noise": (_number, _gaussian_noise),
    "shot_noise": (_number, _shot_noise),
    "impulse_noise": (_number, _impulse_noise),
    "speckle_noise": (_number, _speckle_noise),
    "gaussian_blur": (_gaussian_matrices, _along_axes),
    "defocus_blur": (_disc, _defocus_blur),
    "brightness": (_number, _brightness),
    "contrast": (_number, _contrast),
    "pixelate": (_box_matrices, _along_axes),
    "rotation": (_number, _rotation),
}
