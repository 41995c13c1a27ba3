"""Logits that are Normal: the softmax that their mean and variance come to, and the evidence in them."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdl._data_checks import is_traced
from bdl.ood._logit_checks import as_logits

_PROBIT = math.pi / 8  # the squared width of the probit function that is nearest to the sigmoid


def mean_field_logits(logits: Any, variance: Any, *, factor: float = _PROBIT) -> jax.Array:
    """Logits whose softmax is about the mean of softmax(f) over f ~ Normal(logits, variance):

        f / √(1 + λ v).

    Of two classes, for the one logit of a sigmoid, it is MacKay's approximation, to 0.02. Of more it is a fair one
    where one class is ahead.

    Args:
        logits: the means, [N, ..., K], in nats.
        variance: v ≥ 0, of all of an example's logits, [N, ...], or of each, [N, ..., K] or [N, ..., 1].
        factor: λ ≥ 0; π / 8 for probit, 0 for the logits as they are. It may be tuned as a temperature is, on held-out
            inliers.

    Returns:
        [N, ..., K], float32.

    Raises:
        ValueError: shapes that do not match, a variance that is negative or not finite, a negative factor.

    Reference:
        MacKay (1992), The evidence framework applied to classification networks,
        https://doi.org/10.1162/neco.1992.4.5.720; Lu, Ie and Sha (2020), Mean-field approximation to Gaussian-softmax
        integral with application to uncertainty estimation, https://arxiv.org/abs/2006.07584

    Example:
        >>> import jax, jax.numpy as jnp, bdl.ood
        >>> logits = bdl.ood.mean_field_logits(jnp.array([[4.0, 0.0], [4.0, 0.0]]), jnp.array([0.0, 20.0]))
        >>> [round(float(p), 3) for p in jax.nn.softmax(logits)[:, 0]]
        [0.982, 0.793]
    """
    shape, of_variance = np.shape(logits), np.shape(variance)
    if not shape or of_variance not in (shape, shape[:-1], (*shape[:-1], 1)):
        raise ValueError(
            f"mean_field_logits: expected logits [N, ..., K] and their variance [N, ...], [N, ..., 1] or [N, ..., K], "
            f"got shapes {shape} and {of_variance}. Pass the variance of each example, in the same order."
        )
    if not is_traced(factor) and not 0 <= factor < math.inf:
        raise ValueError(f"mean_field_logits: expected a finite factor of at least 0, got {factor!r}.")
    if not is_traced(variance) and not np.all((np.asarray(variance) >= 0) & np.isfinite(np.asarray(variance))):
        raise ValueError("mean_field_logits: expected a variance that is finite and at least 0. Standard deviations?")
    logits, variance = (jnp.asarray(a).astype(jnp.float32) for a in (logits, variance))
    variance = variance if variance.ndim == logits.ndim else variance[..., None]
    # f / √(1 + λ v)
    return logits * jax.lax.rsqrt(1 + factor * variance)


def dempster_shafer(logits: Any) -> jax.Array:
    """The share of evidence that no class has (higher = more out-of-distribution, in (0, 1)):

        K / (K + Σₖ exp(fₖ)).

    The order is that of the energy. It is a probability of not knowing where logits are evidence: near 0 or below it
    away from the data, as those of `random_features` and `mean_field_logits` are; softmax does not care about the
    level of other networks' logits.

    Args:
        logits: [..., K].

    Returns:
        [...], float32.

    Raises:
        ValueError: fewer than two classes, or logits that are not finite.

    Reference:
        Liu et al. (2020), Simple and principled uncertainty estimation with deterministic deep learning via distance
        awareness, https://arxiv.org/abs/2006.10108; Sensoy, Kaplan and Kandemir (2018), Evidential deep learning to
        quantify classification uncertainty, https://arxiv.org/abs/1806.01768

    Example:
        >>> import jax.numpy as jnp, bdl.ood
        >>> bdl.ood.dempster_shafer(jnp.array([[9.0, -9.0], [0.0, 0.0]])).round(3)
        Array([0. , 0.5], dtype=float32)
    """
    logits = as_logits("dempster_shafer", logits)
    # K / (K + exp(−E)) = sigmoid(log K + E), E the energy
    return jax.nn.sigmoid(math.log(logits.shape[-1]) - jax.nn.logsumexp(logits, -1))
