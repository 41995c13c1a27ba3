"""Weights over different networks, and what their mixture says: the structural half of epistemic uncertainty."""

import functools
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bdl._data_checks import is_traced
from bdl.diagnostics import _checks
from bdl.uncertainty import ClassPrediction, Prediction
from bdl.uncertainty import entropy as entropy_of

# Within so many nats per example of the best weights.
_GAP = 1e-6
_STEPS = 20_000


class NetworkMixture(eqx.Module):
    """The prediction of a mixture of networks: total = aleatoric + parametric + structural.

    Of a regression all three are variances, in the targets' squared unit, and `mean` is E[y]. Of classes they are
    entropies, in nats, and `mean` is the probabilities.

    Attributes:
        mean: of the mixture.
        total: its variance, or its entropy.
        aleatoric: what each network calls noise, Σₖ vₖ aleatoricₖ.
        parametric: what each does not know of its own weights, Σₖ vₖ epistemicₖ.
        structural: what they do not agree upon: the variance of their means, or the mutual information of the target
            and the choice of the network.
    """

    mean: jax.Array
    total: jax.Array
    aleatoric: jax.Array
    parametric: jax.Array
    structural: jax.Array


def stack(log_predictive: Any) -> jax.Array:
    """Weights of K networks whose mixture predicts best (the sum of log scores is highest):

        v = argmax Σₙ log Σₖ vₖ pₖ(yₙ),   vₖ ≥ 0,   Σₖ vₖ = 1.

    Unlike posterior probabilities of the models, they do not end at a single one when there are more data, where none
    is true; networks that say the same share a weight.

    Args:
        log_predictive: [K, N], the log predictive density of each example under each network: on held-out data
            (`bdl.log_predictive`), or left out (`pointwise` of `bdl.diagnostics.loo`). Not on training data.

    Returns:
        [K], float32. Their mean log score is within 1e-6 nats of the best.

    Raises:
        ValueError: the shape is wrong, or a number is not finite.

    Reference:
        Yao, Vehtari, Simpson and Gelman (2018), Using stacking to average Bayesian predictive distributions,
        https://arxiv.org/abs/1704.02030

    Example:
        >>> import jax.numpy as jnp, bdl.diagnostics
        >>> good_left, good_right = jnp.array([-1.0, -1.0, -9.0]), jnp.array([-9.0, -9.0, -1.0])
        >>> [round(float(v), 2) for v in bdl.diagnostics.stack(jnp.stack([good_left, good_right]))]
        [0.67, 0.33]
    """
    terms = _checks.array(
        "stack", "log_predictive", log_predictive, 2, "a row for each network and a column for each example (jnp.stack)"
    )
    return _stack(terms)


def mix(predictions: Sequence[Any], weights: Any) -> NetworkMixture:
    """The mixture of K networks' predictions at the same inputs, and what of its spread lies between the networks.

    Of a regression, with mₖ the means and m̄ = Σₖ vₖ mₖ:

        Var(y) = Σₖ vₖ aleatoricₖ + Σₖ vₖ epistemicₖ + Σₖ vₖ (mₖ − m̄)².

    Of classes the last term is H(p̄) − Σₖ vₖ H(pₖ).

    Args:
        predictions: K results of `bdl.predict`, of one kind and shape.
        weights: [K], none negative, which sum to 1: from `bdl.diagnostics.stack`, the softmax of
            `bdl.diagnostics.evidence`s, or all 1 / K.

    Raises:
        ValueError: no prediction, or several kinds or shapes; weights that are no probabilities of as many.

    Example:
        >>> import jax, jax.numpy as jnp, bdl, bdl.diagnostics
        >>> network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.ones((1, 1))})
        >>> model, x = bdl.Model(network, bdl.likelihoods.Normal(scale=0.5)), jnp.ones((2, 1))
        >>> constant = lambda w: bdl.variational({"w": w * jnp.ones((1, 1))}, bdl.families.point)
        >>> predictions = [bdl.predict(jax.random.key(0), constant(w), model, x) for w in (1.0, 3.0)]
        >>> mixture = bdl.diagnostics.mix(predictions, jnp.array([0.5, 0.5]))
        >>> float(mixture.mean[0, 0]), float(mixture.structural[0, 0]), float(mixture.total[0, 0])
        (2.0, 1.0, 1.25)
    """
    if not predictions or len({type(p) for p in predictions}) > 1:
        raise ValueError(
            f"mix: expected predictions of one kind, got {sorted({type(p).__name__ for p in predictions})}."
        )
    means = [p.probs if isinstance(p, ClassPrediction) else p.mean for p in predictions]
    if len({m.shape for m in means}) > 1:
        raise ValueError(f"mix: expected predictions at the same inputs, got shapes {[m.shape for m in means]}.")
    weights = _checks.array("mix", "weights", weights, 1, "one number for each prediction")
    if weights.shape[0] != len(means):
        raise ValueError(f"mix: expected {len(means)} weights, one for each prediction, got {weights.shape[0]}.")
    if not is_traced(weights) and (np.min(weights) < 0 or abs(np.sum(weights) - 1) > 1e-3):
        raise ValueError(f"mix: expected weights of at least 0 that sum to 1, got {np.asarray(weights)}.")
    aleatoric, parametric = (jnp.stack([getattr(p, name) for p in predictions]) for name in ("aleatoric", "epistemic"))
    binary = None
    if isinstance(predictions[0], ClassPrediction):
        binary = predictions[0].probs.ndim == predictions[0].entropy.ndim
    elif not isinstance(predictions[0], Prediction):
        raise ValueError(f"mix: expected results of bdl.predict, got {type(predictions[0]).__name__}.")
    return _mix(weights, jnp.stack(means), aleatoric, parametric, binary)


@jax.jit
def _stack(terms: jax.Array) -> jax.Array:
    probs = jnp.exp(terms - terms.max(0, keepdims=True))

    def gradient(weights: jax.Array) -> jax.Array:
        # gₖ = mean pₖ(yₙ) / Σⱼ vⱼ pⱼ(yₙ)
        return (probs / (weights @ probs)[None]).mean(1)

    def go_on(carry: Any) -> jax.Array:
        step, _, gradient_ = carry
        # log maxₖ gₖ bounds the distance to the maximum, for the objective is concave.
        return (step < _STEPS) & (jnp.log(gradient_.max()) > _GAP)

    def update(carry: Any) -> Any:
        step, weights, gradient_ = carry
        # The step of expectation maximisation: it never lowers the objective.
        weights = weights * gradient_
        weights = weights / weights.sum()
        return step + 1, weights, gradient(weights)

    start = jnp.full(terms.shape[0], 1 / terms.shape[0], jnp.float32)
    return jax.lax.while_loop(go_on, update, (jnp.zeros((), jnp.int32), start, gradient(start)))[1]


@functools.partial(jax.jit, static_argnames="binary")
def _mix(weights: jax.Array, means: jax.Array, aleatoric: Any, parametric: Any, binary: bool | None) -> NetworkMixture:
    def average(a: jax.Array) -> jax.Array:
        return jnp.tensordot(weights, a, 1, precision="highest")

    mean = average(means)
    if binary is None:
        structural = average((means - mean[None]) ** 2)
    else:
        structural = jnp.maximum(entropy_of(mean, binary) - average(entropy_of(means, binary)), 0)
    aleatoric, parametric = average(aleatoric), average(parametric)
    return NetworkMixture(mean, aleatoric + parametric + structural, aleatoric, parametric, structural)
