"""Pictures of scores that rank examples: two kinds of them apart, and what is left when the most uncertain ones go."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bdl import metrics
from bdl.metrics._ranking import events, rank
from bdl.plots._style import LINES, axes, curve


def scores(
    inside: Any, outside: Any, *, num_bins: int = 40, names: tuple[str, str] = ("in", "out"), ax: Any = None
) -> Any:
    """Histograms of a score for kinds of examples, each of area 1, over each other.

    Args:
        inside: the scores of inliers, [N].
        outside: the scores of outliers, [M]; or of several kinds of them, by name.
        num_bins: of a histogram, over the range of all.
        names: of the kinds; of several kinds of outliers the second is not used.
        ax: matplotlib axes; `None` for new ones.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: a score is not finite, or there is none.

    Example:
        >>> import numpy as np, bdl.plots
        >>> ax = bdl.plots.scores(np.arange(10.0), np.arange(5.0) + 8)
        >>> ax.get_legend_handles_labels()[1]
        ['in (10)', 'out (5)']
    """
    outliers = outside if isinstance(outside, Mapping) else {names[1]: outside}
    kinds = {name: _finite(a) for name, a in [(names[0], inside), *outliers.items()]}
    edges = np.linspace(min(a.min() for a in kinds.values()), max(a.max() for a in kinds.values()), num_bins + 1)
    ax = axes(ax)
    for i, (name, values) in enumerate(kinds.items()):
        look: dict[str, Any] = {"histtype": "step", "lw": 1.6, "ls": ("-", "--", "-.", ":")[i % 4]}
        if i == 0 or len(kinds) == 2:
            look = {"histtype": "stepfilled", "alpha": 0.5, "hatch": (None, "//")[i]}
        ax.hist(values, edges, density=True, color=LINES[i % len(LINES)], label=f"{name} ({len(values)})", **look)
    ax.set(xlabel="score", ylabel="density")
    return ax


def roc(scores: Any, labels: Any, *, name: str | None = None, ax: Any = None) -> Any:
    """The receiver operating characteristic: the share of positives found over the share of negatives taken for them.

    Call it again with the same `ax` for another score. The label holds the area under the curve.

    Args:
        scores: [N], higher is more positive.
        labels: [N], 1 or True for positives.
        name: of the score.
        ax: matplotlib axes; `None` for new ones.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: shapes differ, or there is no positive or no negative.

    Example:
        >>> import numpy as np, bdl.plots
        >>> ax = bdl.plots.roc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]), name="entropy")
        >>> ax.get_legend_handles_labels()[1]
        ['entropy: area 0.750']
    """
    found, taken = _counts("roc", scores, labels)
    label = f"{name or 'score'}: area {float(metrics.auroc(np.ravel(scores), np.ravel(labels))):.3f}"
    ax = curve(ax, taken / taken[-1], found / found[-1], label)
    ax.plot([0, 1], [0, 1], color="0.6", lw=0.8, ls="--", zorder=1)
    ax.set(xlabel="false-positive rate", ylabel="true-positive rate")
    return ax


def precision_recall(scores: Any, labels: Any, *, name: str | None = None, ax: Any = None) -> Any:
    """The precision of those taken for positives over the share of positives found; steps, not interpolated.

    The label holds the average precision, Σ (recall step) × precision. A score of no use has the share of positives.

    Args:
        scores: [N], higher is more positive.
        labels: [N], 1 or True for positives.
        name: of the score.
        ax: matplotlib axes; `None` for new ones.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: shapes differ, or there is no positive or no negative.

    Example:
        >>> import numpy as np, bdl.plots
        >>> ax = bdl.plots.precision_recall(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
        >>> ax.get_legend_handles_labels()[1]
        ['score: average precision 0.833']
    """
    found, taken = _counts("precision_recall", scores, labels)
    precision, recall = found[1:] / (found + taken)[1:], found / found[-1]
    average = float(metrics.average_precision(np.ravel(scores), np.ravel(labels)))
    steps = np.repeat(recall, 2)[1:-1], np.repeat(precision, 2)
    ax = curve(ax, *steps, f"{name or 'score'}: average precision {average:.3f}")
    ax.set(xlabel="recall", ylabel="precision", ylim=(-0.02, 1.02))
    return ax


def risk_coverage(uncertainty: Any, losses: Any, *, name: str | None = None, ax: Any = None) -> Any:
    """The mean loss of the examples that are kept, over the share of them, when the most uncertain go first.

    Call it again with the same `ax` for another uncertainty of the same losses. The label holds the area under the
    curve (AURC, lower is better); grey is the best that any order can do, and the mean loss that a random order has.
    Examples of equal uncertainty go together.

    Args:
        uncertainty: [N], higher is less certain.
        losses: [N], such as 1 where the prediction is wrong and 0 where it is right, or squared errors.
        name: of the uncertainty.
        ax: matplotlib axes; `None` for new ones.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: shapes differ, or a number is not finite.

    Example:
        >>> import numpy as np, bdl.plots
        >>> ax = bdl.plots.risk_coverage(np.array([0.1, 0.9, 0.2, 0.3]), np.array([0.0, 1.0, 0.0, 1.0]), name="entropy")
        >>> ax.get_legend_handles_labels()[1]
        ['best order', 'random order', 'entropy: AURC 0.208']
    """
    uncertainty, losses = np.ravel(np.asarray(uncertainty)), np.ravel(np.asarray(losses)).astype(np.float32)
    label = f"{name or 'uncertainty'}: AURC {float(metrics.aurc(uncertainty, losses)):.3g}"
    first = ax is None or not ax.lines
    ax = axes(ax)
    if first:
        ax.plot(*metrics.risk_coverage(losses, losses), color="0.6", lw=1, label="best order")
        ax.plot([0, 1], [losses.mean()] * 2, color="0.6", lw=0.8, ls="--", label="random order")
    ax = curve(ax, *metrics.risk_coverage(uncertainty, losses), label, since=2)
    ax.set(xlabel="coverage: the share of examples kept", ylabel="risk: their mean loss", xlim=(-0.02, 1.02))
    return ax


def _counts(name: str, scores: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of positives and of negatives at or above each score that occurs, from the highest down, 0 first."""
    ranking = rank(*events(f"plots.{name}", np.ravel(np.asarray(scores)), np.ravel(np.asarray(labels)), None))
    threshold = np.asarray(ranking.threshold)
    true, false = (np.append(0, np.asarray(count)[threshold]).astype(float) for count in (ranking.true, ranking.false))
    return true, false


def _finite(array: Any) -> np.ndarray:
    array = np.ravel(np.asarray(array)).astype(np.float64)
    if not array.size or not np.isfinite(array).all():
        found = f"{(~np.isfinite(array)).sum()} of {array.size} that are not" if array.size else "none"
        raise ValueError(f"plots: expected finite numbers, at least one; got {found}.")
    return array
