"""Learned confidence: the network says how sure it is, and pays for hints."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from numpyro import distributions as dist

from bdl._data_checks import is_traced
from bdl._keys import derive
from bdl.inference._base import Algorithm
from bdl.inference._vi import vi
from bdl.model import Model
from bdl.ood.training._step import PenalisedInfo, check_number, descend, measured, now, per_example, rows

_UP, _DOWN = 1 / 0.99, 1 / 1.01  # the authors' changes of the weight at a step


class CategoricalWithConfidence(eqx.Module):
    """y ~ Categorical(softmax(f(x))), beside a confidence c(x) = sigmoid(g(x)): outputs are [N, ..., K + 1].

    The first K are the logits f, the last one is g; targets are integer classes [N, ...] in [0, K). The probabilities
    of the classes do not depend on the confidence: `learned_confidence` trains it, `unconfidence` reads it.

    Example:
        >>> import jax.numpy as jnp
        >>> from bdl.ood.training import CategoricalWithConfidence
        >>> CategoricalWithConfidence()(jnp.array([[0.0, 0.0, 9.0]])).probs
        Array([[0.5, 0.5]], dtype=float32)
    """

    def __call__(self, outputs: Any, *, key: Any = None) -> dist.Distribution:
        """The distribution of the classes.

        Raises:
            ValueError: the outputs have fewer than three columns.
        """
        del key
        if outputs.ndim < 2 or outputs.shape[-1] < 3:
            raise ValueError(
                "CategoricalWithConfidence takes logits of K >= 2 classes and a confidence, [N, ..., K + 1], but the "
                f"network's outputs have shape {tuple(outputs.shape)}. Give its last layer one unit more than classes."
            )
        return dist.Categorical(logits=outputs[..., :-1])


class ConfidenceState(eqx.Module):
    """The state of `learned_confidence` between steps.

    Attributes:
        posterior, model: as fitted so far.
        optimizer: the optimiser's state.
        step: the number of steps taken.
        weight: λ, of the cost of hints.
        num_data: the size N of the data set.
    """

    posterior: Any
    model: Model
    optimizer: Any
    step: jax.Array
    weight: jax.Array
    num_data: float = eqx.field(static=True)


class ConfidenceInfo(PenalisedInfo):
    """`PenalisedInfo`, and the weight of the penalty at this step.

    Attributes:
        weight: λ.
    """

    weight: jax.Array


def unconfidence(outputs: Any) -> jax.Array:
    """1 − c, of the outputs of a network with a confidence: higher = more out-of-distribution, in [0, 1].

    Args:
        outputs: [N, ..., K + 1], as of `CategoricalWithConfidence`.

    Returns:
        [N, ...], float32.

    Example:
        >>> import jax.numpy as jnp
        >>> from bdl.ood.training import unconfidence
        >>> unconfidence(jnp.array([[5.0, 0.0, 100.0], [5.0, 0.0, 0.0]])).round(3)
        Array([0. , 0.5], dtype=float32)
    """
    # 1 − sigmoid(g) = sigmoid(−g)
    return jax.nn.sigmoid(-jnp.asarray(outputs)[..., -1].astype(jnp.float32))


def learned_confidence(
    optimizer: optax.GradientTransformation,
    *,
    budget: float = 0.3,
    weight: float = 0.1,
    hint_rate: float = 0.5,
    num_samples: int = 1,
    noise: str = "local",
    kl_weight: Any = 1.0,
) -> Algorithm:
    """Train a confidence without labels for it: a network that is unsure may ask for a hint, and pays. Descend

        E[−log p′(y)] + λ E[−log c] + KL(q || prior) / N,   p′ = c p + (1 − c) onehot(y).

    p′ is p with a hint of the answer, the larger the smaller the confidence c. A random half of the examples get none,
    p′ = p, so that the classes are learned. λ rises where a step costs more than the budget, and falls where it costs
    less, so that c is neither always 1 nor always 0.

    The likelihood is `CategoricalWithConfidence`, the network has K + 1 outputs, and `unconfidence` of these is the
    score. It needs no outliers.

    Args:
        optimizer: any optax optimiser; it is given the learned half of posterior and model only.
        budget: β, the mean of −log c, in nats, that λ is driven to. The authors took 0.1 to 1, and 0.3 to begin with.
        weight: λ at the first step.
        hint_rate: the share of examples that may get a hint.
        num_samples: draws of the weights at each step.
        noise: `"local"` or `"shared"`; see `bdl.elbo`.
        kl_weight: the factor on the KL of the posterior from the prior, or an optax schedule of it.

    Returns:
        An algorithm for `bdl.fit`, whose history has `ConfidenceInfo`: `log_likelihood` and `elbo` are those with
        hints, the penalty is the mean of −log c, in nats.

    Raises:
        ValueError: a number is out of its range; in the fit, the likelihood is not `CategoricalWithConfidence`.

    Reference:
        DeVries and Taylor (2018), Learning confidence for out-of-distribution detection in neural networks,
        https://arxiv.org/abs/1802.04865

    Example:
        >>> import jax, jax.numpy as jnp, optax, bdl
        >>> from bdl.ood.training import CategoricalWithConfidence, learned_confidence
        >>> num_classes = 2
        >>> network = bdl.networks.mlp(jax.random.key(0), jnp.ones((1, 2)), num_classes + 1)
        >>> model = bdl.Model(network, CategoricalWithConfidence())
        >>> algorithm = learned_confidence(optax.adam(1e-3))
    """
    check_number("learned_confidence", "budget", budget, positive=True)
    check_number("learned_confidence", "weight", weight, positive=True)
    if not (is_traced(hint_rate) or 0 <= hint_rate <= 1):
        raise ValueError(f"learned_confidence: expected `hint_rate` in [0, 1], got {hint_rate}.")
    start = vi(optimizer).init

    def init(key: Any, posterior: Any, model: Model, *, num_data: float) -> ConfidenceState:
        if not isinstance(model.likelihood, CategoricalWithConfidence):
            raise ValueError(
                "learned_confidence: the likelihood has no confidence. Give the network one output more, and use "
                "bdl.Model(network, bdl.ood.training.CategoricalWithConfidence())."
            )
        state = start(key, posterior, model, num_data=num_data)
        first = jnp.asarray(weight, jnp.float32)
        return ConfidenceState(state.posterior, state.model, state.optimizer, state.step, first, state.num_data)

    def step(key: Any, state: ConfidenceState, batch: tuple[Any, Any]) -> tuple[ConfidenceState, ConfidenceInfo]:
        def measure(likelihood: Any, outputs: Any, key: Any, y: Any) -> tuple[jax.Array, jax.Array]:
            return hinted(derive(key, "hints"), likelihood(outputs), outputs[..., -1], y, hint_rate)

        def loss(posterior: Any, model: Model) -> Any:
            (fit, cost), kl, network_state = measured(
                key, posterior, model, batch, measure,
                num_data=state.num_data, num_samples=num_samples, noise=noise,
            )  # fmt: skip
            divergence = now(kl_weight, state.step) * kl
            scaled = state.num_data * fit
            # −log c is a mean over the elements of an example too, as the budget is for each.
            elements = jnp.size(batch[1]) / rows(batch[1])
            total = divergence / state.num_data - fit + state.weight * elements * cost
            return total, (network_state, (scaled - divergence, scaled, kl, cost))

        after, (elbo, fit, kl, cost), norm = descend(optimizer, state, loss)
        after = dataclasses.replace(after, weight=state.weight * jnp.where(cost > budget, _UP, _DOWN))
        return after, ConfidenceInfo(elbo, fit, kl, norm, cost, state.weight)

    return Algorithm(init, step)


def hinted(key: Any, distribution: Any, confidence: jax.Array, y: Any, hint_rate: Any) -> tuple[jax.Array, jax.Array]:
    """The mean over examples of log p′(y), and that over all elements of −log c, in nats.

    Args:
        key: which examples get hints.
        distribution: of the classes, without hints.
        confidence: its logit, [N, ...].
        y: classes, [N, ...].
        hint_rate: the share of examples that may get a hint.
    """
    chance = jax.random.uniform(key, confidence.shape[:1])
    gets = (chance < hint_rate).reshape(-1, *[1] * (confidence.ndim - 1))
    plain = distribution.log_prob(y)
    sure, unsure = jax.nn.log_sigmoid(confidence), jax.nn.log_sigmoid(-confidence)
    # log (c p_y + 1 − c)
    with_hint = jnp.logaddexp(sure + plain, unsure)
    return per_example(jnp.where(gets, with_hint, plain)), -sure.mean()
