"""Sums over the examples of each bin of confidence, exact to float32 for millions of examples."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from bdl.metrics._order_statistics import order_statistics

_BLOCK = 1024  # examples that are summed at once; counts of so many are exact in float32


@functools.partial(jax.jit, static_argnames=("num_bins", "of"))
def sums_in_bins(probs: Any, labels: Any, weights: Any, edges: Any, num_bins: int, of: int | str) -> tuple[Any, ...]:
    """Edges [R, B + 1], and counts, correct ones, confidences and p (1 − p) summed over the examples of bins [R, B].

    Args:
        probs: [..., K].
        labels: [...].
        weights: [...], 0 or 1.
        edges: [R, B + 1], or None for bins of equal mass.
        num_bins: B, for bins of equal mass.
        of: "top", a class, or "classes", for which R is K; else it is 1.
    """
    weights = weights.reshape(-1)
    confidence, correct = _confidences(probs.reshape(-1, probs.shape[-1]), labels.reshape(-1), of)
    if edges is None:
        edges = jax.lax.map(lambda row: _equal_mass(row, weights, num_bins), confidence)
    sums = jax.lax.map(lambda row: _sums(row[0], row[1], row[2], weights), (confidence, correct, edges))
    return edges, *sums


def _confidences(probs: jax.Array, labels: jax.Array, of: int | str) -> tuple[jax.Array, jax.Array]:
    """The confidences [R, N], and whether the class was the label."""
    if of == "top":
        return probs.max(-1)[None], (jnp.argmax(probs, -1).astype(jnp.int32) == labels)[None]
    if of == "classes":
        return probs.T, labels[None] == jnp.arange(probs.shape[-1], dtype=jnp.int32)[:, None]
    return probs[None, :, of], (labels == jnp.int32(of))[None]


def _equal_mass(confidence: jax.Array, weights: jax.Array, num_bins: int) -> jax.Array:
    """Edges [B + 1]: the inner ones are the confidences at ranks ⌈b N / B⌉, so that ties fall into one bin."""
    count = jnp.sum((weights > 0).astype(jnp.int32))
    inner = jnp.arange(1, num_bins, dtype=jnp.int32)
    # ⌈b N / B⌉ without the product b N, which can overflow
    ranks = inner * (count // num_bins) + -(-(inner * (count % num_bins)) // num_bins)
    found = order_statistics(confidence, weights > 0, jnp.maximum(ranks, 1))
    return jnp.concatenate([jnp.zeros(1), found, jnp.ones(1)])


def _sums(confidence: jax.Array, correct: jax.Array, edges: jax.Array, weights: jax.Array) -> tuple[jax.Array, ...]:
    """Sums over the bins of one row [N]: products with indicators of bins, block by block, and then over the blocks."""
    num_bins = len(edges) - 1
    bins = jnp.arange(num_bins, dtype=jnp.int32)

    def of_block(block: Any) -> jax.Array:
        confidence, correct, weights = block
        # The bin (e_b, e_{b+1}] of p is the number of inner edges below it: 0 is in the first, 1 in the last.
        found = jnp.sum((confidence[:, None] > edges[None, 1:-1]).astype(jnp.int32), -1)
        indicator = (found[:, None] == bins[None]).astype(jnp.float32)
        spread = jnp.maximum(confidence * (1 - confidence), 0)
        rows = jnp.stack([jnp.ones_like(confidence), correct.astype(jnp.float32), confidence, spread]) * weights[None]
        return jnp.matmul(rows, indicator, precision="highest")

    blocks = jax.lax.map(of_block, tuple(_blocks(array) for array in (confidence, correct, weights)))
    count, right = (jnp.sum(blocks[:, i].astype(jnp.int32), 0) for i in (0, 1))
    return count, right, jnp.sum(blocks[:, 2], 0), jnp.sum(blocks[:, 3], 0)


def _blocks(array: jax.Array) -> jax.Array:
    """[N] as [⌈N / block⌉, block], with zeros at the end."""
    return jnp.pad(array, (0, -len(array) % _BLOCK)).reshape(-1, _BLOCK)
