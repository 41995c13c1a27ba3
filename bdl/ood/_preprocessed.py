"""A small step of the inputs towards a lower score, which inliers gain more from."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bdl._convolutions import fast_images
from bdl._in_batches import in_batches, joined
from bdl.ood._detector import Detector


class Preprocessed(eqx.Module):
    """x ↦ score(x − ε sign(∇ₓ score(x))), in batches."""

    score: Callable[[Any], jax.Array]
    epsilon: jax.Array
    batch_size: int | None = eqx.field(static=True, default=None)

    def __call__(self, x: Any) -> jax.Array:
        """The scores [N] of inputs, examples along axis 0."""
        if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
            raise ValueError(
                f"preprocessed: expected floating inputs, got {jnp.result_type(x)}: a step is added to them."
            )
        scores: jax.Array = joined(in_batches(lambda batch: _score(self, batch), x, self.batch_size))
        return scores


def preprocessed(detector: Detector, *, epsilon: Any, batch_size: int | None = None) -> Detector:
    """A detector of inputs that first moves them towards a lower score (higher = more out-of-distribution):

        score(x̃),   x̃ = x − ε sign(∇ₓ score(x)).

    The input preprocessing of the Mahalanobis detector, for any whose score has a gradient:
    `preprocessed(through(layer_features(network, "Dense_1"), mahalanobis(...)), epsilon=0.0014)`.

    Args:
        detector: of inputs; its held-out inliers are forgotten, as scores are others now.
        epsilon: ε ≥ 0 in the inputs' unit: a number, or an array that broadcasts against one example.
        batch_size: examples at once, so that memory does not grow with their number; all where `None`.

    Raises:
        ValueError: ε is negative or not finite; and at the call, inputs that are not floating.
        TypeError: the detector cannot be called.

    Reference:
        Lee et al. (2018), A simple unified framework for detecting out-of-distribution samples and adversarial attacks,
        https://arxiv.org/abs/1807.03888

    Example:
        >>> import jax.numpy as jnp, bdl.ood
        >>> detector = bdl.ood.preprocessed(bdl.ood.Detector(lambda x: (x**2).sum(-1)), epsilon=0.5)
        >>> detector(jnp.array([[2.0, 0.0], [-1.0, 3.0]]))
        Array([2.25, 6.5 ], dtype=float32)
    """
    score = detector.score if isinstance(detector, Detector) else detector
    if not callable(score):
        raise TypeError(f"preprocessed: expected a Detector of inputs, got {type(detector).__name__}.")
    if not (np.isfinite(epsilon).all() and np.all(np.asarray(epsilon) >= 0)):
        raise ValueError(f"preprocessed: expected epsilon of at least 0 and finite, got {epsilon}.")
    return Detector(Preprocessed(score, jnp.asarray(epsilon).astype(jnp.float32), batch_size))


@eqx.filter_jit
def _score(self: Preprocessed, x: jax.Array) -> jax.Array:
    slope = fast_images(jax.grad(lambda x: self.score(x).astype(jnp.float32).sum()))(x)
    return self.score(stepped(x, slope, self.epsilon))


def stepped(x: jax.Array, slope: jax.Array, epsilon: jax.Array) -> jax.Array:
    """X − ε sign(slope), with an ε that broadcasts against one example."""
    step = jnp.expand_dims(epsilon, tuple(range(x.ndim - epsilon.ndim))) * jnp.sign(slope).astype(jnp.float32)
    return x - step.astype(x.dtype)
