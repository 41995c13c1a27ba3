"""Curves for one probability, applied to K of them: each class against the rest, and normalised."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdl.calibration._checks import binary, examples


def each_class(name: str, probs: Any, labels: Any, mask: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Probabilities [C, M], labels of 0 and 1 [C, M] and weights [M], checked.

    C is 1 where probs have the labels' shape, and else K, with the labels of each class against the rest.
    """
    if np.shape(probs) == np.shape(labels):
        probs, labels, weights = binary(name, probs, labels, mask)
        return probs.reshape(1, -1), labels.reshape(1, -1), weights.reshape(-1)
    probs, labels, weights = examples(name, probs, labels, mask)
    return *_against_the_rest(probs, labels), weights


@jax.jit
def _against_the_rest(probs: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    num_classes = probs.shape[-1]
    of_class = labels[None] == jnp.arange(num_classes, dtype=labels.dtype)[:, None]
    return probs.T, of_class.astype(jnp.float32)


def apply_each(curve: Callable[[Any, jax.Array], jax.Array], maps: Any, probs: jax.Array, binary: bool) -> jax.Array:
    """The curves `maps`, stacked over C classes, of probabilities: [...] where `binary`, else [..., K] with sum one.

    Where all classes come out as 0 they are equally likely.
    """
    if binary:
        return curve(jax.tree.map(lambda array: array[0], maps), probs)
    found = jax.vmap(curve, in_axes=(0, -1), out_axes=-1)(maps, probs)
    total = jnp.sum(found, -1, keepdims=True)
    return jnp.where(total > 0, found / jnp.where(total > 0, total, 1.0), 1 / probs.shape[-1])
