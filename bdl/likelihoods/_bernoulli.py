"""Yes or no, once or for several labels."""

from typing import Any

import equinox as eqx
from numpyro import distributions as dist


class Bernoulli(eqx.Module):
    """y ~ Bernoulli(σ(f(x))): outputs are logits, targets 0 or 1 (integers or booleans), of one shape [N, ...].

    With outputs [N, L] each of L labels is 0 or 1 by itself, given the weights: multi-label classification.
    `bdl.predict` returns a `bdl.ClassPrediction` with the probability of 1 and an entropy for each label.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> bdl.likelihoods.Bernoulli()(jnp.zeros((1, 3))).probs
        Array([[0.5, 0.5, 0.5]], dtype=float32)
    """

    def __call__(self, outputs: Any, *, key: Any = None) -> dist.Distribution:
        """The distribution of the labels."""
        del key
        return dist.Bernoulli(logits=outputs)
