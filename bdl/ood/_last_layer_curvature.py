"""The curvature of a likelihood of classes in the weights of the last layer: in one pass, and mergeable."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bdl.ood import _feature_checks as checks
from bdl.ood._class_moments import scatter_root, triangular


class LastLayerCurvature(eqx.Module):
    """The curvature of the negative log-likelihood in a last layer's weights; those of two data sets merge.

    Of H = Σₙ wₙ Φₙ Φₙᵀ it keeps R of H = Rᵀ R, by QR decompositions: R in float32 has the digits that H loses.

    Attributes:
        root: R, [1, D, D], or one for each class, [K, D, D]; upper triangular.
        count: the number of examples, int32.
    """

    root: jax.Array
    count: jax.Array

    def merge(self, other: "LastLayerCurvature") -> "LastLayerCurvature":
        """The curvature of both data sets.

        Raises:
            ValueError: one is of other features, or one is per class and the other is not.
        """
        if self.root.shape != other.root.shape:
            raise ValueError(
                f"LastLayerCurvature: expected roots of one shape, got {self.root.shape} and {other.root.shape}. Take "
                "both of one network's features, with the same per_class."
            )
        return LastLayerCurvature(stacked(self.root, other.root), self.count + other.count)


def last_layer_curvature(features: Any, kernel: Any = None, *, per_class: bool = False) -> LastLayerCurvature:
    """Σₙ pₙ (1 − pₙ) Φₙ Φₙᵀ of a batch of features, for `gaussian_process`; those of further batches merge into it.

    Args:
        features, kernel, per_class: as in `gaussian_process`.

    Raises:
        ValueError: shapes that do not match, numbers that are not finite, `per_class` without a kernel.

    Example:
        >>> import jax.numpy as jnp, bdl.ood
        >>> curvature = bdl.ood.last_layer_curvature(jnp.array([[3.0]]))
        >>> both = curvature.merge(bdl.ood.last_layer_curvature(jnp.array([[4.0]])))
        >>> abs(both.root).round(3), both.count
        (Array([[[5.]]], dtype=float32), Array(2, dtype=int32))
    """
    features = checks.features("last_layer_curvature", features)
    count = jnp.asarray(len(features), jnp.int32)
    if kernel is None:
        if per_class:
            raise ValueError("last_layer_curvature: per_class=True is about the classes of a kernel. Pass kernel=.")
        return LastLayerCurvature(_curvature(features, jnp.ones((1, len(features)))), count)
    kernel = checked_kernel("last_layer_curvature", kernel, features.shape[1])
    weights = _weights(last_logits(features, kernel), per_class)
    return LastLayerCurvature(_curvature(features, weights), count)


def checked_kernel(name: str, kernel: Any, width: int) -> jax.Array:
    """The last layer's kernel [D, K] as float32, checked.

    Raises:
        ValueError: the shape is another, or a number is not finite.
    """
    shape = np.shape(kernel)
    if len(shape) != 2 or shape[0] != width or not shape[1]:
        raise ValueError(
            f"{name}: expected the last layer's kernel [{width}, K], one row for each feature, got shape {shape}. That "
            'of bdl.ood.random_features is params["head"]["kernel"]; of PyTorch pass weight.T.'
        )
    return checks.finite(name, "kernel", kernel)


@jax.jit
def last_logits(features: jax.Array, kernel: jax.Array) -> jax.Array:
    """The logits Φᵀ β, [N, K]."""
    return jnp.matmul(features, kernel, precision="highest")


@eqx.filter_jit
def _weights(logits: jax.Array, per_class: bool) -> jax.Array:
    """Variances p (1 − p) of each class [K, N], or of the likeliest [1, N]; [1, N] of the one logit of two classes."""
    single = logits.shape[1] == 1
    if single:
        logits = jnp.concatenate([logits, jnp.zeros_like(logits)], 1)
    parts = jnp.exp(logits - logits.max(1, keepdims=True))
    # 1 − p is the sum of the others' probabilities, which has digits where p rounds to 1.
    others = jnp.matmul(parts, 1 - jnp.eye(parts.shape[1]), precision="highest")
    weights = parts * others / parts.sum(1, keepdims=True) ** 2
    if per_class and not single:
        return weights.T
    return jnp.take_along_axis(weights, logits.argmax(1)[:, None], 1).T


@jax.jit
def _curvature(features: jax.Array, weights: jax.Array) -> jax.Array:
    """R of Rᵀ R = Σₙ wₙ Φₙ Φₙᵀ for each row of weights [C, N]."""
    zero = jnp.zeros(features.shape[1])
    return jax.lax.map(lambda w: scatter_root(jnp.sqrt(w)[:, None] * features, zero), weights)


@jax.jit
def stacked(one: jax.Array, other: jax.Array) -> jax.Array:
    """R of Rᵀ R = R₁ᵀ R₁ + R₂ᵀ R₂, for stacks [C, D, D]."""
    return jax.lax.map(lambda roots: triangular(jnp.concatenate(roots)), (one, other))
