"""Examples in the order of a score: one sort, and the counts from which ranks, rates and precisions are read."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bdl._data_checks import is_traced
from bdl.metrics._checks import values

_INFINITY = 0x7F800000  # the bits of ∞ in float32, below those of NaN
MASKED = 0x7FFFFFFF  # the largest key, which no number has


class Ranking(eqx.Module):
    """Counts of positives and negatives from the highest score downwards, where examples of one score stand together.

    Attributes:
        true: [N] int32, the positives with this score or a higher one.
        false: [N] int32, the negatives likewise.
        true_above: [N] int32, the positives with a higher score.
        false_above: [N] int32, the negatives likewise.
        threshold: [N] bool, whether this is the last example of its score. The counts mean something only there.
        positives: how many there are, float32; NaN where a class is missing or a score is NaN.
        negatives: likewise.
    """

    true: jax.Array
    false: jax.Array
    true_above: jax.Array
    false_above: jax.Array
    threshold: jax.Array
    positives: jax.Array
    negatives: jax.Array

    def or_nan(self, value: jax.Array) -> jax.Array:
        """The value, or NaN where it is undefined."""
        return jnp.where(jnp.isnan(self.positives), jnp.nan, value)

    def reversed(self) -> "Ranking":
        """The ranking from the lowest score upwards, whose positives are the negatives."""
        # #{s ≤ t} = total − #{s > t}, and the thresholds are the same.
        true, false = (jnp.nan_to_num(total).astype(jnp.int32) for total in (self.positives, self.negatives))
        return Ranking(
            true=false - self.false_above,
            false=true - self.true_above,
            true_above=false - self.false,
            false_above=true - self.true,
            threshold=self.threshold,
            positives=self.negatives,
            negatives=self.positives,
        )


def events(
    name: str, scores: Any, labels: Any, mask: Any, names: tuple[str, str] = ("scores", "labels")
) -> tuple[jax.Array, jax.Array]:
    """The keys of scores, the highest first, and their labels 0 and 1, int32 [N] in that order; `rank` takes them.

    Raises:
        ValueError: shapes that do not match, scores that are not finite, labels that are not 0 and 1, a class missing.
    """
    flat, positive, weights = checked_events(name, scores, labels, mask, names)
    if not is_traced((scores, labels, mask)):
        total, kept = float(np.sum(positive)), float(np.sum(weights))
        if total in (0, kept):
            raise ValueError(
                f"{name}: expected {names[1]} of both 0 and 1, got {kept:.0f} that are all {int(total > 0)}, for which "
                "it is undefined. Pass examples of both."
            )
    return ordered(flat, positive.astype(jnp.int32), weights, highest_first=True)


def checked_events(
    name: str, scores: Any, labels: Any, mask: Any, names: tuple[str, str] = ("scores", "labels")
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Scores, labels of 0 and 1 and weights, float32 [N]."""
    if not is_traced((labels, mask)):
        kept = np.asarray(labels)[... if mask is None or np.shape(mask) != np.shape(labels) else np.asarray(mask)]
        other = kept[(kept != 0) & (kept != 1)]
        if other.size:
            raise ValueError(
                f"{name}: expected {names[1]} of 0 and 1, or bool, got {other[0]}. Pass labels == positive."
            )
    scores, labels, weights = values(name, scores, labels, mask=mask, names=names)
    return scores.reshape(-1), labels.reshape(-1), weights.reshape(-1)


def ordered(
    scores: jax.Array, carried: jax.Array, weights: jax.Array, *, highest_first: bool = False
) -> tuple[jax.Array, jax.Array]:
    """The integers that stand for float32 scores [N], sorted, and 32 bits that each carries, in that order.

    Equal integers are equal scores; those whose weight is 0 come last. NumPy sorts pairs packed into 64 bits, in a
    small part of the time that XLA takes on a processor; what is traced is left to XLA.
    """
    keys = _keys(scores, weights, highest_first)
    if is_traced((keys, carried)):
        keys, carried = lax.sort((keys, carried), num_keys=1, is_stable=False)
        return keys, carried
    carried_bits = np.asarray(carried).view(np.uint32).astype(np.int64)
    packed = np.sort(np.asarray(keys).astype(np.int64) << 32 | carried_bits)
    bits = (packed & 0xFFFFFFFF).astype(np.uint32)
    return jnp.asarray((packed >> 32).astype(np.int32)), jnp.asarray(bits.view(carried.dtype))


@jax.jit
def rank(keys: jax.Array, labels: jax.Array) -> Ranking:
    """Counts down the ranking, from what `events` returned."""
    counts = keys != MASKED
    positive = counts & (labels == 1)
    true, false = jnp.cumsum(positive, dtype=jnp.int32), jnp.cumsum(counts & ~positive, dtype=jnp.int32)
    last = last_of_ties(keys)
    above = previous(last)
    before = lambda count: jnp.where(above >= 0, count[above], 0)
    defined = (true[-1] > 0) & (false[-1] > 0) & ~has_nan(keys)
    total = lambda count: jnp.where(defined, count[-1].astype(jnp.float32), jnp.nan)
    return Ranking(true, false, before(true), before(false), last & counts, total(true), total(false))


def last_of_ties(keys: jax.Array) -> jax.Array:
    """Whether each of sorted keys [N] is the last of its equals."""
    return jnp.append(keys[1:] != keys[:-1], True)


def previous(last: jax.Array) -> jax.Array:
    """The index of the last example of a higher rank, int32 [N], −1 where there is none."""
    index = jnp.arange(last.size, dtype=jnp.int32)
    ends = lax.cummax(jnp.where(last, index, jnp.int32(-1)))
    return jnp.concatenate([jnp.full(1, -1, jnp.int32), ends[:-1]])


def has_nan(keys: jax.Array) -> jax.Array:
    """Whether a score behind the keys was NaN, which only a trace lets through."""
    return ((keys > _INFINITY) & (keys != MASKED)).any()


@jax.jit
def sorted_values(array: jax.Array) -> jax.Array:
    """Float32 numbers in ascending order along the last axis: XLA sorts integers four times as fast, on a processor."""
    return _from_keys(lax.sort(_order_preserving(array), is_stable=False))


@functools.partial(jax.jit, static_argnames="highest_first")
def _keys(scores: jax.Array, weights: jax.Array, highest_first: bool) -> jax.Array:
    keys = _order_preserving(-scores if highest_first else scores)
    keys = jnp.where(jnp.isnan(scores), jnp.int32(_INFINITY + 1), keys)
    return jnp.where(weights > 0, keys, jnp.int32(MASKED))


def _order_preserving(numbers: jax.Array) -> jax.Array:
    """Integers in the order of float32 numbers, by their bits; −0 and 0 are one."""
    bits = lax.bitcast_convert_type(numbers, jnp.int32)
    # A negative number's bits are −2³¹ + m, and m, its size, turned: −m. For −0 that is 0.
    return jnp.where(bits < 0, jnp.int32(-(2**31)) - bits, bits)


def _from_keys(keys: jax.Array) -> jax.Array:
    return lax.bitcast_convert_type(jnp.where(keys < 0, jnp.int32(-(2**31)) - keys, keys), jnp.float32)
