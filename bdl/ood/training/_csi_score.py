"""The score of CSI: near to the training data, long, and sure of its shift, under every shift."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bdl._data_checks import check_data, is_traced
from bdl._in_batches import in_batches, joined
from bdl.ood._detector import Detector
from bdl.ood._nearest_neighbours import NearestNeighbours
from bdl.ood._through import as_function
from bdl.ood._unit import unit
from bdl.ood.training._csi import split
from bdl.ood.training._shift_prediction import shifted_outputs
from bdl.ood.training._shifts import Shift, check_shifts, rotations


class CSIScore(eqx.Module):
    """The score of `csi_score`.

    Attributes:
        function: from inputs to outputs [N, E + K].
        shifts: the K of the training.
        bank: unit embeddings of the training data, [K, M, E].
        of_embedding: λ_con of each shift, [K].
        of_logit: λ_cls of each shift, [K].
        norm: whether the similarity is multiplied by ‖z‖.
        batch_size: inputs at once.
    """

    function: Callable[[Any], Any]
    shifts: tuple[Shift, ...]
    bank: jax.Array
    of_embedding: jax.Array
    of_logit: jax.Array
    norm: bool = eqx.field(static=True)
    batch_size: int | None = eqx.field(static=True)

    def __call__(self, x: Any) -> jax.Array:
        """The scores [N] of inputs, examples along axis 0."""
        scores: jax.Array = joined(in_batches(lambda batch: _score(self, batch), x, self.batch_size))
        return scores


def csi_score(
    function: Any, x_train: Any, *, shifts: Any = rotations, norm: bool = True, batch_size: int | None = None
) -> Detector:
    """The score of a network trained by `csi` (higher = more out-of-distribution, no unit):

        score(x) = −Σ_S [λ_con,S · max_m cos(z(S xₘ), z(S x)) · ‖z(S x)‖ + λ_cls,S · g_S(S x)],
        1 / λ_con,S = (1/M) Σₘ ‖z(S xₘ)‖,   1 / λ_cls,S = (1/M) Σₘ g_S(S xₘ),

    over the shifts S, with z the embedding and g_S the logit of the shift S. It is the paper's with the sign of
    `bdl.ood`. The weights bring all terms to 1 on the training data, whose mean score is −2 K.

    All embeddings of the training data are kept, K M E numbers, and compared with a block at a time: memory does not
    grow with the number of pairs. A part of the training data will do. An input of the fit is its own nearest: decide
    by others. The paper takes means of outputs over ten augmented copies: let `function` do so.

    Args:
        function: from inputs to outputs [N, E + K], as of `CategoricalWithEmbedding`: a `bdl.Network` with its weights,
            or a function such as `bdl.function_draw(key, posterior, model)`, compiled once.
        x_train: the training data, or some of them, [M, ...].
        shifts: those of the training, in their order.
        norm: whether the similarity is multiplied by ‖z‖, as in the paper; otherwise it stands alone, with a weight of
            1. A long training makes the embeddings of inliers the longer ones; a short one may make them the shorter
            ones, and then the factor does harm. See by held-out inliers and any outliers that are at hand.
        batch_size: inputs at once, of each K copies; all where `None`.

    Returns:
        A `Detector` of inputs.

    Raises:
        ValueError: data that are empty or not finite, outputs of another width, or a shift that is not told: the
            mean over the training data of its own logit is not above 0, so that a weight would turn the score around.
        TypeError: no function.

    Reference:
        Tack, Mo, Jeong and Shin (2020), CSI: novelty detection via contrastive learning on distributionally shifted
        instances, https://arxiv.org/abs/2007.08176

    Example:
        >>> import jax.numpy as jnp
        >>> from bdl.ood.training import csi_score
        >>> same_or_negative = (lambda x: x, lambda x: -x)
        >>> function = lambda x: jnp.stack([x[:, 0], x[:, 1], x[:, 0], -x[:, 0]], 1)  # z = x; g = (x₀, −x₀)
        >>> detector = csi_score(function, jnp.array([[1.0, 0.0], [3.0, 0.0]]), shifts=same_or_negative)
        >>> detector(jnp.array([[2.0, 0.0], [1.0, 1.0]])).round(3)
        Array([-4., -2.], dtype=float32)
    """
    shifts = check_shifts("csi_score", shifts)
    function = as_function("csi_score", function)
    if is_traced(x_train):
        raise ValueError("csi_score: a detector is fitted outside of jit; its scores may be inside.")
    check_data(x_train)
    outputs = joined(in_batches(lambda batch: _outputs(function, shifts, batch), x_train, batch_size), axis=1)
    bank, norms, own = _statistics(outputs)
    for called, means in (("norm of its embedding", norms), ("own logit", own)):
        _check_positive(called, np.asarray(means))
    of_embedding = 1 / norms if norm else jnp.ones(len(shifts))
    return Detector(CSIScore(function, shifts, bank, of_embedding, 1 / own, norm, batch_size))


@eqx.filter_jit
def _outputs(function: Any, shifts: tuple[Shift, ...], x: Any) -> jax.Array:
    """[K, N, E + K]."""
    outputs = shifted_outputs("csi_score", function, shifts, x)
    split(outputs[0], len(shifts))
    return outputs


@jax.jit
def _statistics(outputs: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Unit embeddings [K, M, E]; the means over examples of their lengths, [K], and of the own logits, [K]."""
    z, own = _parts(outputs)
    return unit(z), _lengths(z).mean(1), own.mean(1)


def _parts(outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Embeddings [K, N, E], and the logits of the shifts that there were, [K, N]."""
    count = len(outputs)
    return outputs[..., :-count], jnp.diagonal(outputs[..., -count:], axis1=0, axis2=2).T


def _lengths(z: jax.Array) -> jax.Array:
    # ‖z‖ = z · z / ‖z‖, in which no square overflows
    return (z * unit(z)).sum(-1)


@eqx.filter_jit
def _score(score: CSIScore, x: Any) -> jax.Array:
    z, own = _parts(_outputs(score.function, score.shifts, x))
    # Of unit vectors, cos = 1 − ‖a − b‖² / 2.
    near = 1 - jax.vmap(_nearest)(score.bank, z) ** 2 / 2
    near = near * _lengths(z) if score.norm else near
    # Σ_S [λ_con,S · max_m cos(z(S xₘ), z(S x)) · ‖z(S x)‖ + λ_cls,S · g_S(S x)]
    terms = score.of_embedding[:, None] * near + score.of_logit[:, None] * own
    return -terms.sum(0)


def _nearest(bank: jax.Array, z: jax.Array) -> jax.Array:
    """The distance [N] between unit vectors from each row to the nearest in the bank."""
    return NearestNeighbours(bank, jnp.zeros(bank.shape[1]), 1, True)(z)


def _check_positive(called: str, means: np.ndarray) -> None:
    wrong = np.flatnonzero(~(means > 0))
    if wrong.size:
        raise ValueError(
            f"csi_score: expected the mean over the training data of the {called} to be above 0 for each of the "
            f"{len(means)} shifts, got {means[wrong[0]]:.3g} for shift {wrong[0]}, by which its term would be divided. "
            "The network does not tell this shift: train it for longer, or leave out shifts that change nothing."
        )
