"""The distance to the k-th nearest of the training data's features."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from bdl.ood import _feature_checks as checks
from bdl.ood._class_moments import column_means
from bdl.ood._detector import Detector
from bdl.ood._unit import unit

_QUERIES, _BLOCK = 256, 4096  # rows whose distances are held at once


class NearestNeighbours(eqx.Module):
    """The score of `nearest_neighbours`.

    Attributes:
        bank: the inliers' features less the origin, of length one where `normalise`, [M, D].
        origin: what was subtracted, [D]; 0 where `normalise`.
        k: which neighbour.
        normalise: whether features are divided by their length.
    """

    bank: jax.Array
    origin: jax.Array
    k: int = eqx.field(static=True)
    normalise: bool = eqx.field(static=True)

    def __call__(self, features: Any) -> jax.Array:
        """The distance to the k-th nearest neighbour, [N]."""
        return _kth_distance(self, checks.features("nearest_neighbours", features, self.bank.shape[1]))


def nearest_neighbours(features: Any, *, k: int = 50, normalise: bool = True) -> Detector:
    """The distance to the k-th nearest neighbour among inliers (higher = more out-of-distribution, features' unit):

        score(x) = ‖z − z₍ₖ₎‖,   z = f / ‖f‖.

    All features of the inliers are kept, M D numbers, and compared with a block at a time: memory does not grow with
    the number of pairs. An inlier of the fit is its own nearest neighbour: decide by others.

    Args:
        features: of inliers, such as the training data or a part of it, [M, D].
        k: which neighbour, 1 to M. In the paper 50 of 50,000 examples of 10 classes, 200 of 100 classes.
        normalise: whether features are divided by their length, so that scores are in [0, 2]; a feature vector of
            zeros stays as it is.

    Returns:
        A `Detector` of features [N, D].

    Raises:
        ValueError: shapes that do not match, numbers that are not finite, `k` out of its range.

    Reference:
        Sun et al. (2022), Out-of-distribution detection with deep nearest neighbors, https://arxiv.org/abs/2204.06507

    Example:
        >>> import jax.numpy as jnp, bdl.ood
        >>> detector = bdl.ood.nearest_neighbours(jnp.array([[0.0], [1.0], [5.0]]), k=2, normalise=False)
        >>> detector(jnp.array([[0.5], [9.0]]))
        Array([0.5, 8. ], dtype=float32)
    """
    features = checks.features("nearest_neighbours", features)
    checks.count("nearest_neighbours", "k", k, len(features))
    origin = jnp.zeros(features.shape[1]) if normalise else column_means(features)
    return Detector(NearestNeighbours(_prepared(features, origin, normalise), origin, k, normalise))


@functools.partial(jax.jit, static_argnames="normalise")
def _prepared(features: jax.Array, origin: jax.Array, normalise: bool) -> jax.Array:
    # Near the origin ‖a‖² + ‖b‖² − 2 a·b loses no digits that a − b has.
    return unit(features) if normalise else features - origin[None]


@jax.jit
def _kth_distance(score: NearestNeighbours, features: jax.Array) -> jax.Array:
    z = _prepared(features, score.origin, score.normalise)
    fixed = jax.lax.stop_gradient(z)
    kth = jax.lax.map(lambda rows: _kth(score, rows), _queries(fixed)).reshape(-1)[: len(z)]
    # The distance itself from the difference, which is exact for close neighbours; its gradient at 0 is 0.
    square = ((z - score.bank[kth]) ** 2).sum(-1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def _queries(z: jax.Array) -> jax.Array:
    size = min(_QUERIES, len(z))
    return jnp.pad(z, ((0, -len(z) % size), (0, 0))).reshape(-1, size, z.shape[1])


def _kth(score: NearestNeighbours, rows: jax.Array) -> jax.Array:
    """The place in the bank of the k-th nearest neighbour of each of these rows [Q, D]."""
    total, k = len(score.bank), score.k
    size = min(_BLOCK, total)

    def add(best: tuple[jax.Array, jax.Array], start: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
        # The last block begins earlier, and what it repeats is not counted again.
        begin = jnp.minimum(start, total - size)
        block = jax.lax.dynamic_slice_in_dim(score.bank, begin, size)
        place = begin + jnp.arange(size, dtype=jnp.int32)
        # −‖a − b‖² = 2 a·b − ‖b‖² − ‖a‖², whose last term is the same for all b
        near = 2 * jnp.matmul(rows, block.T, precision="highest") - (block**2).sum(-1)[None]
        near = jnp.where((place >= start)[None], near, -jnp.inf)
        values = jnp.concatenate([best[0], near], 1)
        places = jnp.concatenate([best[1], jnp.broadcast_to(place[None], near.shape)], 1)
        values, chosen = jax.lax.top_k(values, k)
        return (values, jnp.take_along_axis(places, chosen, 1)), None

    none = jnp.full((len(rows), k), -jnp.inf), jnp.zeros((len(rows), k), jnp.int32)
    (_, places), _ = jax.lax.scan(add, none, jnp.arange(0, total, size, dtype=jnp.int32))
    return places[:, -1]
