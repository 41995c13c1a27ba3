"""A picture of which classes are taken for which."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bdl.plots._style import axes, named


def confusion(matrix: Any, *, classes: Sequence[Any] | None = None, share: bool = True, ax: Any = None) -> Any:
    """A confusion matrix: a row for each true class, a column for each predicted one.

    Args:
        matrix: [K, K] counts, as of `bdl.metrics.confusion_matrix`.
        classes: the names of the K classes; `None` for 0 to K − 1.
        share: colour and print the shares of each row, so that rare classes are seen; else the counts. Up to 20
            classes have their numbers printed.
        ax: matplotlib axes; `None` for new ones.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the matrix is not square, or there are not as many names as classes.

    Example:
        >>> import numpy as np, bdl.plots
        >>> ax = bdl.plots.confusion(np.array([[8, 2], [1, 1]]), classes=["ant", "bee"])
        >>> [text.get_text() for text in ax.texts]
        ['.80', '.20', '.50', '.50']
    """
    matrix = np.asarray(matrix, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"plots: expected a confusion matrix [K, K], got shape {matrix.shape}.")
    names = named("classes", classes, len(matrix))
    shown = matrix / np.maximum(matrix.sum(1, keepdims=True), 1) if share else matrix

    ax = axes(ax)
    top = 1.0 if share else max(shown.max(), 1)
    ax.imshow(shown, cmap="Blues", vmin=0, vmax=top)
    if len(matrix) <= 20:
        for (row, column), value in np.ndenumerate(shown):
            text = f"{value:.2f}".removeprefix("0") if share else f"{value:.0f}"
            colour = "white" if value > 0.6 * top else "black"
            if matrix[row, column]:
                ax.text(column, row, text, ha="center", va="center", color=colour, fontsize="small")
    turned = {"rotation": 45, "ha": "right"} if max(map(len, names)) > 3 else {}
    ticks = range(len(names))
    ax.set(xlabel="predicted", ylabel="true", yticks=ticks, yticklabels=names)
    ax.set_xticks(ticks, names, **turned)
    return ax
