"""The energy of the logits that only the weights that contribute most make."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from bdl.ood import _feature_checks as checks
from bdl.ood._class_moments import column_means
from bdl.ood._detector import Detector
from bdl.ood._last_layer import LastLayer


class Sparsified(eqx.Module):
    """The score of `dice`.

    Attributes:
        last_layer: from features to logits, with zeros for the weights that were taken out.
    """

    last_layer: LastLayer

    def __call__(self, features: Any) -> jax.Array:
        """The energy of the logits, [N]."""
        return _energy(self.last_layer, checks.features("dice", features, self.last_layer.width))


def dice(features: Any, kernel: Any, bias: Any, *, sparsity: float = 0.9) -> Detector:
    """The energy after the last layer was made sparse, DICE (higher = more out-of-distribution, nats):

        score(f) = −log Σ_k exp(f (M ⊙ W) + b)_k,   M_dk = 1 where the mean contribution E[f_d] W_dk is one of the
        largest of all, else 0.

    Args:
        features: of inliers, such as the training data, [N, D]: the inputs of the last layer.
        kernel: W of the last layer, [D, K].
        bias: b of the last layer, [K].
        sparsity: the share of weights that are set to 0, in (0, 1).

    Returns:
        A `Detector` of features [N, D]. Its `score.last_layer.kernel` is M ⊙ W.

    Raises:
        ValueError: shapes that do not match, numbers that are not finite, a share out of its range.

    Reference:
        Sun and Li (2022), DICE: leveraging sparsification for out-of-distribution detection,
        https://arxiv.org/abs/2111.09805

    Example:
        >>> import jax.numpy as jnp, bdl.ood
        >>> kernel = jnp.array([[1.0, 3.0], [5.0, 2.0]])
        >>> bdl.ood.dice(jnp.array([[2.0, 1.0]]), kernel, jnp.zeros(2), sparsity=0.5).score.last_layer.kernel
        Array([[0., 3.],
               [5., 0.]], dtype=float32)
    """
    last_layer = LastLayer.checked("dice", kernel, bias)
    features = checks.features("dice", features, last_layer.width)
    contribution = column_means(features)[:, None] * last_layer.kernel
    keep = contribution > jnp.quantile(contribution, checks.share("dice", "sparsity", sparsity))
    return Detector(Sparsified(LastLayer(jnp.where(keep, last_layer.kernel, 0.0), last_layer.bias)))


@jax.jit
def _energy(last_layer: LastLayer, features: jax.Array) -> jax.Array:
    return last_layer.energy(features)
