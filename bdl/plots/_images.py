"""Pictures over images: where a network looks, and where it is unsure."""

from typing import Any

import numpy as np

from bdl.plots._style import axes, pyplot
from bdl.uncertainty import ClassPrediction


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


def uncertainty_maps(image: Any, prediction: Any, *, index: int = 0, label: Any = None, ax: Any = None) -> Any:
    """An image beside maps of what is predicted for its pixels, of the aleatoric and of the epistemic uncertainty.

    The two maps of uncertainty have one scale each, told by a bar beside them: epistemic is often the smaller by far.

    Args:
        image: [H, W] or [H, W, C] in [0, 1].
        prediction: a `bdl.ClassPrediction` of pixels, `probs` [N, H, W, K]; or a `bdl.Prediction`, `mean` [N, H, W] or
            [N, H, W, 1].
        index: which of the N images.
        label: the true classes or values [H, W], for a panel of its own.
        ax: an array of as many matplotlib axes as panels, 4 or with a label 5; `None` for new ones in a row.

    Returns:
        the array of axes: image, label where given, prediction, aleatoric, epistemic.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the prediction is not of pixels, or `ax` has another number of axes.

    Example:
        >>> import jax.numpy as jnp, bdl, bdl.plots
        >>> half, zero = jnp.full((1, 4, 6, 2), 0.5), jnp.zeros((1, 4, 6))
        >>> prediction = bdl.ClassPrediction(half, zero + 0.69, zero + 0.5, zero + 0.19, 0 * half, jnp.array(10))
        >>> [ax.get_title() for ax in bdl.plots.uncertainty_maps(jnp.ones((4, 6)), prediction)]
        ['image', 'prediction', 'aleatoric [nats]', 'epistemic [nats]']
    """
    image = np.asarray(image)
    classes = isinstance(prediction, ClassPrediction)
    found = np.asarray(prediction.probs[index]).argmax(-1) if classes else _map(prediction.mean[index])
    parts = [_map(a[index]) for a in (prediction.aleatoric, prediction.epistemic)]
    if any(a.shape != image.shape[:2] for a in (found, *parts)):
        shape = image.shape[:2]
        raise ValueError(f"plots: expected a prediction for each pixel of an image {shape}, got one of {found.shape}.")
    given = [] if label is None else [np.asarray(label)]
    titles = ["image", *["label"] * len(given), "prediction"]
    titles += [f"{part} {'[nats]' if classes else 'variance'}" for part in ("aleatoric", "epistemic")]
    if ax is None:
        size = (2.6 * len(titles), 2.6 * image.shape[0] / image.shape[1] + 0.6)
        ax = pyplot().subplots(1, len(titles), figsize=size, layout="constrained")[1]
    panels = np.ravel(ax)
    if len(panels) != len(titles):
        raise ValueError(f"plots: expected {len(titles)} axes for {', '.join(titles)}; got {len(panels)}.")

    panels[0].imshow(image.squeeze(), cmap="gray")
    # Label and prediction have the same colours for the same classes or values.
    shown = np.concatenate([*given, found])
    low, high = (0, prediction.probs.shape[-1] - 1) if classes else (shown.min(), shown.max())
    for values, panel in zip([*given, found], panels[1:], strict=False):
        panel.imshow(values, vmin=low, vmax=high, cmap="tab20" if classes else "viridis", interpolation="nearest")
    for values, panel in zip(parts, panels[-2:], strict=True):
        drawn = panel.imshow(values, cmap="magma", vmin=0, vmax=max(float(values.max()), 1e-12))
        panel.figure.colorbar(drawn, ax=panel, shrink=0.8)
    for panel, title in zip(panels, titles, strict=True):
        panel.set(xticks=[], yticks=[], title=title)
    return ax


def _map(values: Any) -> np.ndarray:
    values = np.asarray(values)
    return values[..., 0] if values.ndim == 3 and values.shape[-1] == 1 else values
