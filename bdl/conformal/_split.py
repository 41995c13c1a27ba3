"""Split conformal: the threshold of scores that a new score exceeds with a probability of at most α."""

from typing import Any

import jax
import jax.numpy as jnp

from bdl.conformal._checks import check_alpha, given_scores, rank


def split(scores: Any, *, alpha: float, mask: Any = None) -> jax.Array:
    """The threshold of split conformal prediction: the ⌈(1 − α)(n + 1)⌉-th smallest of n scores.

        1 − α ≤ P(new score ≤ threshold) = ⌈(1 − α)(n + 1)⌉ / (n + 1), the equality where scores have no ties,

    over draws of the n scores and the new one together, which have to be exchangeable: of the same distribution, and of
    examples that the network was not trained on. It says nothing of one example, or of a group. Where n < 1/α − 1 no
    finite number keeps the promise and the threshold is ∞: the set of all values whose score is at most it is whole.

    Args:
        scores: [n], how badly each prediction fits its target (higher is worse), ∞ allowed. Of any shape; then each
            element is an example.
        alpha: α, the share that may be missed.
        mask: bool of the scores' shape, True where one counts; `None` for all.

    Returns:
        A number, float32.

    Raises:
        ValueError: α is not in (0, 1), a score is NaN, the mask is of another shape, no score.

    Example:
        >>> import numpy as np, bdl
        >>> bdl.conformal.split(np.arange(1.0, 10.0), alpha=0.2), bdl.conformal.split(np.arange(1.0, 9.0), alpha=0.1)
        (Array(8., dtype=float32), Array(inf, dtype=float32))

    Reference:
        Vovk et al. (2005), Algorithmic learning in a random world; Lei et al. (2018), Distribution-free predictive
        inference for regression, https://arxiv.org/abs/1604.04173
    """
    return smallest(*given_scores("split", scores, mask), check_alpha("split", alpha))


@jax.jit
def smallest(scores: jax.Array, count: jax.Array, alpha: tuple[Any, Any]) -> jax.Array:
    """The ⌈(1 − α)(n + 1)⌉-th smallest of n = `count` scores, after which there is ∞ only; ∞ where n is too small."""
    wanted = rank(alpha, count)
    found = jnp.sort(scores)[jnp.minimum(wanted, scores.size) - 1]
    return jnp.where(wanted <= count, found, jnp.inf)
