"""What of the features lies outside of the space of the inliers', weighed against the logits."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from bdl.ood import _feature_checks as checks
from bdl.ood._class_moments import column_means, scatter_root
from bdl.ood._detector import Detector
from bdl.ood._last_layer import LastLayer


class VirtualLogit(eqx.Module):
    """The score of `vim`.

    Attributes:
        last_layer: from features to logits.
        origin: o, [D], where the logits are nearest to 0.
        residual: an orthonormal basis of the space of residuals, [D, D − dim].
        scale: α, of the length of a residual as a logit.
    """

    last_layer: LastLayer
    origin: jax.Array
    residual: jax.Array
    scale: jax.Array

    def __call__(self, features: Any) -> jax.Array:
        """The logit of the virtual class's probability, [N]."""
        return _score(self, checks.features("vim", features, len(self.origin)))


def vim(features: Any, kernel: Any, bias: Any, *, dim: int | None = None) -> Detector:
    """Virtual-logit matching, ViM (higher = more out-of-distribution, nats):

        score(f) = α ‖(f − o)^⊥‖ − log Σ_k exp(f W + b)_k,   o = −b W⁺,   α = Σₙ max_k logitₙₖ / Σₙ ‖(fₙ − o)^⊥‖.

    ⊥ is the part outside of the space of the `dim` principal directions of the inliers around o. With that length as
    one more logit, the score is log p − log(1 − p) of its class's probability p, so that none are tied at p = 1.

    Args:
        features: of inliers, such as the training data, [N, D]: the inputs of the last layer.
        kernel: W of the last layer, [D, K].
        bias: b of the last layer, [K].
        dim: of the principal space, 1 to D − 1; by default D / 2. In the paper 1000 of 2048 and 512 of 768.

    Returns:
        A `Detector` of features [N, D].

    Raises:
        ValueError: shapes that do not match, numbers that are not finite, `dim` out of its range, inliers that lie in
            the principal space.

    Reference:
        Wang et al. (2022), ViM: out-of-distribution with virtual-logit matching, https://arxiv.org/abs/2203.10807

    Example:
        >>> import jax.numpy as jnp, bdl.ood
        >>> features = jnp.array([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> detector = bdl.ood.vim(features, jnp.array([[1.0, -1.0], [0.0, 0.0]]), jnp.zeros(2), dim=1)
        >>> [round(float(score), 3) for score in detector(jnp.array([[2.0, 0.0], [2.0, 3.0]]))]
        [-2.018, 3.982]
    """
    last_layer = LastLayer.checked("vim", kernel, bias)
    features = checks.features("vim", features, last_layer.width)
    if last_layer.width < 2:
        raise ValueError("vim: expected at least two features, got one, which leaves no room for a residual.")
    dim = max(last_layer.width // 2, 1) if dim is None else checks.count("vim", "dim", dim, last_layer.width - 1)
    origin = -jnp.matmul(last_layer.bias, jnp.linalg.pinv(last_layer.kernel), precision="highest")
    _, singular, directions = jnp.linalg.svd(scatter_root(features, origin), full_matrices=False)
    rounding = len(singular) * float(jnp.finfo(jnp.float32).eps) * float(singular[0])
    if not float(singular[dim]) > rounding:
        raise ValueError(
            f"vim: the inliers lie in a space of dimension {int((singular > rounding).sum())}, so that none has a "
            f"residual beside dim={dim}. Pass a smaller dim, or more examples."
        )
    residual = directions[dim:].T
    unscaled = VirtualLogit(last_layer, origin, residual, jnp.float32(1.0))
    return Detector(VirtualLogit(last_layer, origin, residual, _scale(unscaled, features)))


def _length(score: VirtualLogit, features: jax.Array) -> jax.Array:
    square = (jnp.matmul(features - score.origin[None], score.residual, precision="highest") ** 2).sum(-1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


@jax.jit
def _scale(score: VirtualLogit, features: jax.Array) -> jax.Array:
    largest = score.last_layer.logits(features).max(-1)
    return column_means(largest[:, None])[0] / column_means(_length(score, features)[:, None])[0]


@jax.jit
def _score(score: VirtualLogit, features: jax.Array) -> jax.Array:
    return score.scale * _length(score, features) + score.last_layer.energy(features)
