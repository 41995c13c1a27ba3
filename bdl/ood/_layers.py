"""Several layers' scores as one, with weights that are learned; and the features of layers, out of a network."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bdl._in_batches import in_batches, joined
from bdl.networks._base import Network
from bdl.networks._features import features as with_features
from bdl.ood._detector import Detector
from bdl.ood._through import as_function


class WeightedLayers(eqx.Module):
    """The score of `layers`.

    Attributes:
        scores: of each layer's features, by name.
        weights: of each layer's score, by name.
        bias: the logit where all scores are 0.
    """

    scores: dict[str, Callable[[Any], jax.Array]]
    weights: dict[str, jax.Array]
    bias: jax.Array

    def __call__(self, features: Mapping[str, Any]) -> jax.Array:
        """The log odds of an outlier, [N]."""
        found = _each("layers", self.scores, features)
        return sum((self.weights[name] * score for name, score in found.items()), start=self.bias)


class LayerFeatures(eqx.Module):
    """x ↦ the features of layers; see `layer_features`."""

    function: Callable[[Any], Any]
    activation: Callable[[Any], Any] | None = eqx.field(static=True)
    single: bool = eqx.field(static=True)
    batch_size: int | None = eqx.field(static=True)

    def __call__(self, x: Any) -> Any:
        """The features of inputs."""
        return joined(in_batches(lambda batch: _layer_features(self, batch), x, self.batch_size))


def layers(
    detectors: Mapping[str, Detector], inliers: Mapping[str, Any], outliers: Mapping[str, Any], *, penalty: float = 1.0
) -> Detector:
    """Detectors of several layers as one, weighted by a logistic regression (higher = more out-of-distribution, nats):

        score(x) = b + Σ_l w_l score_l(x_l) = log P(outlier | x) − log P(inlier | x).

    Inliers are to be others than those the detectors were fitted to. Outliers need not be those that will come:
    adversarial inputs (`fgsm`, `pgd`) will do. Both groups count the same, whatever their sizes.

    Args:
        detectors: of each layer's features, by the layer's name.
        inliers: the features of each layer, {name: [N, D_l]}; further layers are left alone.
        outliers: likewise, [M, D_l].
        penalty: λ > 0 of λ/2 ‖w‖² for scores in units of their standard deviations, beside the sum of N + M losses.

    Returns:
        A `Detector` of features {name: [N, D_l]}, such as `layer_features` makes.

    Raises:
        ValueError: no detector, a layer that does not exist, scores that are not finite, a penalty not above 0.

    Reference:
        Lee et al. (2018), A simple unified framework for detecting out-of-distribution samples and adversarial attacks,
        https://arxiv.org/abs/1807.03888

    Example:
        >>> import jax.numpy as jnp, bdl.ood
        >>> detectors = {name: bdl.ood.Detector(lambda f: f[:, 0]) for name in ("first", "last")}
        >>> inliers = {"first": jnp.array([[0.0], [1.0]]), "last": jnp.array([[0.0], [0.0]])}
        >>> outliers = {"first": jnp.array([[1.0], [0.0]]), "last": jnp.array([[1.0], [1.0]])}
        >>> detector = bdl.ood.layers(detectors, inliers, outliers)
        >>> {name: round(float(w), 2) for name, w in detector.score.weights.items()}
        {'first': 0.0, 'last': 2.09}
    """
    if not detectors:
        raise ValueError("layers: expected a detector of at least one layer, got none.")
    if not penalty > 0:
        raise ValueError(f"layers: expected a penalty above 0, got {penalty}. Without one, weights may grow for ever.")
    by_name = dict(detectors)
    columns = lambda group: np.stack([np.asarray(s, np.float64) for s in _each("layers", by_name, group).values()], 1)
    weights, bias = _logistic_regression(columns(inliers), columns(outliers), penalty)
    named = {name: jnp.float32(w) for name, w in zip(by_name, weights, strict=True)}
    scores = {name: getattr(d, "score", d) for name, d in by_name.items()}
    return Detector(WeightedLayers(scores, named, jnp.float32(bias)))


def layer_features(
    network: Network,
    where: str | Sequence[str],
    *,
    activation: Callable[[Any], Any] | None = None,
    batch_size: int | None = None,
) -> LayerFeatures:
    """From inputs to the features of a network's layers, for `through`: x ↦ [N, D], or a dict of several layers.

    Args:
        network: with its weights, from `bdl.from_linen` or `bdl.from_nnx`; it is applied as in prediction.
        where: the path of one layer, for [N, D]; or several paths or globs, for a dict. See `bdl.networks.features`.
        activation: applied to what a layer returned, such as `jax.nn.relu`: functions between layers are no layers.
            Pixels are averaged after it.
        batch_size: examples at once, so that memory does not grow with their number; all where `None`.

    Returns:
        A compiled function from inputs to features, of which pixels and time steps are averaged (`pool`).

    Raises:
        ValueError: the network has no weights; or, where it is applied, a path matches no layer: they are listed.

    Example:
        >>> import jax, jax.numpy as jnp, bdl, bdl.ood
        >>> network = bdl.networks.mlp(jax.random.key(0), jnp.ones((1, 3)), 2, widths=(50, 20))
        >>> bdl.ood.layer_features(network, "Dense_1", activation=jax.nn.relu)(jnp.ones((5, 3))).shape
        (5, 20)
        >>> jax.tree.map(jnp.shape, bdl.ood.layer_features(network, "Dense_*")(jnp.ones((5, 3))))
        {'Dense_0': (5, 50), 'Dense_1': (5, 20)}
    """
    single = isinstance(where, str) and not set(where) & set("*?[")
    return LayerFeatures(as_function("layer_features", with_features(network, where)), activation, single, batch_size)


def pool(features: Any) -> Any:
    """Features [N, ..., D] averaged over all axes but the first and the last, [N, D]; of each array of a tree.

    Example:
        >>> import jax.numpy as jnp, bdl.ood
        >>> bdl.ood.pool({"Conv_0": jnp.ones((5, 8, 8, 3)), "Dense_0": jnp.ones((5, 2))})["Conv_0"].shape
        (5, 3)
    """
    return jax.tree.map(lambda a: jnp.asarray(a).astype(jnp.float32).mean(tuple(range(1, np.ndim(a) - 1))), features)


@eqx.filter_jit
def _layer_features(self: LayerFeatures, x: Any) -> Any:
    _, found = self.function(x)
    found = pool(found if self.activation is None else jax.tree.map(self.activation, found))
    return next(iter(found.values())) if self.single else found


def _each(name: str, scores: Mapping[str, Any], features: Any) -> dict[str, jax.Array]:
    """The score of each layer."""
    if not isinstance(features, Mapping):
        raise ValueError(
            f"{name}: expected a dict of features by layer, got {type(features).__name__}. Pass "
            "{'layer': features}, or what bdl.ood.layer_features makes."
        )
    missing = [layer for layer in scores if layer not in features]
    if missing:
        raise ValueError(f"{name}: there are no features of the layer {missing[0]!r}; there are {', '.join(features)}.")
    return {layer: score(features[layer]) for layer, score in scores.items()}


def _logistic_regression(inliers: np.ndarray, outliers: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    """Weights [L] and bias that separate rows of scores, by Newton's method in float64; each group has half the weight.

    It minimises Σₙ cₙ log(1 + exp(−yₙ (w·zₙ + b))) + λ/2 ‖w‖², with z the standardised scores.
    """
    scores = np.concatenate([inliers, outliers])
    target = np.repeat([0.0, 1.0], [len(inliers), len(outliers)])
    importance = len(scores) / 2 / np.repeat([len(inliers), len(outliers)], [len(inliers), len(outliers)])
    mean, spread = scores.mean(0), scores.std(0)
    spread = np.where(spread > 0, spread, 1.0)
    design = np.append((scores - mean) / spread, np.ones((len(scores), 1)), 1)
    ridge = penalty * np.append(np.ones(scores.shape[1]), 0.0)

    def loss(weights: np.ndarray) -> float:
        logit = design @ weights
        return float(importance @ (np.logaddexp(0, logit) - target * logit) + 0.5 * ridge @ weights**2)

    weights = np.zeros(design.shape[1])
    for _ in range(100):
        probs = 0.5 * (1 + np.tanh(0.5 * (design @ weights)))
        gradient = design.T @ (importance * (probs - target)) + ridge * weights
        curvature = (design.T * (importance * probs * (1 - probs))) @ design + np.diag(ridge)
        step = np.linalg.lstsq(curvature, gradient, rcond=None)[0]
        # The loss is convex: half the step, until it falls.
        size = 1.0
        while size > 1e-8 and loss(weights - size * step) > loss(weights):
            size /= 2
        weights = weights - size * step
        if np.abs(size * step).max() < 1e-10:
            break
    scaled = weights[:-1] / spread
    return scaled, float(weights[-1] - scaled @ mean)
