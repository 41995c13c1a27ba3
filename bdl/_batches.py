"""Where the batches of a fit come from: arrays that stay on the device, shuffled, or an iterator of the host."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from bdl._keys import derive
from bdl._paths import named_leaves
from bdl._tree_file import describe

_ROUNDS = 12  # of the shuffle; an element stays where it was in all of them with probability 2⁻¹²
_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B9, 0x85EBCA6B, 0xC2B2AE35  # odd constants of the finaliser of MurmurHash3


class Position(NamedTuple):
    """A place in the stream of `ArrayBatches`.

    Attributes:
        epoch: counted from 0.
        used: how many of its examples went before.
        rows: the examples of the batch there, int32[batch]. It is worked out a step ahead and kept: XLA would fuse it
            into the gather, and work it out again for every column of an example.
    """

    epoch: jax.Array
    used: jax.Array
    rows: jax.Array


class ArrayBatches(eqx.Module):
    """The endless stream of a data set's examples, in a fresh order every epoch, cut into batches of one size.

    A batch may straddle two epochs, so none is ragged and every example is seen equally often.

    Attributes:
        data: (x, y), pytrees of arrays with examples along axis 0.
        batch_size: examples per batch; of the data set's size, a batch is the data set in its own order.
    """

    data: Any
    batch_size: int = eqx.field(static=True)

    @property
    def num_data(self) -> int:
        """The number of examples."""
        return len(jax.tree.leaves(self.data)[0])

    def example(self) -> Any:
        """Some batch, for its shapes."""
        return jax.tree.map(lambda a: a[: self.batch_size], self.data)

    def begin(self, order: jax.Array) -> Position:
        """The start of the stream; `order` is from `random_order`."""
        return self._position(order, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    def take(self, order: jax.Array, position: Position) -> tuple[Any, Position]:
        """The batch at a position, and the position behind it."""
        if self.batch_size == self.num_data:
            return self.data, position
        batch = jax.tree.map(lambda a: a.at[position.rows].get(mode="promise_in_bounds"), self.data)
        used = position.used + self.batch_size
        return batch, self._position(order, position.epoch + used // self.num_data, used % self.num_data)

    def _position(self, order: jax.Array, epoch: jax.Array, used: jax.Array) -> Position:
        size = self.num_data
        this, following = (_mix(order + jnp.uint32(_GOLDEN) * (epoch + i).astype(jnp.uint32)) for i in range(2))
        place = used + jnp.arange(self.batch_size, dtype=jnp.int32)
        rows = jnp.where(place < size, permute(this, place, size), permute(following, place - size, size))
        return Position(epoch, used, rows)


def random_order(key: jax.Array) -> jax.Array:
    """What the orders of all epochs are made from."""
    return jax.random.bits(derive(key, "order"), (_ROUNDS,))


def permute(words: jax.Array, place: jax.Array, size: int) -> jax.Array:
    """Elements of a random permutation of 0, ..., size - 1: those at `place` alone, without a sort.

    The swap-or-not shuffle: a round pairs every x with its mirror image k - x modulo `size`, and a hash of the pair
    says whether the two change places.

    Args:
        words: uint32[rounds], random; any choice gives a permutation.
        place: int[...]; what is not within [0, size) gives nonsense.
        size: the number of elements.

    Hoang, Morris and Rogaway, "An enciphering scheme based on a card shuffle", CRYPTO 2012.
    """
    n = jnp.uint32(size)
    x = place.astype(jnp.uint32)
    for word in words:
        k = word % n
        mirror = jnp.where(k >= x, k - x, k + (n - x))
        hashed = (jnp.maximum(x, mirror) + word) * jnp.uint32(_GOLDEN)
        hashed = (hashed ^ (hashed >> 16)) * jnp.uint32(_MIX_1)
        x = jnp.where(hashed >> 31 == 1, mirror, x)
    return x.astype(jnp.int32)


def _mix(x: jax.Array) -> jax.Array:
    x = (x ^ (x >> 16)) * jnp.uint32(_MIX_1)
    x = (x ^ (x >> 13)) * jnp.uint32(_MIX_2)
    return x ^ (x >> 16)


class HostBatches:
    """The batches of an iterable, which is started again when it ends, if it can be.

    Args:
        data: an iterable of (x, y), each of the shapes and dtypes of the first.

    Raises:
        TypeError: it gives something else.
        ValueError: there is no batch, or one of another shape.
    """

    def __init__(self, data: Iterable[Any]):
        stream = _stream(data)
        self._first = next(stream, None)
        if self._first is None:
            raise ValueError("the iterable of batches is empty. Pass one that gives pairs (x, y).")
        self._stream = itertools.chain([self._first], stream)

    def __iter__(self) -> Iterator[Any]:
        return self._stream

    def example(self) -> Any:
        """Some batch, for its shapes."""
        return self._first


def _stream(data: Iterable[Any]) -> Iterator[Any]:
    shapes, count, iterator = None, 0, iter(data)
    while True:
        before = count
        for pair in iterator:
            if not (isinstance(pair, tuple | list) and len(pair) == 2):
                raise TypeError(
                    f"an iterable of batches must give pairs (x, y), this one gives {type(pair).__name__}. "
                    "A whole data set goes in as the tuple of arrays (x, y)."
                )
            batch = jax.tree.map(jnp.asarray, tuple(pair))
            shapes = shapes or _shapes(batch)
            if _shapes(batch) != shapes:
                raise ValueError(
                    f"batch {count} of the iterable has {_shapes(batch)}, the first had {shapes}. Another shape would "
                    "compile the training step again: drop the last batch of an epoch, or fill it up."
                )
            count += 1
            yield batch
        again = iter(data)
        if count == before or again is iterator:
            return
        iterator = again


def _shapes(batch: Any) -> str:
    parts = zip("xy", map(named_leaves, batch), strict=True)
    return " and ".join(
        f"{name}{path and f'[{path}]'} {describe(a)}" for name, part in parts for path, a in part.items()
    )
