"""KL matching: how far a prediction is from what predictions of its class look like."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bdl._data_checks import is_traced
from bdl.ood._detector import Detector
from bdl.ood._logit_checks import as_logits

_ROWS = 1024  # that are added at once: sums of sums keep the digits that one long float32 sum loses


def kl_matching(logits: Any, labels: Any = None) -> Detector:
    """A detector by the divergence from the nearest class's mean prediction (higher = more out-of-distribution, nats):

        minₖ KL(p ‖ dₖ),   dₖ = the mean of p over the examples that are predicted as class k,   p = softmax(logits).

    Args:
        logits: [N, K], of examples that the network was not trained on: of those it was, all dₖ are nearly certain.
        labels: [N], integers in 0, …, K − 1, by which the examples are put into classes; `None` for the predicted
            classes, as in the paper.

    Returns:
        A detector of logits [..., K].

    Raises:
        ValueError: fewer than two classes, logits that are not finite, labels of another shape or outside the range,
            a class without an example.

    Reference:
        Hendrycks et al. (2022), Scaling out-of-distribution detection for real-world settings,
        https://arxiv.org/abs/1911.11132

    Example:
        >>> import jax.numpy as jnp, bdl.ood
        >>> held_out = jnp.log(jnp.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]))
        >>> detector = bdl.ood.kl_matching(held_out)
        >>> detector(jnp.log(jnp.array([[0.8, 0.1, 0.1], [0.5, 0.4, 0.1]])))
        Array([0.       , 0.3195...], dtype=float32)
    """
    logits = as_logits("kl_matching", logits)
    if logits.ndim != 2:
        raise ValueError(f"kl_matching: expected logits [N, K], got the shape {logits.shape}. Reshape them to (-1, K).")
    labels = jnp.argmax(logits, -1) if labels is None else _checked(labels, logits)
    if not is_traced((logits, labels)):
        _check_classes(np.asarray(labels), logits.shape[1])
    return Detector(KLMatching(_log_templates(logits, labels)))


class KLMatching(eqx.Module):
    """From logits [..., K] to minₖ KL(p ‖ dₖ).

    Attributes:
        log_templates: log dₖ, [K, K], one template a row.
    """

    log_templates: jax.Array

    def __call__(self, logits: Any) -> jax.Array:
        """The scores [...] of logits [..., K], in nats.

        Raises:
            ValueError: logits that are not finite, or of another number of classes than the templates'.
        """
        logits = as_logits("kl_matching", logits)
        if logits.shape[-1] != len(self.log_templates):
            raise ValueError(
                f"kl_matching: expected logits of the {len(self.log_templates)} classes of the fit, got "
                f"{logits.shape[-1]}."
            )
        return _score(self.log_templates, logits)


@jax.jit
def _log_templates(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The logarithm of the mean of softmax(logits) in each class, [K, K]; NaN where a class has no example."""
    num_classes = logits.shape[1]
    log_probs = jax.nn.log_softmax(logits, -1)
    largest = jax.ops.segment_max(log_probs, labels, num_classes)
    counts = jax.ops.segment_sum(jnp.ones(labels.shape, jnp.int32), labels, num_classes)
    blocks = math.ceil(len(labels) / _ROWS)
    extra = blocks * _ROWS - len(labels)

    def add(total: jax.Array, block: Any) -> tuple[jax.Array, None]:
        log_probs, labels = block
        member = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)  # that of a padded row, −1, is no class
        share = jnp.exp(log_probs - largest[labels])
        return total + jnp.matmul(member.T, share, precision="highest"), None

    # log dₖ = maximum + log Σ exp(log p − maximum) − log n: a class that never gets probability keeps a finite log.
    log_probs = jnp.pad(log_probs, ((0, extra), (0, 0)), constant_values=-jnp.inf)
    labels = jnp.pad(labels, (0, extra), constant_values=-1)
    in_blocks = (log_probs.reshape(blocks, -1, num_classes), labels.reshape(blocks, -1))
    total, _ = jax.lax.scan(add, jnp.zeros((num_classes, num_classes)), in_blocks)
    templates = largest + jnp.log(total) - jnp.log(counts.astype(jnp.float32))[:, None]
    return jnp.where(counts[:, None] > 0, templates, jnp.nan)


@jax.jit
def _score(log_templates: jax.Array, logits: jax.Array) -> jax.Array:
    # KL(p ‖ dₖ) = Σ p log p − Σ p log dₖ
    log_probs = jax.nn.log_softmax(logits, -1)
    probs = jnp.exp(log_probs)
    cross = jnp.matmul(probs, log_templates.T, precision="highest")
    return jnp.maximum(jnp.sum(probs * log_probs, -1) - cross.max(-1), 0.0)


def _checked(labels: Any, logits: jax.Array) -> jax.Array:
    if np.shape(labels) != logits.shape[:1] or not jnp.issubdtype(jnp.result_type(labels), np.integer):
        raise ValueError(
            f"kl_matching: expected integer labels of shape {logits.shape[:1]}, got {jnp.result_type(labels)} of shape "
            f"{np.shape(labels)}. One-hot labels are labels.argmax(-1)."
        )
    return jnp.asarray(labels).astype(jnp.int32)


def _check_classes(labels: np.ndarray, num_classes: int) -> None:
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if outside.size:
        raise ValueError(f"kl_matching: expected labels in 0, …, {num_classes - 1}, got {outside[0]}.")
    empty = np.flatnonzero(np.bincount(labels, minlength=num_classes) == 0)
    if empty.size:
        named = ", ".join(map(str, empty[:10])) + ", …" * (empty.size > 10)
        raise ValueError(
            f"kl_matching: no example is of class {named}, so that it has no template. Pass more examples, or "
            "labels= where the network never predicts that class."
        )
