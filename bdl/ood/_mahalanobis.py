"""The distance to the nearest class, in units of the spread that the classes have in common."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bdl._data_checks import is_traced
from bdl.ood import _feature_checks as checks
from bdl.ood._class_moments import ClassMoments, class_moments, whitening
from bdl.ood._detector import Detector


class Mahalanobis(eqx.Module):
    """The score of `mahalanobis`.

    Attributes:
        moments: those of the features it was fitted to.
        whitening: W, [D, D], of ‖(x − μ) W‖² = (x − μ)ᵀ Σ⁻¹ (x − μ).
        centres: the whitened means, [K, D].
    """

    moments: ClassMoments
    whitening: jax.Array
    centres: jax.Array

    def __call__(self, features: Any) -> jax.Array:
        """The squared distance to the nearest class, [N]."""
        return _nearest(self, checks.features("mahalanobis", features, len(self.whitening)))

    def distances(self, features: Any) -> jax.Array:
        """The squared distances to all classes, [N, K]; the nearest is a classification."""
        return _distances(self, checks.features("mahalanobis", features, len(self.whitening)))


def mahalanobis(features: Any, labels: Any = None, *, num_classes: int | None = None) -> Detector:
    """The squared Mahalanobis distance to the nearest class mean (higher = more out-of-distribution, no unit):

        score(x) = min_c (x − μ_c)ᵀ Σ⁻¹ (x − μ_c),   Σ = (1/N) Σₙ (xₙ − μ_c(n)) (xₙ − μ_c(n))ᵀ.

    Classes are Gaussians with one covariance Σ. It is fitted in one pass. Features that do not vary, and directions
    within rounding of none, are left out: Σ⁻¹ is the pseudo-inverse. Data that come in batches, or classes that come
    later, are moments that merge: `mahalanobis(detector.score.moments.merge(class_moments(new, labels)))`.

    Args:
        features: [N, D], or the `ClassMoments` of features, without labels.
        labels: [N], integers in 0, …, K − 1.
        num_classes: K, by default one more than the largest label.

    Returns:
        A `Detector` of features [N, D]. Its `score.distances` gives the distances to all classes, [N, K].

    Raises:
        ValueError: shapes that do not match, a class without examples, features that do not vary within classes.

    Reference:
        Lee et al. (2018), A simple unified framework for detecting out-of-distribution samples and adversarial attacks,
        https://arxiv.org/abs/1807.03888

    Example:
        >>> import jax.numpy as jnp, bdl.ood
        >>> features = jnp.array([[-1.0, 0.0], [1.0, 0.0], [9.0, 2.0], [11.0, -2.0]])
        >>> detector = bdl.ood.mahalanobis(features, jnp.array([0, 0, 1, 1]))
        >>> detector(jnp.array([[0.0, 0.0], [10.0, 1.0]])).round(3)
        Array([0., 1.], dtype=float32)
    """
    return Detector(fit_mahalanobis("mahalanobis", moments_of("mahalanobis", features, labels, num_classes)))


def moments_of(name: str, features: Any, labels: Any, num_classes: int | None) -> ClassMoments:
    """The moments of labelled features, or those that were given, of classes that all have examples."""
    if isinstance(features, ClassMoments):
        if labels is not None or num_classes is not None:
            raise ValueError(f"{name}: ClassMoments know their classes. Leave out labels and num_classes.")
        moments = features
    elif labels is None:
        raise ValueError(f"{name}: expected features [N, D] and labels [N], got no labels.")
    else:
        moments = class_moments(features, labels, num_classes=num_classes)
    checks.every_class(name, moments.counts)
    return moments


def fit_mahalanobis(name: str, moments: ClassMoments) -> Mahalanobis:
    """The score of these moments."""
    found = whitening(moments)
    if not is_traced(found) and not np.any(np.asarray(found)):
        raise ValueError(
            f"{name}: the {len(found)} features do not vary within classes, so that there is no distance. Fit it to "
            "several different examples of a class."
        )
    return Mahalanobis(moments, found, jnp.matmul(moments.means, found, precision="highest"))


def _whitened(score: Mahalanobis, features: jax.Array) -> jax.Array:
    return jnp.matmul(features - score.moments.origin[None], score.whitening, precision="highest")


@jax.jit
def _distances(score: Mahalanobis, features: jax.Array) -> jax.Array:
    # One class at a time and not ‖z‖² + ‖m‖² − 2 z·m, which loses the digits of a short distance far from the origin.
    z = _whitened(score, features)
    return jax.lax.map(lambda centre: ((z - centre[None]) ** 2).sum(-1), score.centres).T


@jax.jit
def _nearest(score: Mahalanobis, features: jax.Array) -> jax.Array:
    # The gradient needs the nearest class alone.
    nearest = _distances(score, jax.lax.stop_gradient(features)).argmin(-1)
    return ((_whitened(score, features) - score.centres[nearest]) ** 2).sum(-1)
