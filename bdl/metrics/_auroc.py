"""The area under the receiver operating characteristic."""

from typing import Any

import jax
import jax.numpy as jnp

from bdl.metrics._ranking import Ranking, events, rank


def auroc(scores: Any, labels: Any, *, mask: Any = None) -> jax.Array:
    """How often a positive has a higher score than a negative (higher is better, in [0, 1], chance is ½):

        AUROC = P(s⁺ > s⁻) + ½ P(s⁺ = s⁻).

    That is the Mann-Whitney statistic, exact with ties. It takes all examples at once: it is no mean over batches.

    Args:
        scores: [...], higher for what is more likely positive.
        labels: [...], 1 or True for positives, else 0.
        mask: bool [...], True where an example counts.

    Returns:
        A number, float32. Under a trace it is NaN where a class is missing or a score is NaN.

    Raises:
        ValueError: shapes that do not match, scores that are not finite, labels that are not 0 and 1, a class missing.

    Reference:
        Hanley and McNeil (1982), The meaning and use of the area under a receiver operating characteristic curve,
        https://doi.org/10.1148/radiology.143.1.7063747

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> bdl.metrics.auroc(jnp.array([0.1, 0.4, 0.4, 0.8]), jnp.array([0, 0, 1, 1]))
        Array(0.875, dtype=float32)
    """
    return _auroc(*events("auroc", scores, labels, mask))


def area(ranking: Ranking) -> jax.Array:
    """AUROC of a ranking."""
    # Each negative contributes the share of positives above it, and half of those beside it.
    negatives = (ranking.false - ranking.false_above).astype(jnp.float32) / ranking.negatives
    positives = (0.5 * (ranking.true.astype(jnp.float32) + ranking.true_above.astype(jnp.float32))) / ranking.positives
    return ranking.or_nan(jnp.sum(jnp.where(ranking.threshold, negatives * positives, 0.0)))


@jax.jit
def _auroc(keys: jax.Array, labels: jax.Array) -> jax.Array:
    return area(rank(keys, labels))
