"""A threshold for each class, or group: Mondrian conformal prediction."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdl._data_checks import is_traced
from bdl.conformal._checks import check_alpha, given_scores
from bdl.conformal._split import smallest
from bdl.metrics._checks import check_labels


def by_class(scores: Any, labels: Any, *, num_classes: int, alpha: float, mask: Any = None) -> jax.Array:
    """The threshold of `split` for each class, from the scores of its own examples (Mondrian).

    P(new score ≤ threshold[y] | y = k) = ⌈(1 − α)(n_k + 1)⌉ / (n_k + 1) ≥ 1 − α for each class k, without ties, if the
    examples of a class are exchangeable; the shares of the classes may change. Instead of classes there may be any
    groups that are known of a new example. A class of n_k < 1/α − 1 examples has the threshold ∞.

    Args:
        scores: [n], of the labels' shape (higher is worse).
        labels: [n], integers in 0, …, K − 1.
        num_classes: K.
        alpha: α, the share that may be missed.
        mask: bool of the labels' shape, True where an example counts; `None` for all.

    Returns:
        [K], float32.

    Raises:
        ValueError: α is not in (0, 1), shapes that do not match, a score is NaN, labels outside the range, no score.

    Example:
        >>> import numpy as np, bdl
        >>> labels = np.array([0, 0, 0, 0, 1, 1])
        >>> bdl.conformal.by_class(np.arange(6.0), labels, num_classes=2, alpha=0.25)
        Array([ 3., inf], dtype=float32)

    Reference:
        Vovk (2012), Conditional validity of inductive conformal predictors, https://arxiv.org/abs/1209.2673
    """
    fraction = check_alpha("by_class", alpha)
    if np.shape(scores) != np.shape(labels) or num_classes < 1:
        raise ValueError(
            f"by_class: expected scores and labels of one shape and num_classes of at least 1, got {np.shape(scores)}, "
            f"{np.shape(labels)} and {num_classes}."
        )
    if not is_traced((labels, mask)):
        check_labels("by_class", np.asarray(labels)[... if mask is None else np.asarray(mask)], num_classes)
    kept, _ = given_scores("by_class", scores, mask)
    keep = jnp.ones(kept.shape, bool) if mask is None else jnp.asarray(mask).reshape(-1)
    return _thresholds(kept, jnp.asarray(labels).reshape(-1), keep, num_classes, fraction)


@functools.partial(jax.jit, static_argnums=3)
def _thresholds(
    scores: jax.Array, labels: jax.Array, keep: jax.Array, num_classes: int, alpha: tuple[Any, Any]
) -> jax.Array:
    def one(k: jax.Array) -> jax.Array:
        own = keep & (labels == k.astype(labels.dtype))
        return smallest(jnp.where(own, scores, jnp.inf), jnp.sum(own, dtype=jnp.int32), alpha)

    return jax.lax.map(one, jnp.arange(num_classes, dtype=jnp.int32))
