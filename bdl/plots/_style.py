"""What all pictures share: axes, colours that the colour-blind tell apart, and checks."""

from collections.abc import Sequence
from typing import Any

import numpy as np

# Colours of Okabe and Ito (2008).
ALEATORIC, EPISTEMIC, DOT, MISS, ACCENT = "#56B4E9", "#E69F00", "#000000", "#D55E00", "#0072B2"
LINES = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"
Z = 1.96  # standard deviations to each side that hold 95 % of a Normal


def axes(ax: Any) -> Any:
    """`ax`, or the axes of a new figure."""
    if ax is not None:
        return ax
    return pyplot().subplots(layout="constrained")[1]


def pyplot() -> Any:
    """The module `matplotlib.pyplot`."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("bdl.plots needs matplotlib: pip install 'bdl[plots]'.") from error
    return plt


def one_column(column: int, *arrays: Any) -> list[np.ndarray]:
    """One column of each array, [N]."""
    columns = [a[:, column] if a.ndim == 2 else a.ravel() for a in map(np.asarray, arrays)]
    if len({len(a) for a in columns}) > 1:
        shapes = [np.shape(a) for a in arrays[:2]]
        raise ValueError(f"plots: expected as many values as predictions, got shapes {shapes[0]} and {shapes[1]}.")
    return columns


def named(argument: str, names: Sequence[Any] | None, count: int) -> list[str]:
    """`names` as strings, or 0 to `count` − 1."""
    names = range(count) if names is None else names
    if len(names) != count:
        raise ValueError(f"plots: expected {count} {argument}, one for each bar, got {len(names)}: {list(names)}.")
    return [str(name) for name in names]


def curve(ax: Any, x: Any, y: Any, label: str, *, since: int = 0) -> Any:
    """A line in a colour and a dash of its own among those that are on `ax`, which had `since` labels before them."""
    ax = axes(ax)
    drawn = len(ax.get_legend_handles_labels()[1]) - since
    styles = ("-", "--", "-.", ":")
    ax.plot(x, y, color=LINES[drawn % len(LINES)], ls=styles[drawn % len(styles)], lw=1.8, label=label)
    return ax
