"""Adaptive conformal inference: intervals of a series whose distribution drifts."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bdl._data_checks import is_traced
from bdl.conformal._checks import check_alpha, given_scores


class AdaptiveState(eqx.Module):
    """What the next step needs.

    Attributes:
        alpha: α_t, which may leave [0, 1].
        scores: the last n scores, [n], oldest first.
    """

    alpha: jax.Array
    scores: jax.Array

    @property
    def threshold(self) -> jax.Array:
        """The threshold for the next score: the ⌈(1 − α_t)(n + 1)⌉-th smallest of those kept.

        ∞ where that is beyond n, as with α_t ≤ 0, and −∞ where α_t ≥ 1.
        """
        n = self.scores.size
        wanted = jnp.ceil((1 - self.alpha) * (n + 1))
        found = jnp.sort(self.scores)[jnp.clip(wanted.astype(jnp.int32), 1, n) - 1]
        return jnp.where(wanted > n, jnp.inf, jnp.where(wanted < 1, -jnp.inf, found))


class AdaptiveInfo(NamedTuple):
    """What a person wants to see of one step.

    Attributes:
        threshold: with which the step's set was made.
        missed: whether its score was larger.
        alpha: α_t of the step.
    """

    threshold: jax.Array
    missed: jax.Array
    alpha: jax.Array


class Adaptive(NamedTuple):
    """A pair of functions.

    Attributes:
        init: from n scores of the past, [n] or of any shape, to the first state.
        step: from a state and the score that was then observed to the next state and the information.
    """

    init: Callable[[Any], AdaptiveState]
    step: Callable[[AdaptiveState, Any], tuple[AdaptiveState, AdaptiveInfo]]


def adaptive(*, alpha: float, rate: float = 0.005) -> Adaptive:
    """Adaptive conformal inference: α_t goes up after a hit and down after a miss.

        α_{t+1} = α_t + γ (α − 1[score_t > threshold_t])

    The share of misses over any T steps is within (max(α₁, 1 − α₁) + γ) / (γ T) of α, for α₁ = α, whatever the series:
    nothing is assumed of it. It is a promise for the long run, not for a step. The next threshold, `state.threshold`,
    comes from the last n scores, n as at the start; it is ∞ at times, where misses were too many.

    `init` and `step` go through `jax.jit` and `jax.lax.scan`.

    Args:
        alpha: α, the share that may be missed.
        rate: γ > 0; larger follows faster and makes sets less steady.

    Raises:
        ValueError: α is not in (0, 1), or γ is not above 0.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, bdl
        >>> past, scores = np.linspace(0, 1, 50), np.linspace(1, 3, 200)  # errors grow
        >>> algorithm = bdl.conformal.adaptive(alpha=0.1, rate=0.05)
        >>> state, info = jax.lax.scan(algorithm.step, algorithm.init(past), jnp.asarray(scores, jnp.float32))
        >>> round(float(info.missed.mean()), 2)
        0.11

    Reference:
        Gibbs and Candès (2021), Adaptive conformal inference under distribution shift,
        https://arxiv.org/abs/2106.00170
    """
    check_alpha("adaptive", alpha)
    if not (np.isfinite(rate) and rate > 0):
        raise ValueError(f"adaptive: expected a rate above 0, such as 0.005, got {rate}.")

    def init(scores: Any) -> AdaptiveState:
        return AdaptiveState(jnp.float32(alpha), given_scores("adaptive", scores)[0])

    def step(state: AdaptiveState, score: Any) -> tuple[AdaptiveState, AdaptiveInfo]:
        if np.shape(score) != () or not (is_traced(score) or score == score):
            raise ValueError(f"adaptive: expected one score that is a number, got {score}.")
        return _step(state, jnp.asarray(score), jnp.float32(alpha), jnp.float32(rate))

    return Adaptive(init, step)


@jax.jit
def _step(
    state: AdaptiveState, score: jax.Array, alpha: jax.Array, rate: jax.Array
) -> tuple[AdaptiveState, AdaptiveInfo]:
    score, threshold = score.astype(jnp.float32), state.threshold
    missed = score > threshold
    # α_{t+1} = α_t + γ (α − 1[missed])
    following = state.alpha + rate * (alpha - missed.astype(jnp.float32))
    scores = jnp.concatenate([state.scores[1:], score[None]])
    return AdaptiveState(following, scores), AdaptiveInfo(threshold, missed, state.alpha)
