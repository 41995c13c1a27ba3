"""Means of classes and the spread around them: in one pass, mergeable, and exact where it is nearly singular."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bdl.ood import _feature_checks as checks

_BLOCK = 1024  # rows that are added at once
_EPS = float(jnp.finfo(jnp.float32).eps)


class ClassMoments(eqx.Module):
    """Counts, means and the common spread of features of K classes; those of two data sets merge to those of both.

    With the scatter S = Σₙ (xₙ − μ_c(n)) (xₙ − μ_c(n))ᵀ it keeps R of S = Rᵀ R, by QR decompositions of the deviations:
    S in float32 has no digit left of a variance that is 10⁻⁷ of the largest, R has.

    Attributes:
        counts: [K], int32.
        origin: [D], near the features, which means are relative to, so that a large offset costs no digits.
        means: of each class less the origin, [K, D]; 0 where there is no example.
        root: R, [D, D], upper triangular.

    Reference:
        Chan, Golub and LeVeque (1983), Algorithms for computing the sample variance,
        https://doi.org/10.1080/00031305.1983.10483115
    """

    counts: jax.Array
    origin: jax.Array
    means: jax.Array
    root: jax.Array

    def merge(self, other: "ClassMoments") -> "ClassMoments":
        """The moments of both data sets. Where one has more classes, the other has no example of those.

        Raises:
            ValueError: the numbers of features differ.
        """
        if self.origin.shape != other.origin.shape:
            raise ValueError(
                f"ClassMoments: expected features of one width, got {len(self.origin)} and {len(other.origin)}."
            )
        num_classes = max(len(self.counts), len(other.counts))
        return _merge(self._extended(num_classes), other._extended(num_classes))

    def pooled(self) -> "ClassMoments":
        """The moments without regard to class: one mean, and the spread around it."""
        return _pooled(self)

    def _extended(self, num_classes: int) -> "ClassMoments":
        more = num_classes - len(self.counts)
        counts, means = jnp.pad(self.counts, (0, more)), jnp.pad(self.means, ((0, more), (0, 0)))
        return ClassMoments(counts, self.origin, means, self.root)


def class_moments(features: Any, labels: Any, *, num_classes: int | None = None) -> ClassMoments:
    """The moments of labelled features; those of further batches are merged into them.

    Args:
        features: [N, D].
        labels: [N], integers in 0, …, K − 1.
        num_classes: K, by default one more than the largest label. A batch need not have all classes.

    Raises:
        ValueError: shapes that do not match, labels outside the range, numbers that are not finite.

    Example:
        >>> import jax.numpy as jnp, bdl.ood
        >>> first = bdl.ood.class_moments(jnp.array([[0.0], [2.0]]), jnp.array([0, 0]))
        >>> both = first.merge(bdl.ood.class_moments(jnp.array([[4.0], [7.0]]), jnp.array([0, 1])))
        >>> both.counts, both.origin + both.means
        (Array([3, 1], dtype=int32), Array([[2.],
               [7.]], dtype=float32))
    """
    features = checks.features("class_moments", features)
    labels, num_classes = checks.labels("class_moments", labels, len(features), num_classes)
    return accumulate(features, labels, np.ones(len(features), bool), num_classes)


@functools.partial(jax.jit, static_argnames="num_classes")
def accumulate(features: jax.Array, labels: jax.Array, valid: jax.Array, num_classes: int) -> ClassMoments:
    """The moments of those rows of [N, D] that are `valid`, a block at a time."""
    width, origin = features.shape[1], features[0]
    blocks = tuple(map(in_blocks, (features, labels, valid)))
    blocks = (*blocks[:2], blocks[2] & in_blocks(jnp.ones(len(features), bool), fill=False))
    zeros = jnp.zeros((num_classes, width))
    start = ClassMoments(jnp.zeros(num_classes, jnp.int32), origin, zeros, jnp.zeros((width, width)))

    def add(total: ClassMoments, block: Any) -> tuple[ClassMoments, None]:
        rows, labels, valid = block
        of_class = jax.nn.one_hot(labels, num_classes) * valid.astype(jnp.float32)[:, None]
        counts = of_class.sum(0)
        mean = lambda rows: jnp.matmul(of_class.T, rows, precision="highest") / jnp.maximum(counts, 1.0)[:, None]
        rows = rows - origin[None]
        means = mean(rows)
        # The mean of the deviations is what rounding took from the mean.
        means = means + mean(rows - means[labels])
        deviations = (rows - means[labels]) * valid.astype(jnp.float32)[:, None]
        return _join(total, counts.astype(jnp.int32), means, deviations), None

    return jax.lax.scan(add, start, blocks)[0]


def in_blocks(array: jax.Array, fill: Any = None) -> jax.Array:
    """Rows [N, ...] as blocks [M, B, ...], the last filled up with `fill`, or with its last row."""
    size = min(_BLOCK, len(array))
    missing = -len(array) % size
    last = array[-1:] if fill is None else jnp.full_like(array[-1:], fill)
    filled = jnp.concatenate([array, jnp.repeat(last, missing, 0)]) if missing else array
    return filled.reshape(-1, size, *array.shape[1:])


def triangular(rows: jax.Array) -> jax.Array:
    """R of Rᵀ R = rowsᵀ rows, for rows [M, D] with M ≥ D."""
    return jnp.linalg.qr(rows, mode="r")


@jax.jit
def scatter_root(features: jax.Array, origin: jax.Array) -> jax.Array:
    """R of Rᵀ R = Σₙ (xₙ − o) (xₙ − o)ᵀ for features [N, D] and an origin o [D], a block at a time."""
    width = features.shape[1]
    inside = in_blocks(jnp.ones(len(features)), fill=0.0)

    def add(root: jax.Array, block: Any) -> tuple[jax.Array, None]:
        rows, inside = block
        return triangular(jnp.concatenate([root, (rows - origin[None]) * inside[:, None]])), None

    return jax.lax.scan(add, jnp.zeros((width, width)), (in_blocks(features), inside))[0]


@jax.jit
def column_means(features: jax.Array) -> jax.Array:
    """The mean of each column of [N, D], by sums of sums of blocks."""
    origin = features[0]
    inside = in_blocks(jnp.ones(len(features)), fill=0.0)[..., None]
    sums = ((in_blocks(features) - origin[None, None]) * inside).sum(1)
    return origin + in_blocks(sums, fill=0.0).sum(1).sum(0) / len(features)


def standardised(root: jax.Array, counts: Any, means: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The root of the correlation matrix, and the inverse standard deviation [D], 0 of features that do not vary."""
    root = root / jnp.sqrt(jnp.maximum(counts.sum(), 1).astype(jnp.float32))
    spread = jnp.sqrt((root**2).sum(0))
    live = spread > 8 * _EPS * jnp.abs(means).max(0)
    inverse = jnp.where(live, 1 / jnp.where(live, spread, 1.0), 0.0)
    return root * inverse[None], inverse


