"""A network whose last layer is a Gaussian process, approximated by random Fourier features."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdl._keys import derive
from bdl.networks._base import Network
from bdl.networks._features import capturing, knows_layers

_LAYER = "random_features"  # its path in the state, and for `bdl.networks.features`
_TINY = 1e-6  # beside the variance of one example's features, so that constant ones have a scale


def random_features(
    key: Any,
    network: Network,
    x: Any,
    num_outputs: int,
    *,
    num_features: int = 1024,
    length_scale: float | None = None,
    normalise: bool = True,
) -> Network:
    """`network` with a last layer that is a Gaussian process of its features h, approximated: the head of SNGP.

        f(x) = βᵀ Φ(h),   Φ(h) = √(2/D) cos(Wᵀ h / ℓ + b),   W ~ Normal(0, 1), b ~ Uniform(0, 2π),

    with W and b drawn once and never trained. Under the prior β ~ Normal(0, σ²) every output is a Gaussian process of
    covariance Φᵀ Φ′ σ² ≈ σ² exp(−‖h − h′‖² / (2 ℓ²)), to about 1/√D: far from all data in h it knows nothing, and
    `gaussian_process` says so in one pass. It is as aware of distances as h is: give `network` residual blocks and
    `spectral_norm`.

    The prior of β is yours to say, as `bdl.priors.fan_in` is for other layers: {"head/*": bdl.priors.normal(scale=1.0),
    "*": ...}. Posteriors over the weights are those of any network.

    Args:
        key: of W, b and the first β.
        network: with its weights, of features [N, ..., H]: the body. What it calls its head may be its last layer.
        x: inputs, or their `jax.ShapeDtypeStruct`; only shapes matter.
        num_outputs: K, the number of classes for `bdl.likelihoods.Categorical`.
        num_features: D.
        length_scale: ℓ, in the unit of h; √H where `None`, so that normalised features at a right angle are √2 ℓ apart.
        normalise: whether h is first brought to mean 0 and variance 1 over the H features of each example.

    Returns:
        The network, with params {"body": its own, "head": {"kernel": β}}, β [D, K], and the state {"body": its own,
        "random_features": {"kernel": W / ℓ, "bias": b}}. Φ is what `bdl.ood.layer_features(network, "random_features")`
        returns, [N, D]; the body's layers stand under `"body/..."`.

    Raises:
        ValueError: the network has no weights or no features, or a number is out of its range.

    Reference:
        Rahimi and Recht (2007), Random features for large-scale kernel machines,
        https://papers.nips.cc/paper/3182-random-features-for-large-scale-kernel-machines; Liu et al. (2020), Simple and
        principled uncertainty estimation with deterministic deep learning via distance awareness,
        https://arxiv.org/abs/2006.10108

    Example:
        >>> import jax, jax.numpy as jnp, bdl, bdl.ood
        >>> x = jnp.ones((5, 3))
        >>> body = bdl.networks.mlp(jax.random.key(0), x, 8)
        >>> network = bdl.ood.random_features(jax.random.key(1), body, x, 2, num_features=64)
        >>> network.apply(network.params, network.state, x)[0].shape, network.params["head"]["kernel"].shape
        ((5, 2), (64, 2))
        >>> bdl.ood.layer_features(network, "random_features")(x).shape
        (5, 64)
    """
    if network.params is None:
        raise ValueError("random_features: this network has no weights. Pass the network that the model is made of.")
    for called, count in (("num_outputs", num_outputs), ("num_features", num_features)):
        if not isinstance(count, int | np.integer) or count < 1:
            raise ValueError(f"random_features: expected `{called}` as a whole number of at least 1, got {count!r}.")
    width = _width(network, x)
    scale = math.sqrt(width) if length_scale is None else length_scale
    if not 0 < scale < math.inf:
        raise ValueError(f"random_features: expected a finite length_scale above 0, got {length_scale!r}.")
    layer = {
        "kernel": jax.random.normal(derive(key, "kernel"), (width, num_features)) / scale,
        "bias": jax.random.uniform(derive(key, "bias"), (num_features,), maxval=2 * math.pi),
    }
    head = jax.random.normal(derive(key, "head"), (num_features, num_outputs))
    return dataclasses.replace(
        network,
        function=_RandomFeatures(network.function, normalise),
        params={"body": network.params, "head": {"kernel": head}},
        state={"body": network.state, _LAYER: layer},
    )


@dataclasses.dataclass(frozen=True)
class _RandomFeatures:
    """`capture` is whether outputs come with Φ, and with the body's layers where it knows them: see `features`."""

    body: Callable[..., Any]
    normalise: bool
    capture: bool = False

    @property
    def takes_key(self) -> bool:
        return bool(getattr(self.body, "takes_key", True))

    def __call__(self, params: Any, state: Any, x: Any, key: Any, train: bool) -> tuple[Any, Any]:
        knows = self.capture and knows_layers(self.body)
        body = capturing(self.body) if knows else self.body
        features, inner = body(params["body"], state["body"], x, key, train)
        features, layers = features if knows else (features, {})
        found = _fourier(state[_LAYER], features, self.normalise)
        kernel = params["head"]["kernel"]
        # f = βᵀ Φ
        outputs = found.astype(kernel.dtype) @ kernel
        if self.capture:
            outputs = outputs, {**{f"body/{path}": value for path, value in layers.items()}, _LAYER: found}
        return outputs, {"body": inner, _LAYER: state[_LAYER]}


def _fourier(layer: Any, features: jax.Array, normalise: bool) -> jax.Array:
    features = features.astype(jnp.float32)
    if normalise:
        features = features - features.mean(-1, keepdims=True)
        features = features * jax.lax.rsqrt((features**2).mean(-1, keepdims=True) + _TINY)
    # The phase in full precision, as a short length scale makes it large.
    phase = jnp.matmul(features, layer["kernel"], precision="highest")
    bias = jnp.expand_dims(layer["bias"], tuple(range(phase.ndim - 1)))
    # Φ = √(2/D) cos(Wᵀ h / ℓ + b)
    return math.sqrt(2 / phase.shape[-1]) * jnp.cos(phase + bias)


def _width(network: Network, x: Any) -> int:
    """H, of the features that the network makes of inputs like `x`."""
    found = jax.eval_shape(lambda x: network.apply(network.params, network.state, x)[0], x)
    if not hasattr(found, "shape") or len(found.shape) < 2 or not jnp.issubdtype(found.dtype, jnp.floating):
        got = f"{found.dtype}{list(found.shape)}" if hasattr(found, "shape") else f"a {type(found).__name__}"
        raise ValueError(
            f"random_features: expected a network of features [N, ..., H], got outputs that are {got}. Make one whose "
            "outputs are an array with the features along its last axis."
        )
    return int(found.shape[-1])
