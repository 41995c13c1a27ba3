"""Pictures of scores that rank examples: two kinds of them apart, and what is left when the most uncertain ones go."""

from typing import Any

import numpy as np

from bdl.plots._style import ACCENT, MISS, axes, curve


def scores(
    inside: Any, outside: Any, *, num_bins: int = 40, names: tuple[str, str] = ("in", "out"), ax: Any = None
) -> Any:
    """Histograms of a score for two kinds of examples, each of area 1, over each other.

    Args:
        inside, outside: the scores of the examples of either kind, [N] and [M].
        num_bins: of either histogram, over the range of both.
        names: of the kinds.
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
    kinds = [_finite(a) for a in (inside, outside)]
    edges = np.linspace(min(a.min() for a in kinds), max(a.max() for a in kinds), num_bins + 1)
    ax = axes(ax)
    for values, name, colour, hatch in zip(kinds, names, (ACCENT, MISS), (None, "//"), strict=True):
        label = f"{name} ({len(values)})"
        ax.hist(values, edges, density=True, color=colour, alpha=0.5, hatch=hatch, label=label, histtype="stepfilled")
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
    found, taken = _counts(scores, labels)
    true, false = found / found[-1], taken / taken[-1]
    area = float(np.trapezoid(true, false))
    ax = curve(ax, false, true, f"{name or 'score'}: area {area:.3f}")
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
    found, taken = _counts(scores, labels)
    precision, recall = found[1:] / (found + taken)[1:], found / found[-1]
    average = float(np.sum(np.diff(recall) * precision))
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
    uncertainty, losses = _finite(uncertainty), _finite(losses)
    if uncertainty.shape != losses.shape:
        raise ValueError(f"plots: expected a loss for each of {len(uncertainty)} examples, got {len(losses)}.")
    share = np.arange(1, len(losses) + 1) / len(losses)
    first = ax is None or not ax.lines
    ax = axes(ax)
    if first:
        ax.plot(share, _risks(losses, losses), color="0.6", lw=1, label="best order")
        ax.plot([0, 1], [losses.mean()] * 2, color="0.6", lw=0.8, ls="--", label="random order")
    risks = _risks(uncertainty, losses)
    ax = curve(ax, share, risks, f"{name or 'uncertainty'}: AURC {risks.mean():.3g}", since=2)
    ax.set(xlabel="coverage: the share of examples kept", ylabel="risk: their mean loss", xlim=(-0.02, 1.02))
    return ax


def _risks(uncertainty: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """The mean loss of the 1, 2, ..., N most certain; a group of equals enters at its mean."""
    order = np.argsort(uncertainty, kind="stable")
    _, group, size = np.unique(uncertainty[order], return_inverse=True, return_counts=True)
    means = np.bincount(group, losses[order]) / size
    return np.cumsum(means[group]) / np.arange(1, len(losses) + 1)


def _counts(scores: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of positives and of negatives at or above each score that occurs, from the highest down, 0 first."""
    scores, labels = _finite(scores), np.ravel(np.asarray(labels)).astype(bool)
    if scores.shape != labels.shape or labels.all() or not labels.any():
        raise ValueError(
            f"plots: expected a label for each of {len(scores)} scores, some 1 and some 0; got {len(labels)} labels, "
            f"{int(labels.sum())} of them 1."
        )
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)  # of each group of equal scores
    return tuple(np.append(0, np.cumsum(hit[order])[last]).astype(float) for hit in (labels, ~labels))  # type: ignore[return-value]


def _finite(array: Any) -> np.ndarray:
    array = np.ravel(np.asarray(array)).astype(np.float64)
    if not array.size or not np.isfinite(array).all():
        found = f"{(~np.isfinite(array)).sum()} of {array.size} that are not" if array.size else "none"
        raise ValueError(f"plots: expected finite numbers, at least one; got {found}.")
    return array
