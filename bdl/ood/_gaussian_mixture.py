"""The density of features, as a mixture of one Gaussian for each class."""

import functools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bdl.ood import _feature_checks as checks
from bdl.ood._class_moments import ClassMoments, accumulate, standardised, triangular
from bdl.ood._detector import Detector


class GaussianMixture(eqx.Module):
    """The score of `gaussian_mixture`.

    Attributes:
        origin: near the features, [D].
        inverse: one over the standard deviation of each feature within classes, [D]; 0 of features that do not vary.
        centres: the means of the classes, of features less the origin and times `inverse`, [K, D].
        roots: R of Σ = Rᵀ R of each class, likewise, [K, D, D].
        log_weights: log π_c − ½ log det 2π Σ_c, [K].
    """

    origin: jax.Array
    inverse: jax.Array
    centres: jax.Array
    roots: jax.Array
    log_weights: jax.Array

    def __call__(self, features: Any) -> jax.Array:
        """−log p(x), in nats, [N]."""
        return -jax.nn.logsumexp(self.log_joint(features), -1)

    def log_joint(self, features: Any) -> jax.Array:
        """The log densities log π_c + log Normal(x; μ_c, Σ_c) of all classes, in nats, [N, K]."""
        return _log_joint(self, checks.features("gaussian_mixture", features, len(self.origin)))


def gaussian_mixture(features: Any, labels: Any, *, num_classes: int | None = None, jitter: float = 1e-3) -> Detector:
    """The negative log density of features under one Gaussian for each class (higher = more out-of-distribution, nats):

        score(x) = −log Σ_c π_c Normal(x; μ_c, Σ_c),   Σ_c = (1/N_c) Σ (xₙ − μ_c) (xₙ − μ_c)ᵀ + jitter diag(σ²),

    with π_c = N_c / N and σ² the variance of each feature within classes. The density of deep deterministic
    uncertainty, whose network is regularised by `spectral_norm`. Features that do not vary within any class are left
    out.

    Args:
        features: [N, D].
        labels: [N], integers in 0, …, K − 1.
        num_classes: K, by default one more than the largest label.
        jitter: at least 0, a share of σ². It is needed where a class has no more than D examples, and where a feature
            varies in some classes only.

    Returns:
        A `Detector` of features [N, D]. Its `score.log_joint` gives the classes' log densities, [N, K].

    Raises:
        ValueError: shapes that do not match, a class with fewer than two examples, a jitter too small for a covariance
            that is singular.

    Reference:
        Mukhoti et al. (2023), Deep deterministic uncertainty: a new simple baseline, https://arxiv.org/abs/2102.11582

    Example:
        >>> import jax.numpy as jnp, bdl.ood
        >>> features = jnp.array([[-1.0], [1.0], [8.0], [12.0]])
        >>> detector = bdl.ood.gaussian_mixture(features, jnp.array([0, 0, 1, 1]), jitter=0.0)
        >>> [round(float(score), 3) for score in detector(jnp.array([[0.0], [10.0]]))]  # log 2 + ½ log 2π + log scale
        [1.612, 2.305]
    """
    features = checks.features("gaussian_mixture", features)
    labels, num_classes = checks.labels("gaussian_mixture", labels, len(features), num_classes)
    counts = np.bincount(labels, minlength=num_classes)
    checks.every_class("gaussian_mixture", counts, least=2)
    if not jitter >= 0:
        raise ValueError(f"gaussian_mixture: expected jitter of at least 0, got {jitter}.")
    rows, valid = _rows_of_classes(labels, counts)
    found = _fit(features, rows, valid, jnp.float32(jitter))
    if not np.isfinite(np.asarray(found.log_weights)).all():
        raise ValueError(
            f"gaussian_mixture: the covariance of a class is singular at jitter={jitter}. Pass a larger one, or more "
            f"than {features.shape[1]} examples of each class."
        )
    return Detector(found)


def _rows_of_classes(labels: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The places of each class's examples, [K, M], and which of them are no padding."""
    # Few lengths, so that few programs are compiled for data sets of about one size.
    length = -(-int(counts.max()) // 256) * 256 if counts.max() > 256 else int(counts.max())
    place = np.arange(length)[None]
    starts = np.cumsum(counts) - counts
    order = np.argsort(labels, kind="stable").astype(np.int32)
    return order[starts[:, None] + np.minimum(place, counts[:, None] - 1)], place < counts[:, None]


@jax.jit
def _fit(features: jax.Array, rows: jax.Array, valid: jax.Array, jitter: jax.Array) -> GaussianMixture:
    origin = features[0]

    def one(rows: Any) -> ClassMoments:
        places, valid = rows
        return accumulate(features[places] - origin[None], jnp.zeros(len(places), jnp.int32), valid, 1)

    moments = jax.lax.map(one, (rows, valid))
    counts = moments.counts[:, 0].astype(jnp.float32)
    means = moments.origin + moments.means[:, 0]
    # The root of the sum of all scatters, one after the other.
    total, _ = jax.lax.scan(
        lambda root, other: (triangular(jnp.concatenate([root, other])), None), moments.root[0], moments.root[1:]
    )
    _, inverse = standardised(total, moments.counts, means)
    live = inverse > 0

    def root(of_class: Any) -> tuple[jax.Array, jax.Array]:
        root, count = of_class
        scaled = root * inverse[None] / jnp.sqrt(count)
        ridge = jnp.diag(jnp.where(live, jnp.sqrt(jitter), 1.0))
        found = triangular(jnp.concatenate([scaled, ridge]))
        diagonal = jnp.abs(jnp.diagonal(found))
        singular = (diagonal <= len(diagonal) * jnp.finfo(jnp.float32).eps * diagonal.max()).any()
        return found, jnp.where(singular, -jnp.inf, jnp.log(diagonal).sum())

    roots, log_det = jax.lax.map(root, (moments.root, counts))
    scale = jnp.where(live, jnp.log(jnp.where(live, inverse, 1.0)), 0.0).sum()
    constant = scale - 0.5 * math.log(2 * math.pi) * live.sum().astype(jnp.float32)
    log_weights = jnp.log(counts / counts.sum()) - log_det + constant
    return GaussianMixture(origin, inverse, means * inverse[None], roots, log_weights)


@jax.jit
def _log_joint(score: GaussianMixture, features: jax.Array) -> jax.Array:
    z = (features - score.origin[None]) * score.inverse[None]

    def one(of_class: Any) -> jax.Array:
        centre, root = of_class
        # (x − μ)ᵀ Σ⁻¹ (x − μ) = ‖R⁻ᵀ (x − μ)‖²
        solve = functools.partial(jax.scipy.linalg.solve_triangular, trans="T")
        return (solve(root, (z - centre[None]).T) ** 2).sum(0)

    return score.log_weights[None] - 0.5 * jax.lax.map(one, (score.centres, score.roots)).T
