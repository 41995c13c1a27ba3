"""How much a split flatters."""

from collections.abc import Callable, Iterable
from typing import Any

import equinox as eqx
import numpy as np

Splits = Iterable[tuple[np.ndarray, np.ndarray]]


class Overstatement(eqx.Module):
    """Skill on random folds beside skill on blocked ones, in the unit of the score.

    Attributes:
        difference: random − blocked; of a score where higher is better, what the random split promises too much.
        standard_error: √(s²_random / F_random + s²_blocked / F_blocked). Folds share training rows, so that it is too
            small rather than too large.
        random: the mean over the random folds.
        blocked: likewise.
        random_scores: of each random fold, NaN where the score is not defined.
        blocked_scores: likewise.
    """

    difference: float
    standard_error: float
    random: float
    blocked: float
    random_scores: np.ndarray
    blocked_scores: np.ndarray


def overstatement(
    fit_and_score: Callable[[np.ndarray, np.ndarray], Any], random_splits: Splits, blocked_splits: Splits
) -> Overstatement:
    """How much more skill a random split reports than one that respects time or groups.

    Where rows have neighbours (hours of a series, pictures of a patient), a random split asks for what was as good as
    told. The difference is memory, not skill: what the forecast will not have tomorrow.

    Args:
        fit_and_score: (training rows, test rows) → a number; fits on the first and scores on the second. NaN where a
            score is not defined, such as TSS in a fold without events: that fold is left out of the means.
        random_splits: pairs of (training rows, test rows), such as `splits.random(key, N)`.
        blocked_splits: likewise, such as `splits.blocked_by_time(times, gap=...)`.

    Returns:
        `Overstatement(difference, standard_error, random, blocked, random_scores, blocked_scores)`.

    Raises:
        ValueError: fewer than two folds of a kind have a score, or a score is infinite.

    Example:
        >>> import jax, numpy as np, bdl
        >>> y = np.random.default_rng(0).normal(size=60).cumsum()
        >>> nearest = lambda train, test: np.abs(train[:, None] - test).argmin(0)
        >>> score = lambda train, test: -np.mean((y[test] - y[train][nearest(train, test)]) ** 2)
        >>> blocked = bdl.data.splits.blocked_by_time(np.arange(60))
        >>> found = bdl.data.overstatement(score, bdl.data.splits.random(jax.random.key(0), 60), blocked)
        >>> found.difference > 3 * found.standard_error
        True

    Reference:
        Ahmadzadeh et al. (2021), https://arxiv.org/abs/2103.07542; on the error of cross-validation Bengio and
        Grandvalet (2004), https://jmlr.org/papers/v5/grandvalet04a.html
    """
    scores = {
        kind: _scores(kind, [fit_and_score(train, test) for train, test in given])
        for kind, given in (("random", random_splits), ("blocked", blocked_splits))
    }
    (random, random_error), (blocked, blocked_error) = (_mean(values) for values in scores.values())
    return Overstatement(
        difference=random - blocked,
        standard_error=float(np.hypot(random_error, blocked_error)),
        random=random,
        blocked=blocked,
        random_scores=scores["random"],
        blocked_scores=scores["blocked"],
    )


def _scores(kind: str, given: list[Any]) -> np.ndarray:
    if any(np.size(score) != 1 for score in given):
        raise ValueError("overstatement: expected fit_and_score to return one number. Take the mean of the examples'.")
    scores = np.array([float(np.asarray(score).reshape(())) for score in given])
    if np.isinf(scores).any() or np.isfinite(scores).sum() < 2:
        raise ValueError(
            f"overstatement: expected a finite score in two {kind} folds or more, got {scores}. Make folds longer, so "
            "that the score is defined in them."
        )
    return scores


def _mean(scores: np.ndarray) -> tuple[float, float]:
    """The mean of what is defined, and its standard error."""
    defined = scores[np.isfinite(scores)]
    return float(defined.mean()), float(defined.std(ddof=1) / np.sqrt(len(defined)))
