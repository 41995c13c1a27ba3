"""The logarithmic score: the log-likelihood of what was observed."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from bdl.metrics._checks import classes
from bdl.metrics._mean import mean as mean_of
from bdl.metrics._regression_checks import normal


def log_likelihood(probs: Any, labels: Any, *, mask: Any = None, average: bool = True) -> jax.Array:
    """The log-likelihood of labels (higher is better, nats):

        log p(yₙ) = log probs[n, yₙ].

    Strictly proper. −∞ where the probability of the label is exactly 0: pass log-probabilities of logits, not rounded
    ones, if that is not meant; nothing is clipped here. Means over batches combine, weighted by their counts.

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
        >>> probs = jnp.array([[0.5, 0.5], [0.25, 0.75]])
        >>> print(f"{bdl.metrics.log_likelihood(probs, jnp.array([0, 1])):.4f}")  # (log ½ + log ¾) / 2
        -0.4904

    Reference:
        Good (1952), Rational decisions, https://doi.org/10.1111/j.2517-6161.1952.tb00104.x
    """
    return _log_likelihood(*classes("log_likelihood", probs, labels, mask), average)


def normal_log_likelihood(mean: Any, scale: Any, targets: Any, *, mask: Any = None, average: bool = True) -> jax.Array:
    """The log density of targets under a Normal (higher is better, nats; it depends on the targets' unit):

        log p(y) = −½ ((y − mean) / scale)² − log scale − ½ log 2π.

    Strictly proper. Of a predictive distribution that is no Normal it is `bdl.log_predictive`.

    Args:
        mean: [...], or one number for all.
        scale: the standard deviation, likewise, above 0.
        targets: [...].
        mask: bool [...], True where a target counts.
        average: whether to return the mean over targets; else one number each, 0 where masked.

    Returns:
        A number, or [...], float32.

    Raises:
        ValueError: shapes that do not match, a scale that is not positive, a number that is not finite, or no target.

    Example:
        >>> import jax.numpy as jnp, bdl.metrics
        >>> print(f"{bdl.metrics.normal_log_likelihood(0.0, 1.0, jnp.array([0.0, 2.0])):.4f}")
        -1.9189
    """
    return _normal_log_likelihood(*normal("normal_log_likelihood", mean, scale, targets, mask), average)


@functools.partial(jax.jit, static_argnames="average")
def _log_likelihood(probs: Any, labels: Any, weights: Any, average: bool) -> jax.Array:
    of_label = jnp.take_along_axis(probs, labels[..., None], -1)[..., 0]
    return mean_of(jnp.log(of_label), weights, average)


@functools.partial(jax.jit, static_argnames="average")
def _normal_log_likelihood(mean: Any, scale: Any, targets: Any, weights: Any, average: bool) -> jax.Array:
    z = (targets - mean) / scale
    # log p(y) = −½ z² − log σ − ½ log 2π
    return mean_of(-0.5 * z * z - jnp.log(scale) - 0.5 * math.log(2 * math.pi), weights, average)
