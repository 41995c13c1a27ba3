"""Random masks and normals that cost a quarter of `jax.random`'s.

`jax.random` hashes once for every element, whatever its width. Sixteen bits are plenty for a mask or a normal, and one
threefry block has sixty-four: four elements a hash. The hash is the same, threefry-2x32 with its twenty rounds.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


@partial(jax.jit, static_argnames="shape")
def bernoulli(key: jax.Array, rate: Any, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Which entries dropout keeps, and with which probability.

    The probability of keeping is 1 − rate rounded to a multiple of 2⁻¹⁶, and at least 2⁻¹⁶. Rescale by what is
    returned, not by 1 − rate, and the estimate is unbiased.

    Args:
        key: one random key; it is consumed.
        rate: the probability of dropping, in [0, 1); may be traced. No gradient flows through it.
        shape: the shape of the mask.

    Returns:
        kept: `bool[shape]`, true where the entry is kept.
        keep_probability: a float32 scalar.

    Example:
        >>> import jax
        >>> kept, keep_probability = bernoulli(jax.random.key(0), 0.25, (1000,))
        >>> kept.shape, float(keep_probability)
        ((1000,), 0.75)
    """
    threshold = jnp.round((1 - lax.stop_gradient(jnp.asarray(rate, jnp.float32))) * 2**16).clip(1)
    kept = _uint16(key, shape).astype(jnp.int32) < threshold.astype(jnp.int32)
    return kept, threshold * 2**-16


@partial(jax.jit, static_argnames="shape")
def uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Uniform numbers inside of (0, 1): (h + ½)/2¹⁶ for uniform 16-bit integers h, float32.

    Args:
        key: one random key; it is consumed.
        shape: the shape of the result.

    Example:
        >>> import jax
        >>> uniform(jax.random.key(0), (2, 3)).shape
        (2, 3)
    """
    return (_uint16(key, shape).astype(jnp.float32) + 0.5) * 2**-16


@partial(jax.jit, static_argnames=("shape", "dtype"))
def normal(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Standard normals: Φ⁻¹((h + ½)/2¹⁶) for uniform 16-bit integers h.

    Every value lies in its own one of 2¹⁶ equally likely bins, the largest is 4.32; variance 0.99997, fourth moment
    2.9988.

    Args:
        key: one random key; it is consumed.
        shape: the shape of the result.
        dtype: a floating type, to which the float32 values are cast.

    Example:
        >>> import jax
        >>> normal(jax.random.key(0), (2, 3)).shape
        (2, 3)
    """
    return _quantile(_uint16(key, shape)).astype(dtype)


def flat(draw: Callable[..., jax.Array], key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """`draw(key, shape, dtype)`, the same numbers, as one long row that is then folded.

    For a function of `jax.random`, or an initialiser, and a shape of four axes: XLA takes up to a second on a CPU to
    compile the counters of such a draw, and a tenth of that for those of a row.

    Example:
        >>> import jax
        >>> flat(jax.random.normal, jax.random.key(0), (8, 4, 4, 3)).shape
        (8, 4, 4, 3)
    """
    return draw(key, (math.prod(shape),), dtype).reshape(shape)


def _quantile(h: jax.Array) -> jax.Array:
    """Φ⁻¹((h + ½)/2¹⁶) for uint16 h, to a tenth of a bin."""
    # With u = (2h + 1)/2¹⁶ − 1, Φ⁻¹/u is so nearly a polynomial in (1 − u²)^⅛ that degree 5 is enough: no logarithm and
    # no branch for the tails. The coefficients are minimax, in units of the bin's width.
    u = (h.astype(jnp.int32) - 2**15).astype(jnp.float32) * 2**-15 + 2**-16
    s = jnp.sqrt(jnp.sqrt(jnp.sqrt(1 - u * u)))
    ratio = jnp.full_like(s, _COEFFICIENTS[-1])
    for coefficient in _COEFFICIENTS[-2::-1]:
        ratio = ratio * s + coefficient
    return u * ratio


_COEFFICIENTS = (6.6426803, -11.9910502, 17.4781432, -21.5651154, 14.3399123, -3.6512758)


def _uint16(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Uniform 16-bit integers: four from each block of the hash."""
    size = math.prod(shape)
    words = _words(key, -(-size // 4))
    # The loop is a fence. XLA writes the result of a loop once, but a hash without one is fused into all its readers
    # and computed again by each: for a mask over the inputs of a layer, once for every weight.
    halves = lax.map(lambda shift: (words >> shift).astype(jnp.uint16), jnp.array([0, 16], jnp.uint32))
    return halves.reshape(-1)[:size].reshape(shape)


def _words(key: jax.Array, blocks: int) -> jax.Array:
    """`uint32[2, blocks]` random words."""
    if jax.random.key_impl(key) != "threefry2x32":
        return jax.random.bits(key, (2, blocks), jnp.uint32)
    jax.random.bits(key, (0,))  # costs nothing, and lets `jax_debug_key_reuse` see that the key is consumed
    key_words = jax.random.key_data(key)
    # `fold_in` and `split` of the same key hash counters whose high word is 0, so they share no block with these.
    high, low = jnp.full(blocks, 0x62646C, jnp.uint32), lax.iota(jnp.uint32, blocks)
    return jnp.stack(_threefry2x32(key_words[0], key_words[1], high, low))


def _threefry2x32(key0: jax.Array, key1: jax.Array, x0: jax.Array, x1: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The threefry-2x32 hash of Salmon et al. (2011), "Parallel random numbers: as easy as 1, 2, 3", with 20 rounds.

    Written out, since `jax.random` loops over the rounds on a CPU and sends the whole array through memory in each.
    """
    keys = key0, key1, key0 ^ key1 ^ jnp.uint32(0x1BD11BDA)
    x0, x1 = x0 + keys[0], x1 + keys[1]
    for i in range(5):
        for rotation in ((13, 15, 26, 6), (17, 29, 16, 24))[i % 2]:
            x0 = x0 + x1
            x1 = x0 ^ ((x1 << rotation) | (x1 >> (32 - rotation)))
        x0, x1 = x0 + keys[(i + 1) % 3], x1 + keys[(i + 2) % 3] + jnp.uint32(i + 1)
    return x0, x1
