"""Pictures of calibration: what was said beside what came true."""

from typing import Any

import numpy as np

from bdl import metrics
from bdl.plots._style import ACCENT, ALEATORIC, DOT, MISS, axes, curve


def reliability(
    probs: Any, labels: Any, *, num_bins: int = 15, binning: Any = "width", of: int | str = "top", ax: Any = None
) -> Any:
    """A reliability diagram: accuracy over confidence in bins, the gap between them, and how many examples there are.

    Bars below the diagonal are overconfident, above it underconfident; the gap is hatched. A whisker is what chance
    alone does to a calibrated bin, ± 2 standard errors around its confidence: only a bar that ends outside of it says
    something. Above is the histogram of confidences, `ax.child_axes[0]`, with the mean confidence (dashed) and the
    accuracy (solid). The label has the expected calibration error, and that of a calibrated prediction.

    Args:
        probs: [..., K].
        labels: [...].
        num_bins: of confidence.
        binning: "width" or "mass", as of `bdl.metrics.reliability`.
        of: "top" for the most probable class, or the index of a class.
        ax: matplotlib axes; `None` for new ones.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: shapes, probabilities or labels that are none, or `of` is "classes", which is K diagrams.

    Example:
        >>> import jax.numpy as jnp, bdl.plots
        >>> probs = jnp.array([[0.1, 0.9], [0.2, 0.8], [0.4, 0.6], [0.7, 0.3]])
        >>> ax = bdl.plots.reliability(probs, jnp.array([1, 1, 0, 0]), num_bins=5)
        >>> ax.get_legend_handles_labels()[1][:2]
        ['accuracy', 'gap: ECE 0.3, 0.279 if calibrated']
    """
    if of == "classes":
        raise ValueError("plots: a diagram is of one class; call it for each: of=0, of=1, ...")
    found = metrics.reliability(probs, labels, num_bins=num_bins, binning=binning, of=of)
    edges, count, confidence, accuracy, chance = (
        np.asarray(a) for a in (found.edges, found.count, found.confidence, found.accuracy, found.standard_error)
    )
    seen, widths = count > 0, np.diff(edges)
    left, accuracy, confidence, chance = edges[:-1][seen], accuracy[seen], confidence[seen], chance[seen]
    label = f"gap: ECE {float(found.error()):.3g}, {float(found.noise_floor()):.3g} if calibrated"

    ax = axes(ax)
    bar = {"width": widths[seen], "align": "edge", "zorder": 2}
    ax.bar(left, accuracy, color=ALEATORIC, edgecolor="white", lw=0.5, label="accuracy", **bar)
    ax.bar(left, confidence - accuracy, bottom=accuracy, fc="none", ec=MISS, hatch="///", lw=0, label=label, **bar)
    ax.errorbar(confidence, confidence, yerr=2 * chance, fmt="none", ecolor=DOT, capsize=2, lw=0.8, zorder=4)
    ax.plot([0, 1], [0, 1], color="0.4", lw=1, ls="--", zorder=3)
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy" if of == "top" else f"share of class {of}")

    above = ax.inset_axes((0, 1.03, 1, 0.22), sharex=ax)
    above.bar(edges[:-1], count / count.sum(), width=widths, align="edge", color=ALEATORIC, edgecolor="white", lw=0.5)
    above.axvline(float(np.asarray(found.total).sum() / count.sum()), color=ACCENT, ls="--", lw=1.2)
    above.axvline(float(np.asarray(found.correct).sum() / count.sum()), color=ACCENT, lw=1.2)
    above.set(ylabel="share", ylim=(0, None))
    above.tick_params(labelbottom=False)
    return ax


def quantile_calibration(pit_values: Any, *, name: str | None = None, ax: Any = None) -> Any:
    """How often targets fell below each predicted quantile, over its level: the diagonal if calibrated.

    An S across the diagonal says that intervals are too wide or too narrow, a curve to one side of it that the mean is
    off. The band holds the whole curve of a calibrated prediction in 95 of 100 data sets (Kolmogorov and Smirnov's
    bound, 1.358 / √N). Call it again with the same `ax` for another prediction.

    Args:
        pit_values: the probability integral transform of targets, [N], of `bdl.metrics.pit_normal` or `pit`.
        name: of the prediction.
        ax: matplotlib axes; `None` for new ones.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: values outside of [0, 1], or none.

    Example:
        >>> import jax.numpy as jnp, bdl.plots
        >>> pit = bdl.metrics.pit_normal(0.0, 1.0, jnp.array([-0.5, 0.0, 0.3, 2.0]))
        >>> bdl.plots.quantile_calibration(pit).get_legend_handles_labels()[1]
        ['95 % if calibrated (N = 4)', 'predicted']
    """
    levels = np.linspace(0, 1, 101, dtype=np.float32)
    observed = np.asarray(metrics.quantile_calibration(np.ravel(np.asarray(pit_values)), levels))
    first = ax is None or not ax.lines
    ax = axes(ax)
    if first:
        count = np.size(pit_values)
        low, high = (np.clip(levels + sign * 1.358 / np.sqrt(count), 0, 1) for sign in (-1, 1))
        ax.fill_between(levels, low, high, color="0.88", lw=0, label=f"95 % if calibrated (N = {count:,})")
        ax.plot([0, 1], [0, 1], color="0.4", lw=1, ls="--")
    curve(ax, levels, observed, name or "predicted", since=1)
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="level of the predicted quantile", ylabel="share of targets below it")
    return ax
