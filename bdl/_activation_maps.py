"""Class activation maps over draws of the weights: where the network looks, and how sure it is of it."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from bdl._bind import bind
from bdl._data_checks import check_data, is_traced
from bdl._draws import check_counts, default_chunk, draw, is_enumerated, over_draws
from bdl._keys import check_key
from bdl._moments import Moments
from bdl.model import Model
from bdl.networks._activation_maps import check_error, with_activation_maps


class ActivationMaps(eqx.Module):
    """Class activation maps, in units of the logits.

    The mean of a map over its pixels, plus the bias, is the logit.

    Attributes:
        mean: over draws of the weights, [N, H, W, C].
        standard_deviation: over draws of the weights, [N, H, W, C]: how unsure the network is of where it looks.
        bias: the mean over draws of the part of the logits that no pixel has, [N, C].
        num_samples: the number of draws, S.
    """

    mean: jax.Array
    standard_deviation: jax.Array
    bias: jax.Array
    num_samples: jax.Array


def activation_maps(
    key: Any,
    posterior: Any,
    model: Model,
    x: Any,
    *,
    num_samples: int | None = None,
    classes: Sequence[int] | None = None,
    logits: Callable[[Any], Any] | None = None,
    upsample: bool = False,
    chunk_size: int | None = None,
    check: bool = True,
) -> ActivationMaps:
    """Where in an image the logit of each class comes from: mean and standard deviation over draws of the weights of

        map_c(i, j) = Σ_k w_kc f_k(i, j),   logit_c = bias_c + the mean over pixels of map_c,

    where f are the features whose mean over the pixels the last dense layer, of weights w, turns into logits. The
    features and the layer are found by tracing the network, whatever it is written in and however its layers are
    called; where the mean comes after the layer (a 1 × 1 convolution), the maps are its outputs, with their bias.
    Draws are those of `bdl.predict` with the same key, in memory that does not grow with their number. A class may be
    compared with another by the difference of their maps: softmax takes no notice of what is common to all.

    Args:
        key: one random key.
        posterior: anything with `sample(key)`.
        model: its network ends in the mean over all pixels and one dense layer, or a 1 × 1 convolution and the mean;
            any likelihood.
        x: images [N, H, W, C]; sequences [N, T, D] and volumes likewise.
        num_samples: S, the number of draws; may be left out for a posterior without randomness.
        classes: those to have maps of, in this order; all by default. Memory grows with their number.
        logits: from the network's outputs to the logits [N, C], for a network that returns more than these; define it
            once, outside of loops.
        upsample: maps in the size of the images, by linear interpolation, instead of that of the features. Their mean
            is then only near to the logit less the bias.
        chunk_size: draws computed at once; by default chosen for the device and the batch.
        check: whether inputs are checked for NaN, and the maps against the logits. Under `jit` and `vmap` there are no
            checks.

    Raises:
        ValueError: the network ends in another way, the outputs are no logits, or bad counts, classes or inputs.

    Reference:
        Zhou et al. (2016), Learning deep features for discriminative localization, https://arxiv.org/abs/1512.04150

    Example:
        >>> import jax, jax.numpy as jnp, flax.linen as nn, bdl
        >>> module = nn.Sequential([nn.Conv(4, (3, 3)), nn.relu, lambda f: f.mean((1, 2)), nn.Dense(2)])
        >>> x = jax.random.normal(jax.random.key(0), (5, 6, 8, 1))
        >>> network = bdl.from_linen(module, module.init(jax.random.key(1), x))
        >>> posterior = bdl.variational(network.params, bdl.families.normal(scale=0.1))
        >>> model = bdl.Model(network, bdl.likelihoods.Categorical())
        >>> maps = bdl.activation_maps(jax.random.key(2), posterior, model, x, num_samples=100)
        >>> maps.mean.shape, maps.standard_deviation.shape, maps.bias.shape
        ((5, 6, 8, 2), (5, 6, 8, 2), (5, 2))
    """
    key = check_key(key)
    num_samples = check_counts("activation_maps", posterior, model, num_samples, chunk_size)
    check = check and not is_traced((key, posterior, model, x))
    x = jnp.asarray(x)
    if x.ndim < 3:
        raise ValueError(f"activation_maps: expected images [N, H, W, C], got inputs of shape {tuple(x.shape)}.")
    if check:
        check_data(x)
    chosen = None if classes is None else tuple(int(c) for c in classes)
    chunk = min(chunk_size or default_chunk(x), num_samples)
    maps, error = _activation_maps(key, posterior, model, x, num_samples, chunk, chosen, logits, upsample)
    if check and not is_traced(error):
        check_error(float(error))
    return maps


@functools.partial(jax.jit, static_argnames=("num_samples", "chunk", "classes", "logits", "upsample"))
def _activation_maps(
    key: Any, posterior: Any, model: Model, x: Any, num_samples: int, chunk: int, classes: Any, logits: Any,
    upsample: bool,
) -> tuple[ActivationMaps, jax.Array]:  # fmt: skip
    posterior, model = bind(posterior, model, x)
    size = x.shape[1:-1] if upsample else None
    network = with_activation_maps(model.network, logits, classes, size)
    mapping = eqx.tree_at(lambda m: m.network, model, network)
    one = lambda index: draw(key, posterior, mapping, x, "shared", index)[0]

    def add(carry: Any, found: Any, valid: jax.Array) -> Any:
        maps, bias, error = carry
        maps, bias = (m.merge(Moments.of(v, valid)) for m, v in ((maps, found.maps), (bias, found.bias)))
        return maps, bias, jnp.maximum(error, found.error.max())

    like = jax.eval_shape(one, 0)
    carry = Moments.empty(like.maps), Moments.empty(like.bias), jnp.zeros(())
    maps, bias, error = over_draws(one, add, carry, num_samples, chunk)
    spread = jnp.sqrt(maps.variance(ddof=0 if is_enumerated(posterior, model) else 1))
    return ActivationMaps(maps.mean, spread, bias.mean, maps.count.astype(jnp.int32)), error
