"""The variance of a last layer's logits, by a Laplace approximation of its weights."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from bdl.ood import _feature_checks as checks
from bdl.ood._detector import Detector
from bdl.ood._last_layer_curvature import LastLayerCurvature, checked_kernel, last_layer_curvature, last_logits, stacked
from bdl.ood._logit_checks import check_positive
from bdl.ood._mean_field import mean_field_logits


class GaussianProcess(eqx.Module):
    """The score of `gaussian_process`.

    Attributes:
        curvature: that of the features it was fitted to.
        kernel: β, [D, K], or `None` where none was given.
        root: R of Σ⁻¹ = Rᵀ R, [1, D, D] or [K, D, D].
    """

    curvature: LastLayerCurvature
    kernel: jax.Array | None
    root: jax.Array

    def __call__(self, features: Any) -> jax.Array:
        """The variance of the likeliest class's logit, [N]."""
        features = checks.features("gaussian_process", features, self.root.shape[-1])
        variances = _variances(self.root, features)
        if self.kernel is None or len(self.root) == 1:
            return variances[:, 0]
        likeliest = last_logits(features, self.kernel).argmax(-1)
        return jnp.take_along_axis(variances, likeliest[:, None], 1)[:, 0]

    def variances(self, features: Any) -> jax.Array:
        """The variance of each logit, [N, K]; [N, 1] where the classes share one."""
        return _variances(self.root, checks.features("gaussian_process", features, self.root.shape[-1]))

    def logits(self, features: Any) -> jax.Array:
        """The logits Φᵀ β, smaller where they are unsure: `mean_field_logits`, [N, K].

        Raises:
            ValueError: the detector was made without a kernel.
        """
        if self.kernel is None:
            raise ValueError(
                "gaussian_process: this detector has no kernel to make logits with. Pass that of the last layer: "
                "gaussian_process(features, kernel)."
            )
        features = checks.features("gaussian_process", features, self.root.shape[-1])
        return mean_field_logits(last_logits(features, self.kernel), _variances(self.root, features))


def gaussian_process(
    features: Any, kernel: Any = None, *, prior_scale: float = 1.0, per_class: bool = False
) -> Detector:
    """The variance of the logits under a Laplace approximation (higher = more out-of-distribution, logits squared):

        score(x) = Φᵀ Σ Φ,   Σ⁻¹ = I / σ² + Σₙ pₙ (1 − pₙ) Φₙ Φₙᵀ,

    of the weights β ~ Normal(0, σ²) of a last layer with logits Φᵀ β, where pₙ is the probability of example n's
    likeliest class. On the features of `random_features` it is the variance of a Gaussian process, σ² far from all data
    and small among them: the detector of SNGP, of one draw or of the mean of the weights. Other features will do, with
    a column of ones for a bias; their variance grows with their length. It is fitted in one pass, and batches merge:
    `gaussian_process(curvature.merge(last_layer_curvature(more, kernel)), kernel)`.

    Args:
        features: Φ of the training data, [N, D], or their `LastLayerCurvature`.
        kernel: β, [D, K]; [D, 1] of `bdl.likelihoods.Bernoulli`. Without one every example counts as much as another,
            Σ⁻¹ = I / σ² + Σₙ Φₙ Φₙᵀ: exact for a regression whose noise is one unit.
        prior_scale: σ > 0, that of the prior which the fit had.
        per_class: one Σ for each class, with the pₙ of that class, K times as much work; the score is the likeliest
            class's. Otherwise they share one.

    Returns:
        A `Detector` of features [N, D]. Its `score.logits` gives mean-field logits [N, K], whose softmax is the
        prediction; its `score.variances` all variances.

    Raises:
        ValueError: shapes that do not match, numbers that are not finite, a scale that is not above 0, `per_class`
            without a kernel.

    Reference:
        Liu et al. (2020), Simple and principled uncertainty estimation with deterministic deep learning via distance
        awareness, https://arxiv.org/abs/2006.10108

    Example:
        >>> import jax.numpy as jnp, bdl.ood
        >>> detector = bdl.ood.gaussian_process(jnp.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]))
        >>> detector(jnp.array([[1.0, 0.0], [0.0, 1.0]])).round(3)
        Array([0.25, 1.  ], dtype=float32)

        The whole of SNGP, from its body to scores and probabilities, is in the documentation under "One pass".
    """
    check_positive("gaussian_process", "prior_scale", prior_scale)
    if isinstance(features, LastLayerCurvature):
        if per_class:
            raise ValueError("gaussian_process: a LastLayerCurvature knows its classes. Leave out per_class.")
        curvature = features
        per_class = len(curvature.root) > 1
    else:
        curvature = last_layer_curvature(features, kernel, per_class=per_class)
    width = curvature.root.shape[-1]
    if kernel is not None:
        kernel = checked_kernel("gaussian_process", kernel, width)
    if per_class and (kernel is None or kernel.shape[1] != len(curvature.root)):
        got = "none" if kernel is None else f"shape {kernel.shape}"
        raise ValueError(
            f"gaussian_process: expected the kernel [{width}, {len(curvature.root)}] that the curvature of each class "
            f"is of, got {got}. Pass the last layer's."
        )
    prior = jnp.broadcast_to(jnp.eye(width) / prior_scale, curvature.root.shape)
    return Detector(GaussianProcess(curvature, kernel, stacked(curvature.root, prior)))


@jax.jit
def _variances(root: jax.Array, features: jax.Array) -> jax.Array:
    # Φᵀ Σ Φ = ‖R⁻ᵀ Φ‖²
    def one(root: jax.Array) -> jax.Array:
        return (jax.scipy.linalg.solve_triangular(root, features.T, trans="T") ** 2).sum(0)

    return jax.lax.map(one, root).T
