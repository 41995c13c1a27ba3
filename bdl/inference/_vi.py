"""Variational inference by stochastic gradients of the ELBO."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from bdl._convolutions import fast_images
from bdl._learned import partition
from bdl.inference._base import Algorithm, StepInfo
from bdl.model import Model
from bdl.objectives import ElboTerms, elbo


class VIState(eqx.Module):
    """The state of `vi` between steps.

    Attributes:
        posterior, model: as fitted so far.
        optimizer: the optimiser's state.
        step: the number of steps taken.
        num_data: the size N of the data set.
    """

    posterior: Any
    model: Model
    optimizer: Any
    step: jax.Array
    num_data: float = eqx.field(static=True)


def vi(
    optimizer: optax.GradientTransformation,
    *,
    num_samples: int = 1,
    noise: str = "local",
    kl_weight: float | Callable[[jax.Array], jax.Array] = 1.0,
    objective: Callable[..., ElboTerms] = elbo,
) -> Algorithm:
    """Variational inference: ascend the ELBO of the posterior, and of whatever the model marks as learned.

    The optimiser sees the gradient of −ELBO / N, so that a learning rate means the same for any size of the data set.
    Keep the algorithm in a variable: two calls of `vi` are two algorithms, and each is compiled by itself.

    Args:
        optimizer: any optax optimiser; it is given the learned half of posterior and model only.
        num_samples: draws of the weights at each step.
        noise: `"local"` or `"shared"`; see `bdl.elbo`.
        kl_weight: the factor on the KL, or an optax schedule of it: warm-up is `optax.linear_schedule(0, 1, steps)`,
            tempering a constant below 1.
        objective: what is ascended: `bdl.elbo`, `bdl.objectives.alpha`, `bdl.objectives.iw_bound` (with
            `noise="shared"` and all data in a batch), or a `functools.partial` of one with options of its own, such as
            `functools.partial(bdl.elbo, sticking_the_landing=True)`.

    Raises:
        ValueError: (by `init`) the posterior has families whose arrays depend on how the network uses the weights, and
            has not seen the network yet. `bdl.fit` shows it by itself.

    Example:
        >>> import jax, jax.numpy as jnp, optax, bdl
        >>> network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.zeros((3, 1))})
        >>> posterior = bdl.variational(network.params, bdl.families.normal(scale=0.1))
        >>> model = bdl.Model(network, bdl.likelihoods.Normal(scale=1.0))
        >>> algorithm = bdl.inference.vi(optax.adam(1e-2))
        >>> state = algorithm.init(jax.random.key(0), posterior, model, num_data=5)
        >>> state, info = algorithm.step(jax.random.key(1), state, (jnp.ones((5, 3)), jnp.ones((5, 1))))
        >>> info.elbo.shape
        ()
    """

    def init(key: Any, posterior: Any, model: Model, *, num_data: float) -> VIState:
        del key
        _refuse_unbound(posterior)
        learned, _ = partition((posterior, model))
        start = jnp.zeros((), jnp.int32)
        return VIState(posterior, model, optimizer.init(learned), start, float(num_data))

    def step(key: Any, state: VIState, batch: tuple[Any, Any]) -> tuple[VIState, StepInfo]:
        learned, fixed = partition((state.posterior, state.model))
        weight = kl_weight(state.step) if callable(kl_weight) else kl_weight

        def negative_elbo(learned: Any) -> Any:
            posterior, model = eqx.combine(learned, fixed)
            terms = objective(
                key, posterior, model, batch,
                num_data=state.num_data, num_samples=num_samples, noise=noise, kl_weight=weight, train=True,
            )  # fmt: skip
            return -terms.elbo / state.num_data, terms

        gradient, terms = fast_images(jax.grad(negative_elbo, has_aux=True))(learned)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, learned)
        posterior, model = eqx.combine(optax.apply_updates(learned, updates), fixed)
        info = StepInfo(terms.elbo, terms.log_likelihood, terms.kl, optax.tree.norm(gradient))
        model = model.with_state(terms.state)
        return VIState(posterior, model, optimizer_state, state.step + 1, state.num_data), info

    return Algorithm(init, step)


def _refuse_unbound(posterior: Any) -> None:
    # Their learned arrays are made by `bind`: an optimiser that has not seen them would leave them still.
    unbound = [path for path, f in getattr(posterior, "families", {}).items() if getattr(f, "awaits_use", False)]
    if unbound:
        raise ValueError(
            f"inference.vi: the families of {', '.join(unbound)} have one number per row or output of the array, and "
            "the network has not been looked at yet. Call `posterior, model = bdl.bind(posterior, model, x)` first; "
            "bdl.fit does so by itself."
        )
