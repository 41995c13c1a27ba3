"""The area under the curve of precision over recall."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from bdl.metrics._ranking import Ranking, events, rank


def average_precision(scores: Any, labels: Any, *, mask: Any = None, balanced: bool = False) -> jax.Array:
    """The area under precision and recall, AUPR or PR-AUC (higher is better, in [0, 1]):

        AP = Σₜ (recallₜ − recallₜ₋₁) precisionₜ, over the thresholds t from the highest score downwards,

    one for each distinct score. It is no trapezium rule, which interpolates precision too high. Chance is the share of
    positives, ½ where `balanced`. It takes all examples at once: it is no mean over batches.

    Args:
        scores: [...], higher for what is more likely positive.
        labels: [...], 1 or True for positives, else 0.
        mask: bool [...], True where an example counts.
        balanced: precision from rates, TPR / (TPR + FPR), as though both classes were equally frequent, and not from
            counts, TP / (TP + FP).

    Returns:
        A number, float32. Under a trace it is NaN where a class is missing or a score is NaN.

    Raises:
        ValueError: shapes that do not match, scores that are not finite, labels that are not 0 and 1, a class missing.

    Reference:
        Davis and Goadrich (2006), The relationship between precision-recall and ROC curves,
        https://doi.org/10.1145/1143844.1143874

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> bdl.metrics.average_precision(jnp.array([0.1, 0.4, 0.3, 0.8, 0.2]), jnp.array([0, 0, 0, 1, 1]))
        Array(0.75, dtype=float32)
    """
    return _average_precision(*events("average_precision", scores, labels, mask), balanced)


def area(ranking: Ranking, balanced: bool) -> jax.Array:
    """AP of a ranking."""
    true, false = ranking.true.astype(jnp.float32), ranking.false.astype(jnp.float32)
    if balanced:
        true, false = true / ranking.positives, false / ranking.negatives
    precision = true / (true + false)
    recalled = (ranking.true - ranking.true_above).astype(jnp.float32) / ranking.positives
    return ranking.or_nan(jnp.sum(jnp.where(ranking.threshold, recalled * precision, 0.0)))


@functools.partial(jax.jit, static_argnames="balanced")
def _average_precision(keys: jax.Array, labels: jax.Array, balanced: bool) -> jax.Array:
    return area(rank(keys, labels), balanced)
