"""Variational training with a penalty on outliers that are given."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from bdl._data_checks import check_data, is_traced
from bdl._keys import derive
from bdl._paths import named_leaves
from bdl.inference._base import Algorithm
from bdl.inference._vi import vi
from bdl.model import Model
from bdl.ood.training._step import (
    PenalisedInfo,
    check_number,
    descend,
    distributions,
    log_likelihood,
    measured,
    now,
    per_example,
    rows,
)


class OutlierState(eqx.Module):
    """The state, between steps, of a training with outliers that are given.

    Attributes:
        posterior, model: as fitted so far.
        optimizer: the optimiser's state.
        step: the number of steps taken.
        outliers: all of them, as they were given.
        num_data: the size N of the data set, without them.
    """

    posterior: Any
    model: Model
    optimizer: Any
    step: jax.Array
    # Here, and not in the step's closure: a program has its constants in its text, and megabytes of it take seconds.
    outliers: Any
    num_data: float = eqx.field(static=True)


def with_outliers(
    name: str,
    optimizer: optax.GradientTransformation,
    outliers: Any,
    penalty: Callable[[Any, Any], tuple[jax.Array, ...]],
    *,
    weight: Any,
    outlier_batch_size: int | None,
    num_samples: int,
    noise: str,
    kl_weight: Any,
) -> Algorithm:
    """Descend −ELBO / N + weight · penalty, each step with the inliers of its batch and outliers of its own.

    Both go through the network as one batch, with the same draws of the weights and the same batch normalisation.

    Args:
        name: of the algorithm, for the messages.
        optimizer: of posterior and model.
        outliers: [M, ...], like the inputs.
        penalty: `penalty(inside, outside) -> terms`, of the distributions at the inliers and at the outliers. The terms
            are [N, ...] each, and the penalty is the sum of their means over examples.
        weight, outlier_batch_size, num_samples, noise, kl_weight: as in `confidence_loss`.

    Raises:
        ValueError: the outliers are empty or not finite, or a number is out of its range; by `step`, the outliers are
            not like the inputs.
    """
    outliers = jax.tree.map(jnp.asarray, outliers)
    if not is_traced(outliers):
        check_data(outliers)
    check_number(name, "weight", weight)
    if outlier_batch_size is not None and outlier_batch_size < 1:
        raise ValueError(f"{name}: expected `outlier_batch_size` of at least 1, got {outlier_batch_size}.")
    start = vi(optimizer).init

    def init(key: Any, posterior: Any, model: Model, *, num_data: float) -> OutlierState:
        state = start(key, posterior, model, num_data=num_data)
        return OutlierState(state.posterior, state.model, state.optimizer, state.step, outliers, state.num_data)

    def step(key: Any, state: OutlierState, batch: tuple[Any, Any]) -> tuple[OutlierState, PenalisedInfo]:
        x, y = batch
        check_alike(name, state.outliers, x)
        inside = rows(x)
        drawn = draw_rows(derive(key, "outliers"), state.outliers, outlier_batch_size or inside)

        def measure(likelihood: Any, outputs: Any, key: Any, y: Any) -> tuple[jax.Array, jax.Array]:
            at_inliers, at_outliers = distributions(likelihood, outputs, key, inside)
            terms = penalty(at_inliers, at_outliers)
            return log_likelihood(likelihood, at_inliers, y), jnp.sum(jnp.stack([per_example(t) for t in terms]))

        def loss(posterior: Any, model: Model) -> Any:
            (fit, excess), kl, network_state = measured(
                key, posterior, model, (both(x, drawn), y), measure,
                num_data=state.num_data, num_samples=num_samples, noise=noise,
            )  # fmt: skip
            # −ELBO / N + weight · penalty
            divergence = now(kl_weight, state.step) * kl
            total = divergence / state.num_data - fit + now(weight, state.step) * excess
            scaled = state.num_data * fit
            return total, (network_state, (scaled - divergence, scaled, kl, excess))

        state, (elbo, fit, kl, excess), norm = descend(optimizer, state, loss)
        return state, PenalisedInfo(elbo, fit, kl, norm, excess)

    return Algorithm(init, step)


def draw_rows(key: jax.Array, tree: Any, count: int) -> Any:
    """`count` rows, drawn with replacement."""
    chosen = jax.random.randint(key, (count,), 0, rows(tree))
    return jax.tree.map(lambda a: a[chosen], tree)


def both(first: Any, second: Any) -> Any:
    """The rows of one, and after them those of the other."""
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second)


def check_alike(name: str, outliers: Any, x: Any, what: str = "outliers") -> None:
    """Whether outliers have the names, shapes and types of the inputs, but for their number.

    Raises:
        ValueError: they have not.
    """
    expected, found = ({path: (a.shape[1:], a.dtype) for path, a in named_leaves(t).items()} for t in (x, outliers))
    if expected == found:
        return
    raise ValueError(
        f"{name}: expected {what} like the inputs, {_described(expected)}, got {_described(found)}. Resize, rescale "
        "and cast them as the inputs were."
    )


def _described(leaves: dict[str, Any]) -> str:
    one = [
        f"{f'{path} ' * bool(path)}{dtype}[N{''.join(f', {s}' for s in shape)}]"
        for path, (shape, dtype) in leaves.items()
    ]
    return ", ".join(one)
