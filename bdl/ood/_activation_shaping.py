"""The energy of logits of features whose large values were clipped, or whose small ones were taken out."""

import functools
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bdl._data_checks import is_traced
from bdl.ood import _feature_checks as checks
from bdl.ood._detector import Detector
from bdl.ood._last_layer import LastLayer

Kind = Literal["scale", "binarise", "prune"]


class Clipped(eqx.Module):
    """The score of `react`.

    Attributes:
        last_layer: from features to logits.
        threshold: what features are clipped at.
    """

    last_layer: LastLayer
    threshold: jax.Array

    def __call__(self, features: Any) -> jax.Array:
        """The energy of the logits of clipped features, [N]."""
        return _clipped_energy(self, checks.features("react", features, self.last_layer.width))


class Shaped(eqx.Module):
    """The score of `ash`.

    Attributes:
        last_layer: from features to logits.
        prune: the share of features that are set to 0.
        kind: what becomes of the others.
    """

    last_layer: LastLayer
    prune: float = eqx.field(static=True)
    kind: Kind = eqx.field(static=True)

    def __call__(self, features: Any) -> jax.Array:
        """The energy of the logits of shaped features, [N]."""
        features = checks.features("ash", features, self.last_layer.width)
        return _shaped_energy(self, _check_positive("ash", features))


def react(features: Any, kernel: Any, bias: Any, *, quantile: float = 0.9) -> Detector:
    """The energy after features are clipped, ReAct (higher = more out-of-distribution, nats):

        score(f) = −log Σ_k exp(min(f, c) W + b)_k,   c the quantile of all numbers in the inliers' features.

    A network is sure of some outliers because of a few features that are far larger than an inlier's ever are.

    Args:
        features: of inliers, such as the training data, [N, D]: the inputs of the last layer.
        kernel: W of the last layer, [D, K].
        bias: b of the last layer, [K].
        quantile: in (0, 1). In the paper 0.9.

    Returns:
        A `Detector` of features [N, D].

    Raises:
        ValueError: shapes that do not match, numbers that are not finite, a quantile out of its range.

    Reference:
        Sun, Guo and Li (2021), ReAct: out-of-distribution detection with rectified activations,
        https://arxiv.org/abs/2111.12797

    Example:
        >>> import jax.numpy as jnp, bdl.ood
        >>> detector = bdl.ood.react(jnp.arange(11.0)[:, None], jnp.eye(1, 2), jnp.zeros(2))
        >>> detector.score.threshold, detector(jnp.array([[9.0], [1000.0]])).round(3)
        (Array(9., dtype=float32), Array([-9., -9.], dtype=float32))
    """
    last_layer = LastLayer.checked("react", kernel, bias)
    found = np.asarray(checks.features("react", features, last_layer.width))
    threshold = np.quantile(found, checks.share("react", "quantile", quantile))
    return Detector(Clipped(last_layer, jnp.float32(threshold)))


def ash(kernel: Any, bias: Any, *, prune: float = 0.9, kind: Kind = "scale") -> Detector:
    """The energy after activation shaping, ASH (higher = more out-of-distribution, nats):

        score(f) = −log Σ_k exp(shape_activations(f) W + b)_k.

    It needs no data. See `shape_activations`, which can also be applied inside of a network.

    Args:
        kernel: W of the last layer, [D, K].
        bias: b of the last layer, [K].
        prune: the share of features that are set to 0, in (0, 1).
        kind: what becomes of the others.

    Returns:
        A `Detector` of features [N, D] that are not negative: the inputs of the last layer after a ReLU.

    Raises:
        ValueError: shapes that do not match, a share or a kind that does not exist, negative features.

    Reference:
        Djurisic et al. (2023), Extremely simple activation shaping for out-of-distribution detection,
        https://arxiv.org/abs/2209.09858

    Example:
        >>> import jax.numpy as jnp, bdl.ood
        >>> detector = bdl.ood.ash(jnp.eye(4, 2), jnp.zeros(2), prune=0.5, kind="prune")
        >>> round(float(detector(jnp.array([[3.0, 1.0, 2.0, 0.0]]))[0]), 3)  # −log (exp 3 + 1)
        -3.049
    """
    checks.share("ash", "prune", prune)
    _check_kind("ash", kind)
    return Detector(Shaped(LastLayer.checked("ash", kernel, bias), prune, kind))


def shape_activations(features: Any, *, prune: float = 0.9, kind: Kind = "scale") -> jax.Array:
    """Features of which each example keeps its largest, and what the sums before and after, s₁ and s₂, make of those:

        "prune": f;   "binarise": s₁ / (number kept);   "scale": f exp(s₁ / s₂).

    Args:
        features: [N, D], not negative.
        prune: the share that is set to 0, in (0, 1); round(prune · D) of them.
        kind: one of the three.

    Returns:
        [N, D], float32. Where an example has no positive feature, zeros.

    Raises:
        ValueError: the shape is another, a feature is negative, a share or a kind that does not exist.

    Example:
        >>> import jax.numpy as jnp, bdl.ood
        >>> bdl.ood.shape_activations(jnp.array([[3.0, 1.0, 2.0, 0.0]]), prune=0.5, kind="binarise")
        Array([[3., 0., 3., 0.]], dtype=float32)
    """
    checks.share("shape_activations", "prune", prune)
    _check_kind("shape_activations", kind)
    found = _check_positive("shape_activations", checks.features("shape_activations", features))
    return _shape(found, prune, kind)


@jax.jit
def _clipped_energy(score: Clipped, features: jax.Array) -> jax.Array:
    return score.last_layer.energy(jnp.minimum(features, score.threshold))


@jax.jit
def _shaped_energy(score: Shaped, features: jax.Array) -> jax.Array:
    return score.last_layer.energy(_shape(features, score.prune, score.kind))


@functools.partial(jax.jit, static_argnames=("prune", "kind"))
def _shape(features: jax.Array, prune: float, kind: Kind) -> jax.Array:
    width = features.shape[1]
    count = max(width - round(prune * width), 1)
    values, places = jax.lax.top_k(features, count)
    before, after = features.sum(-1, keepdims=True), values.sum(-1, keepdims=True)
    if kind == "binarise":
        values = jnp.broadcast_to(before / count, values.shape)
    elif kind == "scale":
        positive = after > 0
        values = values * jnp.exp(jnp.where(positive, before / jnp.where(positive, after, 1.0), 0.0))
    return jnp.put_along_axis(jnp.zeros_like(features), places, values, axis=-1, inplace=False)


def _check_positive(name: str, features: jax.Array) -> jax.Array:
    if not is_traced(features) and (low := float(features.min())) < 0:
        raise ValueError(
            f"{name}: expected features that are not negative, the outputs of a ReLU, got {low:.4g}. For others use "
            "bdl.ood.react."
        )
    return features


def _check_kind(name: str, kind: str) -> None:
    if kind not in ("scale", "binarise", "prune"):
        raise ValueError(f'{name}: expected kind="scale", "binarise" or "prune", got {kind!r}.')
