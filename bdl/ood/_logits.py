"""Scores of one network's logits, higher = more out-of-distribution. Each of them makes a `Detector` as it is."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from bdl.ood._logit_checks import as_logits, check_positive


def max_softmax(logits: Any, *, temperature: Any = 1.0) -> jax.Array:
    """The probability of all classes but the likeliest (higher = more out-of-distribution, in [0, 1 − 1/K]):

        1 − maxₖ pₖ,   p = softmax(logits / T).

    The order is that of −maxₖ pₖ, the baseline of the field, without its ties: float32 rounds a maximum above
    1 − 3e-8 to 1, and keeps what is left.

    Args:
        logits: [..., K]; the logarithms of the probabilities of a `bdl.ClassPrediction` are logits.
        temperature: T > 0.

    Returns:
        [...], float32.

    Raises:
        ValueError: fewer than two classes, logits that are not finite, a temperature that is not above 0.

    Reference:
        Hendrycks and Gimpel (2017), A baseline for detecting misclassified and out-of-distribution examples in neural
        networks, https://arxiv.org/abs/1610.02136

    Example:
        >>> import jax.numpy as jnp, bdl.ood
        >>> bdl.ood.max_softmax(jnp.log(jnp.array([[0.7, 0.2, 0.1], [0.4, 0.3, 0.3]]))).round(3)
        Array([0.3, 0.6], dtype=float32)
    """
    check_positive("max_softmax", "temperature", temperature)
    return _max_softmax(as_logits("max_softmax", logits), temperature)


def max_logit(logits: Any) -> jax.Array:
    """The largest logit with its sign turned (higher = more out-of-distribution, in the logits' unit): −maxₖ zₖ.

    Args:
        logits: [..., K]. Softmax does not see a shift of all logits, this score does: of probabilities it says no more
            than `max_softmax`.

    Returns:
        [...], float32.

    Raises:
        ValueError: fewer than two classes, or logits that are not finite.

    Reference:
        Hendrycks et al. (2022), Scaling out-of-distribution detection for real-world settings,
        https://arxiv.org/abs/1911.11132

    Example:
        >>> import jax.numpy as jnp, bdl.ood
        >>> bdl.ood.max_logit(jnp.array([[9.0, 1.0], [2.0, 1.0]]))
        Array([-9., -2.], dtype=float32)
    """
    return -as_logits("max_logit", logits).max(-1)


def energy(logits: Any, *, temperature: Any = 1.0) -> jax.Array:
    """The free energy (higher = more out-of-distribution, in the logits' unit):

        E = −T log Σₖ exp(zₖ / T).

    Args:
        logits: [..., K], as in `max_logit`: log-probabilities all have the energy 0.
        temperature: T > 0.

    Returns:
        [...], float32.

    Raises:
        ValueError: fewer than two classes, logits that are not finite, a temperature that is not above 0.

    Reference:
        Liu et al. (2020), Energy-based out-of-distribution detection, https://arxiv.org/abs/2010.03759

    Example:
        >>> import jax.numpy as jnp, bdl.ood
        >>> bdl.ood.energy(jnp.array([[9.0, 1.0], [0.0, 0.0]])).round(3)
        Array([-9.   , -0.693], dtype=float32)
    """
    check_positive("energy", "temperature", temperature)
    return _energy(as_logits("energy", logits), temperature)


def entropy(logits: Any) -> jax.Array:
    """The entropy of the softmax (higher = more out-of-distribution, in nats): −Σₖ pₖ log pₖ.

    Args:
        logits: [..., K].

    Returns:
        [...], float32, in [0, log K].

    Raises:
        ValueError: fewer than two classes, or logits that are not finite.

    Example:
        >>> import jax.numpy as jnp, bdl.ood
        >>> bdl.ood.entropy(jnp.array([[9.0, 0.0], [0.0, 0.0]])).round(4)
        Array([0.0012, 0.6931], dtype=float32)
    """
    return _entropy(as_logits("entropy", logits))


def generalised_entropy(logits: Any, *, gamma: float = 0.1, top: int = 100) -> jax.Array:
    """The generalised entropy of the likeliest classes, GEN (higher = more out-of-distribution, no unit):

        Σ over the M largest pₖ of pₖ^γ (1 − pₖ)^γ.

    A small γ makes much of small departures from a prediction that is certain.

    Args:
        logits: [..., K].
        gamma: γ in (0, 1).
        top: M; all classes where there are fewer. The paper has 100 of 1,000, and all of 10.

    Returns:
        [...], float32.

    Raises:
        ValueError: fewer than two classes, logits that are not finite, γ or M out of their ranges.

    Reference:
        Liu, Lochman and Zach (2023), GEN: Pushing the limits of softmax-based out-of-distribution detection,
        https://openaccess.thecvf.com/content/CVPR2023/html/Liu_GEN_Pushing_the_Limits_of_Softmax-Based_Out-of-Distribution_Detection_CVPR_2023_paper.html

    Example:
        >>> import jax.numpy as jnp, bdl.ood
        >>> bdl.ood.generalised_entropy(jnp.array([[20.0, 0.0], [0.0, 0.0]]))
        Array([0.2706..., 1.7411...], dtype=float32)
    """
    check_positive("generalised_entropy", "gamma", gamma)
    if not isinstance(top, int) or top < 1:
        raise ValueError(f"generalised_entropy: expected top= as a whole number of at least 1, got {top!r}.")
    if gamma >= 1:
        raise ValueError(f"generalised_entropy: expected gamma in (0, 1), got {gamma}.")
    logits = as_logits("generalised_entropy", logits)
    return _generalised_entropy(logits, gamma, min(top, logits.shape[-1]))


def log_odds(logits: jax.Array) -> jax.Array:
    """The log odds log((1 − p) / p) of the likeliest class, [...]: to the last digit also where p rounds to 1."""
    z, others = _without_top(logits)
    return jax.nn.logsumexp(jnp.where(others, z, -jnp.inf), -1)


def _without_top(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The logits less their maximum, and which of them are not that of the likeliest class."""
    top = jnp.argmax(logits, -1, keepdims=True)
    classes = jnp.arange(logits.shape[-1], dtype=top.dtype).reshape(*[1] * (logits.ndim - 1), -1)
    return logits - jnp.take_along_axis(logits, top, -1), classes != top


@jax.jit
def _max_softmax(logits: jax.Array, temperature: Any) -> jax.Array:
    return jax.nn.sigmoid(log_odds(logits / temperature))


@jax.jit
def _energy(logits: jax.Array, temperature: Any) -> jax.Array:
    # E = −T log Σ exp(z / T)
    return -temperature * jax.nn.logsumexp(logits / temperature, -1)


@jax.jit
def _entropy(logits: jax.Array) -> jax.Array:
    # H = Σ p (−log p): no term is negative, so that nothing cancels where the entropy is near 0.
    log_probs, _ = _log_probs(logits)
    return jnp.sum(jnp.exp(log_probs) * -log_probs, -1)


@functools.partial(jax.jit, static_argnames="top")
def _generalised_entropy(logits: jax.Array, gamma: Any, top: int) -> jax.Array:
    # p^γ (1 − p)^γ = exp(γ (log p + log(1 − p)))
    terms = jnp.exp(gamma * sum(_log_probs(logits)))
    if top < logits.shape[-1]:
        terms = jnp.take_along_axis(terms, jax.lax.top_k(logits, top)[1], -1)
    return terms.sum(-1)


def _log_probs(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The logarithms of p and of 1 − p, [..., K] each; of the likeliest class by its log odds: p may round to 1."""
    z, others = _without_top(logits)
    odds = jax.nn.logsumexp(jnp.where(others, z, -jnp.inf), -1, keepdims=True)
    log_probs = z + jax.nn.log_sigmoid(-odds)
    rest = jnp.log1p(-jnp.where(others, jnp.exp(log_probs), 0.0))
    return log_probs, jnp.where(others, rest, jax.nn.log_sigmoid(odds))
