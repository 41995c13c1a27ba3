"""A detector: from inputs to scores, higher for what is less like its training data, and decisions from them."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bdl._data_checks import is_traced


class Detector(eqx.Module):
    """Scores of inputs, higher = more out-of-distribution, and what held-out inliers say of them.

    Any function from inputs to scores [N] makes one; those of `bdl.ood` return one. To decide, and not only to score,
    it needs inliers that neither the network nor the detector was fitted to: `detector = detector.held_out(x)`.

    Attributes:
        score: from inputs, examples along axis 0, to [N].
        inliers: the scores of held-out inliers, [M] in ascending order; `None` before `held_out`.

    Example:
        >>> import jax.numpy as jnp, bdl.ood
        >>> detector = bdl.ood.Detector(lambda x: jnp.abs(x)).held_out(jnp.linspace(-1, 1, 201))
        >>> detector(jnp.array([0.5, 3.0])), detector.flag(jnp.array([0.5, 3.0]))
        (Array([0.5, 3. ], dtype=float32), Array([False,  True], dtype=bool))
        >>> detector.p_value(jnp.array([0.5, 3.0])).round(3)
        Array([0.505, 0.005], dtype=float32)
    """

    score: Callable[[Any], jax.Array]
    inliers: jax.Array | None = None

    def __call__(self, x: Any) -> jax.Array:
        """The scores [N] of inputs, float32.

        Raises:
            ValueError: a score is not finite.
        """
        found = jnp.asarray(self.score(x)).astype(jnp.float32)
        if not is_traced(found) and not np.isfinite(found).all():
            raise ValueError(
                f"ood: {int((~np.isfinite(found)).sum())} of {found.size} scores are not finite. Look for inputs that "
                "are not, or that are far larger than those of the fit: standardise them alike."
            )
        return found

    def held_out(self, x: Any) -> "Detector":
        """The same detector, with the scores of held-out inliers to decide by.

        Raises:
            ValueError: there is no inlier.
        """
        scores = jnp.sort(jnp.ravel(self(x)))
        if not len(scores):
            raise ValueError("ood: expected held-out inliers, got none. Pass at least 1 / (1 − tpr) of them.")
        return Detector(self.score, scores)

    def threshold(self, tpr: float = 0.95) -> jax.Array:
        """The score that a share `tpr` of the held-out inliers does not exceed, the smallest of theirs.

        Raises:
            ValueError: there are no held-out inliers, or `tpr` is not in (0, 1].
        """
        inliers = self._inliers()
        if not 0 < tpr <= 1:
            raise ValueError(f"ood: expected `tpr` in (0, 1], the share of inliers to keep, got {tpr}.")
        rank = int(np.ceil(tpr * len(inliers) * (1 - 1e-12)))  # 0.07 · 100 is a little above 7
        return inliers[rank - 1]

    def flag(self, x: Any, tpr: float = 0.95) -> jax.Array:
        """Which inputs are out-of-distribution, bool [N]: those above the threshold."""
        return self(x) > self.threshold(tpr)

    def p_value(self, x: Any) -> jax.Array:
        """The conformal p-value of each input, [N]: (1 + #{inliers with this score or a higher one}) / (M + 1).

        For a new inlier, exchangeable with those held out, P(p ≤ α) ≤ α.

        Raises:
            ValueError: there are no held-out inliers.
        """
        inliers = self._inliers()
        above = len(inliers) - jnp.searchsorted(inliers, self(x), side="left")
        return (1 + above).astype(jnp.float32) / (len(inliers) + 1)

    def _inliers(self) -> jax.Array:
        if self.inliers is None:
            raise ValueError(
                "ood: this detector has no held-out inliers to decide by. Make them known: "
                "detector = detector.held_out(x_validation)."
            )
        return self.inliers
