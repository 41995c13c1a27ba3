"""Rotation prediction: a classifier of shifts is unsure of those of outliers."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from bdl._in_batches import in_batches, joined
from bdl.ood._detector import Detector
from bdl.ood._through import as_function
from bdl.ood.training._shifts import Shift, check_shifts, concatenated, rotations


def shifted(x: Any, *, shifts: Any = rotations) -> tuple[Any, jax.Array]:
    """Data that label themselves: every shift of every example, and which shift it was.

    They are what an ordinary fit takes, with `bdl.likelihoods.Categorical()` and a network of K outputs; then
    `shift_score` tells outliers. No labels are needed, so that the data may be of one class.

    Args:
        x: inputs, [N, ...]; for `rotations` square images [N, H, H, C].
        shifts: K functions from inputs to inputs of the same shape, the first of which leaves them as they are:
            `rotations`, `permuted_patches` or your own.

    Returns:
        the inputs [K N, ...], those of one shift after those of the one before, and the labels [K N], int32.

    Raises:
        ValueError: fewer than two shifts; one that changes a shape; images that are not square for `rotations`.
        TypeError: the shifts are no functions.

    Reference:
        Golan and El-Yaniv (2018), Deep anomaly detection using geometric transformations,
        https://arxiv.org/abs/1805.10917

    Example:
        >>> import jax.numpy as jnp
        >>> from bdl.ood.training import shifted
        >>> x, y = shifted(jnp.arange(4.0).reshape(1, 2, 2, 1))
        >>> x[..., 0].reshape(4, 4), y
        (Array([[0., 1., 2., 3.],
           [1., 3., 0., 2.],
           [3., 2., 1., 0.],
           [2., 0., 3., 1.]], dtype=float32), Array([0, 1, 2, 3], dtype=int32))
    """
    shifts = check_shifts("shifted", shifts)
    return _shifted("shifted", shifts, jax.tree.map(jnp.asarray, x))


def shift_score(function: Any, *, shifts: Any = rotations, batch_size: int | None = None) -> Detector:
    """The cross-entropy of the shifts, over all of them (higher = more out-of-distribution, nats):

        score(x) = −(1/K) Σₖ log p(k | Sₖ(x)),   p = softmax(f),

    of a network f trained to tell which shift was applied, by what `shifted` makes. Chance has log K.

    Args:
        function: from inputs to logits [N, K]: a `bdl.Network` with its weights, or a function such as
            `bdl.function_draw(key, posterior, model)`, compiled once.
        shifts: those of the training, in their order.
        batch_size: inputs at once, of each K copies; all where `None`.

    Returns:
        A `Detector` of inputs.

    Raises:
        ValueError: fewer than two shifts, or a network without weights; by the score, other outputs than [N, K].
        TypeError: no function.

    Reference:
        Hendrycks, Mazeika, Kadavath and Song (2019), Using self-supervised learning can improve model robustness and
        uncertainty, https://arxiv.org/abs/1906.12340; Golan and El-Yaniv (2018), https://arxiv.org/abs/1805.10917,
        with the mean of p in the place of that of log p.

    Example:
        >>> import jax.numpy as jnp
        >>> from bdl.ood.training import shift_score
        >>> brighter_below = lambda x: jnp.stack([x[:, 1].sum((1, 2)), x[:, 0].sum((1, 2))], 1)
        >>> upside_down = (lambda x: x, lambda x: x[:, ::-1])
        >>> detector = shift_score(brighter_below, shifts=upside_down)
        >>> detector(jnp.array([[[0.0], [9.0]], [[1.0], [1.0]], [[9.0], [0.0]]])[..., None]).round(3)
        Array([0.   , 0.693, 9.   ], dtype=float32)
    """
    return Detector(ShiftScore(as_function("shift_score", function), check_shifts("shift_score", shifts), batch_size))


class ShiftScore(eqx.Module):
    """The score of `shift_score`."""

    function: Callable[[Any], Any]
    shifts: tuple[Shift, ...]
    batch_size: int | None = eqx.field(static=True, default=None)

    def __call__(self, x: Any) -> jax.Array:
        """The scores [N] of inputs, examples along axis 0."""
        scores: jax.Array = joined(in_batches(lambda batch: _cross_entropy(self, batch), x, self.batch_size))
        return scores


def shifted_outputs(name: str, function: Any, shifts: tuple[Shift, ...], x: Any) -> jax.Array:
    """The outputs of a network at every shift of the inputs, [K, N, D] in float32.

    Raises:
        ValueError: the outputs are not [N, D].
    """
    copies, labels = _shifted(name, shifts, x)
    outputs = function(copies)
    if jnp.ndim(outputs) != 2 or len(outputs) != len(labels):
        raise ValueError(
            f"{name}: expected outputs [N, D] of the {len(labels)} shifted inputs, got shape {jnp.shape(outputs)}. "
            "Pass a function that returns one vector for each input."
        )
    return outputs.astype(jnp.float32).reshape(len(shifts), -1, outputs.shape[1])


@eqx.filter_jit
def _shifted(name: str, shifts: tuple[Shift, ...], x: Any) -> tuple[Any, jax.Array]:
    copies = concatenated(name, shifts, [x] * len(shifts))
    count = jax.tree.leaves(x)[0].shape[0]
    return copies, jnp.repeat(jnp.arange(len(shifts), dtype=jnp.int32), count)


@eqx.filter_jit
def _cross_entropy(score: ShiftScore, x: Any) -> jax.Array:
    count = len(score.shifts)
    logits = shifted_outputs("shift_score", score.function, score.shifts, x)
    if logits.shape[-1] != count:
        raise ValueError(
            f"shift_score: expected logits [N, {count}], one for each shift, got {logits.shape[-1]} of them. Pass the "
            "shifts of the training; of a network with an embedding beside them use bdl.ood.training.csi_score."
        )
    # −(1/K) Σₖ log p(k | Sₖ(x))
    return -jnp.diagonal(jax.nn.log_softmax(logits, -1), axis1=0, axis2=2).mean(1)
