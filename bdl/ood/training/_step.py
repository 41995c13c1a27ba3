"""What every training of this room shares: figures of a draw's outputs, and one step of the optimiser."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from bdl._convolutions import fast_images
from bdl._data_checks import is_traced
from bdl._keys import derive
from bdl._learned import partition
from bdl.inference._base import StepInfo
from bdl.likelihoods import _base as likelihoods
from bdl.likelihoods._base import Likelihood, call
from bdl.model import Model
from bdl.objectives._base import Draws


class PenalisedInfo(StepInfo):
    """What a person wants to see of a step whose loss is −elbo / N + weight · penalty.

    Attributes:
        elbo, log_likelihood, kl: of the data alone, in nats for the whole data set, as those of `bdl.inference.vi`.
        gradient_norm: of the whole loss.
        penalty: what is added to it, before it is weighted; for an example.
    """

    penalty: jax.Array


class Measured(eqx.Module):
    """In the place of a likelihood: figures of the network's outputs in the place of log-probabilities.

    So the weights are drawn and relaxed, the numbers under hyper-priors drawn and the KL taken as objectives do it.
    """

    likelihood: Likelihood
    measure: Callable[..., tuple[jax.Array, ...]] = eqx.field(static=True)

    def __call__(self, outputs: Any, *, key: Any = None) -> Any:
        """What `log_prob` needs, which is no distribution."""
        return outputs, key

    def log_prob(self, given: Any, y: Any) -> jax.Array:
        """The figures, [F]."""
        return jnp.stack(self.measure(self.likelihood, *given, y))


def measured(
    key: Any,
    posterior: Any,
    model: Model,
    data: tuple[Any, Any],
    measure: Callable[..., tuple[jax.Array, ...]],
    *,
    num_data: float,
    num_samples: int,
    noise: str,
    train: bool = True,
) -> tuple[jax.Array, jax.Array, Any]:
    """Figures [F] and KL, means over draws of the weights, and the network's state after the pass.

    Args:
        key, posterior, model, data, num_data, num_samples, noise, train: as in `bdl.elbo`.
        measure: `measure(likelihood, outputs, key, y) -> F scalars`, of the outputs in float32.
    """
    model = dataclasses.replace(model, likelihood=Measured(model.likelihood, measure))
    draws = Draws(
        "ood.training", key, posterior, model, data,
        num_data=num_data, num_samples=num_samples, noise=noise, train=train,
    )  # fmt: skip
    figures, divergences, state = draws.map(lambda figures: figures)
    return figures.mean(0), divergences.mean(), state


def log_likelihood(likelihood: Any, distribution: Any, y: Any) -> jax.Array:
    """The mean over examples of log p(yₙ) in nats, with the weights that training has."""
    terms = likelihoods.log_prob(likelihood, distribution, y)
    return per_example(terms * likelihoods.training_weight(likelihood, distribution, y))


def distributions(likelihood: Any, outputs: Any, key: Any, inside: int) -> tuple[Any, Any]:
    """Those of the first `inside` rows of the outputs, and of the others."""
    first, rest = (jax.tree.map(lambda a, rows=rows: a[rows], outputs) for rows in (slice(inside), slice(inside, None)))
    return call(likelihood, first, derive(key, "inside")), call(likelihood, rest, derive(key, "outside"))


def per_example(terms: jax.Array) -> jax.Array:
    """The mean over axis 0 of sums over all others."""
    return terms.sum(axis=tuple(range(1, terms.ndim))).mean()


def rows(tree: Any) -> int:
    """The number of examples."""
    return int(jax.tree.leaves(tree)[0].shape[0])


def descend(
    optimizer: optax.GradientTransformation, state: Any, loss: Callable[[Any, Any], tuple[jax.Array, tuple[Any, Any]]]
) -> tuple[Any, Any, jax.Array]:
    """One step of `optimizer` on what posterior and model have to learn.

    Args:
        optimizer: its state is `state.optimizer`.
        state: with `posterior`, `model`, `optimizer` and `step`.
        loss: `loss(posterior, model) -> (loss, (the network's state, anything))`.

    Returns:
        the state after it, what the loss gave beside itself, and the norm of the gradient.
    """
    learned, fixed = partition((state.posterior, state.model))

    def of_learned(learned: Any) -> Any:
        return loss(*eqx.combine(learned, fixed))

    gradient, (network_state, told) = fast_images(jax.grad(of_learned, has_aux=True))(learned)
    updates, optimizer_state = optimizer.update(gradient, state.optimizer, learned)
    posterior, model = eqx.combine(optax.apply_updates(learned, updates), fixed)
    after = dataclasses.replace(
        state,
        posterior=posterior,
        model=model.with_state(network_state),
        optimizer=optimizer_state,
        step=state.step + 1,
    )
    return after, told, optax.tree.norm(gradient)


def now(value: Any, step: jax.Array) -> Any:
    """A number, or an optax schedule at this step."""
    return value(step) if callable(value) else value


def check_number(name: str, called: str, value: Any, *, positive: bool = False) -> None:
    """Whether a number, unless it is a schedule or traced, is finite and not negative, or positive.

    Raises:
        ValueError: it is not.
    """
    if callable(value) or is_traced(value):
        return
    if not (np.isfinite(value) and (value > 0 if positive else value >= 0)):
        least = "above 0" if positive else "of at least 0"
        raise ValueError(f"{name}: expected a finite `{called}` {least}, got {value!r}.")
