"""What a stepwise inference algorithm is."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax


class Algorithm(NamedTuple):
    """A pair of pure functions that turns a posterior and a model into a fitted posterior, one batch at a time.

    Attributes:
        init: `init(key, posterior, model, *, num_data) -> state`. The state is a pytree; `state.posterior` and
            `state.model` are usable at any moment.
        step: `step(key, state, (x, y)) -> (state, info)`. The info is a `StepInfo` or any pytree of scalars with a
            field `elbo`-like per-step figure of each term; all of it is recorded in the history.
    """

    init: Callable[..., Any]
    step: Callable[..., Any]


class StepInfo(eqx.Module):
    """What a person wants to see of a step; nats for the whole data set.

    Attributes:
        elbo: the objective (higher is better).
        log_likelihood: its first term, scaled by N / batch.
        kl: its second term, KL of the posterior from the prior.
        gradient_norm: the Euclidean norm of the gradient over all that is learned.
    """

    elbo: jax.Array
    log_likelihood: jax.Array
    kl: jax.Array
    gradient_norm: jax.Array
