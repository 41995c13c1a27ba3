"""Log-probabilities and logits of the classes, from a likelihood's distribution."""

from typing import Any

import jax
from numpyro import distributions as dist


def class_log_probs(name: str, distribution: Any) -> jax.Array:
    """The log-probabilities log p(y = k), [N, ..., K].

    Raises:
        ValueError: the distribution is not over one class of K.
    """
    if isinstance(distribution, dist.CategoricalProbs | dist.CategoricalLogits) or hasattr(distribution, "mean_logits"):
        return jax.nn.log_softmax(distribution.logits, -1)
    raise ValueError(
        f"{name}: expected a likelihood of one class out of K, got one of {type(distribution).__name__}. Use "
        "bdl.likelihoods.Categorical() and integer labels."
    )


def class_logits(name: str, distribution: Any) -> jax.Array:
    """The network's logits, [N, ..., K], whose sum over k of exp is not normalised.

    Raises:
        ValueError: the distribution has none.
    """
    if isinstance(distribution, dist.CategoricalLogits):
        return distribution.logits
    raise ValueError(
        f"{name}: expected a likelihood whose outputs are logits, got one of {type(distribution).__name__}, which does "
        "not tell them. Use bdl.likelihoods.Categorical()."
    )
