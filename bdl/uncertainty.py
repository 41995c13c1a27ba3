"""The split of uncertainty: aleatoric, what the data cannot tell; epistemic, what the model does not know."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import entr
from numpyro.distributions import CategoricalLogits, CategoricalProbs, Distribution

from bdl._moments import Moments


class Prediction(eqx.Module):
    """The prediction of a regression, in the targets' unit (variances in its square), of the targets' shape [N, ...].

    The law of total variance splits the predictive variance: variance = aleatoric + epistemic.

    Attributes:
        mean: E[y].
        variance: Var(y).
        aleatoric: E[Var(y | w)], the noise.
        epistemic: Var(E[y | w]), over draws of the weights.
        standard_error: the Monte Carlo standard error of `mean`.
        num_samples: the number of draws, S.
        quantiles: [Q, N, ...], of the predictive mixture, where asked for.
        draws: the network's outputs for each draw, [S, N, ...], where asked for.

    Reference:
        Kendall and Gal (2017), What uncertainties do we need in Bayesian deep learning for computer vision?
        https://arxiv.org/abs/1703.04977
    """

    mean: jax.Array
    variance: jax.Array
    aleatoric: jax.Array
    epistemic: jax.Array
    standard_error: jax.Array
    num_samples: jax.Array
    quantiles: jax.Array | None = None
    draws: Any = None


class ClassPrediction(eqx.Module):
    """The prediction of a classification, in nats: entropy = aleatoric + epistemic.

    Attributes:
        probs: E[p(y | w)], [N, ..., K].
        entropy: of `probs`, [N, ...].
        aleatoric: the expected entropy E[H(p(y | w))].
        epistemic: the mutual information of target and weights, entropy − aleatoric. Its bias is O(1 / S).
        standard_error: the Monte Carlo standard error of `probs`.
        num_samples: the number of draws, S.
        draws: the network's outputs for each draw, [S, N, ...], where asked for.

    Reference:
        Depeweg et al. (2018), Decomposition of uncertainty in Bayesian deep learning,
        https://arxiv.org/abs/1710.07283
    """

    probs: jax.Array
    entropy: jax.Array
    aleatoric: jax.Array
    epistemic: jax.Array
    standard_error: jax.Array
    num_samples: jax.Array
    draws: Any = None


def is_classification(distribution: Distribution) -> bool:
    """Whether a likelihood's distribution is over classes."""
    return isinstance(distribution, CategoricalLogits | CategoricalProbs)


def statistics(distribution: Distribution) -> tuple[jax.Array, jax.Array]:
    """What the split needs of one draw: (E[y | w], Var(y | w)), or (p(y | w), H(p(y | w))) of classes."""
    if is_classification(distribution):
        return distribution.probs, entr(distribution.probs).sum(-1)
    return distribution.mean, distribution.variance


def split(location: Moments, spread: Moments, *, classes: bool, enumerated: bool) -> Prediction | ClassPrediction:
    """The split, from the moments over draws of the two `statistics`.

    Args:
        location: of E[y | w], or of p(y | w).
        spread: of Var(y | w), or of H(p(y | w)).
        classes: whether the likelihood is over classes.
        enumerated: whether the draws are all members of a finite posterior, so that `epistemic` divides by S and not
            by S − 1, and there is no Monte Carlo error.
    """
    count = location.count.astype(jnp.int32)
    error = jnp.zeros_like(location.mean) if enumerated else location.standard_error
    if classes:
        entropy = entr(location.mean).sum(-1)
        information = jnp.maximum(entropy - spread.mean, 0)
        return ClassPrediction(location.mean, entropy, entropy - information, information, error, count)
    epistemic = location.variance(ddof=0 if enumerated else 1)
    return Prediction(location.mean, spread.mean + epistemic, spread.mean, epistemic, error, count)
