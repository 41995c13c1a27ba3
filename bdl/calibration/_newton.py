"""The minimum of a smooth convex function of a few hundred numbers: Newton steps by conjugate gradients."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

_STEPS, _HALVINGS = 60, 20
_NOISE = 1e-6  # of a float32 mean over examples, relative to its size


def minimise(
    objective: Callable[[jax.Array], jax.Array], start: jax.Array, *, tolerance: float = 2e-6
) -> tuple[jax.Array, jax.Array]:
    """The minimum [D] of a convex `objective` of [D], and whether its gradient is below `tolerance` there.

    Each step solves H d = −g by conjugate gradients, with products of the Hessian H and no matrix, and is halved until
    the objective falls, so that the iteration cannot diverge. Parameters are best of scale one.
    """
    slope, both = jax.grad(objective), jax.value_and_grad(objective)

    def unfinished(state: Any) -> jax.Array:
        step, _, converged, moved = state
        return (step < _STEPS) & ~converged & moved

    def advance(state: Any) -> Any:
        step, theta, _, _ = state
        value, gradient = both(theta)
        converged = jnp.max(jnp.abs(gradient)) <= tolerance
        direction, _ = jax.scipy.sparse.linalg.cg(
            lambda v: jax.jvp(slope, (theta,), (v,))[1], -gradient, tol=1e-3, maxiter=min(theta.size, 200)
        )
        # Sufficient decrease, up to the rounding of the objective, below which the last steps are.
        expected = 1e-4 * jnp.vdot(gradient, direction) + _NOISE * jnp.abs(value)
        size = lambda trial: 0.5 ** trial.astype(jnp.float32)
        better = lambda trial: objective(theta + size(trial) * direction) <= value + size(trial) * expected
        trial = jax.lax.while_loop(
            lambda trial: ~better(trial) & (trial < _HALVINGS), lambda trial: trial + 1, jnp.int32(0)
        )
        moved = trial < _HALVINGS
        return step + 1, jnp.where(moved & ~converged, theta + size(trial) * direction, theta), converged, moved

    first = (jnp.int32(0), start, jnp.bool_(False), jnp.bool_(True))
    _, theta, converged, _ = jax.lax.while_loop(unfinished, advance, first)
    return theta, converged
