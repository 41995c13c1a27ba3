"""The Brier score of class probabilities."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from bdl.metrics._checks import classes
from bdl.metrics._mean import mean


def brier(probs: Any, labels: Any, *, mask: Any = None, average: bool = True) -> jax.Array:
    """The Brier score of class probabilities (lower is better, from 0 to 2):

        Σₖ (probs[n, k] − [yₙ = k])².

    Strictly proper. The sum over classes, as Brier wrote it: for two classes it is twice the score of one probability,
    (p − y)², that others report. Means over batches combine, weighted by their counts.

    Args:
        probs: [..., K], rows that sum to 1.
        labels: [...], integers in 0, …, K − 1.
        mask: bool [...], True where an example counts.
        average: whether to return the mean over examples; else one number each, 0 where masked.

    Returns:
        A number, or [...], float32.

    Raises:
        ValueError: shapes, probabilities or labels that are none, or no example.

    Example:
        >>> import jax.numpy as jnp, bdl.metrics
        >>> bdl.metrics.brier(jnp.array([[0.5, 0.5], [0.25, 0.75]]), jnp.array([0, 1]), average=False)
        Array([0.5  , 0.125], dtype=float32)

    Reference:
        Brier (1950), Verification of forecasts expressed in terms of probability
    """
    return _brier(*classes("brier", probs, labels, mask), average)


@functools.partial(jax.jit, static_argnames="average")
def _brier(probs: Any, labels: Any, weights: Any, average: bool) -> jax.Array:
    of_label = jax.nn.one_hot(labels, probs.shape[-1], dtype=jnp.float32)
    # Σₖ (pₖ − [y = k])²; its expansion 1 − 2 p_y + Σₖ pₖ² loses the digits of a good prediction.
    return mean(jnp.sum((probs - of_label) ** 2, -1), weights, average)