@jax.jit
def whitening(moments: ClassMoments) -> jax.Array:
    """W [D, D] of ‖(x − μ) W‖² = (x − μ)ᵀ Σ⁻¹ (x − μ), with Σ = S / N, and its pseudo-inverse where it is singular.

    Features are standardised first, so that their units do not matter. Directions in which the standard deviation is
    below D ε of the largest are rounding, and left out.
    """
    root, inverse = standardised(moments.root, moments.counts, moments.means)
    _, singular, directions = jnp.linalg.svd(root, full_matrices=False)
    kept = singular > len(singular) * _EPS * singular[0]
    # Σ = V s² Vᵀ, so that W = V / s
    return inverse[:, None] * directions.T * jnp.where(kept, 1 / jnp.where(kept, singular, 1.0), 0.0)[None]


@jax.jit
def _merge(one: ClassMoments, other: ClassMoments) -> ClassMoments:
    present = (other.counts > 0).astype(jnp.float32)[:, None]
    return _join(one, other.counts, other.means + present * (other.origin - one.origin)[None], other.root)


def _join(total: ClassMoments, counts: jax.Array, means: jax.Array, rows: jax.Array) -> ClassMoments:
    # S = S₁ + S₂ + Σ_c n₁ n₂ / (n₁ + n₂) δ_c δ_cᵀ, with δ_c the difference of the means
    n1, n2 = total.counts.astype(jnp.float32), counts.astype(jnp.float32)
    share = (n2 / jnp.maximum(n1 + n2, 1.0))[:, None]
    delta = means - total.means
    between = jnp.sqrt(n1[:, None] * share) * delta
    root = triangular(jnp.concatenate([total.root, rows, between]))
    return ClassMoments(total.counts + counts, total.origin, total.means + share * delta, root)


@jax.jit
def _pooled(moments: ClassMoments) -> ClassMoments:
    counts = moments.counts.astype(jnp.float32)[:, None]
    mean = (counts * moments.means).sum(0, keepdims=True) / jnp.maximum(counts.sum(), 1.0)
    root = triangular(jnp.concatenate([moments.root, jnp.sqrt(counts) * (moments.means - mean)]))
    return ClassMoments(moments.counts.sum(keepdims=True), moments.origin, mean, root)
