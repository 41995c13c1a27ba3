"""Pictures over images: where a network looks, and where it is unsure."""

from typing import Any

import numpy as np

from bdl.plots._style import axes


def activation_map(image: Any, values: Any, *, spread: bool = False, limit: float | None = None, ax: Any = None) -> Any:
    """A map of activations over its image in grey: where it is 0 the image shows, where it is large the colour.

    Red is for the class and blue against it. `ax.images[1]` is the map, for a colour bar.

    Args:
        image: [H, W] or [H, W, C], of which the mean over C is shown.
        values: a map [h, w] of any size, stretched over the image: `maps.mean[n, ..., c]` of `bdl.activation_maps`.
        spread: whether it is a standard deviation, which has one colour.
        limit: the value of the full colour; the largest one, in size, where `None`. Give maps that are to be compared
            the same limit.
        ax: matplotlib axes; `None` for new ones.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the map is not [h, w].

    Example:
        >>> import numpy as np, bdl.plots
        >>> ax = bdl.plots.activation_map(np.ones((8, 12)), np.array([[-1.0, 2.0]]))
        >>> ax.images[1].get_clim(), ax.images[1].get_extent()
        ((-2.0, 2.0), [-0.5, 11.5, 7.5, -0.5])
    """
    image, values = np.asarray(image), np.asarray(values)
    if values.ndim != 2 or image.ndim not in (2, 3):
        raise ValueError(
            f"plots: expected a map [h, w] of an image [H, W] or [H, W, C], got shapes {values.shape} and "
            f"{image.shape}. One map of several is `maps.mean[n, ..., c]`."
        )
    image = image if image.ndim == 2 else image.mean(-1)
    limit = float(limit or np.abs(values).max() or 1.0)
    height, width = image.shape

    ax = axes(ax)
    ax.imshow(image, cmap="gray")
    ax.imshow(
        values, extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="bilinear",
        cmap="Oranges" if spread else "RdBu_r", vmin=0 if spread else -limit, vmax=limit,
        alpha=np.clip(np.abs(values) / limit, 0, 1) ** 0.5 * 0.85,
    )  # fmt: skip
    ax.set(xticks=[], yticks=[])
    return ax
