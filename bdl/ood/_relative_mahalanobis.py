"""The distance to the nearest class, less the distance to the data as a whole."""

from typing import Any

import equinox as eqx
import jax

from bdl.ood._detector import Detector
from bdl.ood._mahalanobis import Mahalanobis, fit_mahalanobis, moments_of


class RelativeMahalanobis(eqx.Module):
    """The score of `relative_mahalanobis`.

    Attributes:
        classes: the distance to the nearest class.
        whole: the distance to the data as one Gaussian.
    """

    classes: Mahalanobis
    whole: Mahalanobis

    def __call__(self, features: Any) -> jax.Array:
        """The relative distance, [N]."""
        return self.classes(features) - self.whole(features)


def relative_mahalanobis(features: Any, labels: Any = None, *, num_classes: int | None = None) -> Detector:
    """The relative Mahalanobis distance (higher = more out-of-distribution, no unit, may be negative):

        score(x) = min_c (x − μ_c)ᵀ Σ⁻¹ (x − μ_c) − (x − μ)ᵀ Σ₀⁻¹ (x − μ),

    with μ and Σ₀ of all data without regard to class. What all inputs share does not count, which helps where outliers
    are much like inliers. One class alone has score 0 everywhere, and is refused.

    Args:
        features: [N, D], or the `ClassMoments` of features, without labels.
        labels: [N], integers in 0, …, K − 1.
        num_classes: K ≥ 2, by default one more than the largest label.

    Returns:
        A `Detector` of features [N, D].

    Raises:
        ValueError: as `mahalanobis`, and where there is one class.

    Reference:
        Ren et al. (2021), A simple fix to Mahalanobis distance for improving near-OOD detection,
        https://arxiv.org/abs/2106.09022

    Example:
        >>> import jax.numpy as jnp, bdl.ood
        >>> features = jnp.array([[-1.0, 0.0], [1.0, 0.0], [9.0, 2.0], [11.0, -2.0]])
        >>> detector = bdl.ood.relative_mahalanobis(features, jnp.array([0, 0, 1, 1]))
        >>> [round(float(score), 2) for score in detector(jnp.array([[0.0, 0.0], [5.0, 0.0]]))]
        [-0.98, 50.0]
    """
    moments = moments_of("relative_mahalanobis", features, labels, num_classes)
    if len(moments.counts) < 2:
        raise ValueError("relative_mahalanobis: expected at least two classes, got one. Use bdl.ood.mahalanobis.")
    classes, whole = (fit_mahalanobis("relative_mahalanobis", m) for m in (moments, moments.pooled()))
    return Detector(RelativeMahalanobis(classes, whole))
