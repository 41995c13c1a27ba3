"""Classes whose logits have noise of a size that the network predicts."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import logsumexp
from numpyro import distributions as dist

from bdl import _random
from bdl.likelihoods._heads import clipped

_CLASSES = 2  # the axis of noisy logits, after those of samples and rows
_AT_ONCE = 2**14  # numbers of noise for a row: more than these leave the caches of a processor


class HeteroscedasticCategorical(eqx.Module):
    """Noise on the logits, of a size that depends on x, integrated by Monte Carlo:

        p(y | x) = E_u[softmax(u / τ)_y] ≈ (1/T) Σₜ softmax(uₜ / τ)_y,   u = f(x) + exp(½ s(x)) ε + V(x) η,

    ε and η standard Normal. The log-probability is log-mean-exp over t of the log-softmax. It is the loss attenuation
    of classification: an example whose label the network expects to be noisy has less weight. Noise is drawn for each
    class, each sample and each row of the batch by itself; its estimate depends on the key, and by Monte Carlo error on
    an example's place in the batch. Log variances are clipped to [−30, 30]; gradients pass the clip.

    Args:
        num_samples: T, noise samples for each draw of the weights.
        temperature: τ, in the units of the logits: below 1 the softmax is nearer to an arg max of the noisy logits
            (less smoothing, more gradient variance).
        rank: R, the rank of the noise shared between classes; 0 for independent noise, which needs no V.

    Outputs are [N, ..., (2 + R) K]: K logits f, K log variances s, and V with its R columns for each class, row by row;
    or a pair (f, s) of [N, ..., K], or for R > 0 a triple (f, s, V) with V [N, ..., K, R]. Targets are integer classes
    [N, ...] in [0, K).

    Raises:
        ValueError: `num_samples` is below 1, `rank` negative or `temperature` not positive.

    Reference:
        Kendall and Gal (2017), What uncertainties do we need in Bayesian deep learning for computer vision?, equation
        12, https://arxiv.org/abs/1703.04977; Collier et al. (2021), Correlated input-dependent label noise in
        large-scale image classification, https://arxiv.org/abs/2105.10305

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> likelihood = bdl.likelihoods.HeteroscedasticCategorical(num_samples=1_000)
        >>> logits = jnp.array([[2.0, 0.0]])
        >>> for log_variance in (-9.0, 4.0):
        ...     outputs = (logits, jnp.full((1, 2), log_variance))
        ...     print(round(float(likelihood(outputs, key=jax.random.key(0)).probs[0, 0]), 1))
        0.9
        0.6
    """

    temperature: jax.Array
    num_samples: int = eqx.field(static=True)
    rank: int = eqx.field(static=True)

    def __init__(self, num_samples: int = 10, temperature: Any = 1.0, rank: int = 0):
        for name, value, least in (("num_samples", num_samples, 1), ("rank", rank, 0)):
            if not isinstance(value, int) or value < least:
                raise ValueError(
                    f"HeteroscedasticCategorical: expected `{name}` as a whole number >= {least}, got {value!r}."
                )
        if not isinstance(temperature, jax.core.Tracer) and not np.all(np.asarray(temperature) > 0):
            raise ValueError(f"HeteroscedasticCategorical: `temperature` must be positive, got {temperature}.")
        self.temperature = jnp.asarray(temperature, jnp.float32)
        self.num_samples, self.rank = num_samples, rank

    def __call__(self, outputs: Any, *, key: Any = None) -> dist.Distribution:
        """The distribution of the classes, its noise integrated.

        Raises:
            ValueError: there is no key; the outputs do not fit `rank`; or, outside of a trace, a log variance is not
                finite.
        """
        if key is None:
            raise ValueError("HeteroscedasticCategorical integrates over noise by Monte Carlo and needs a `key`.")
        logits, log_variance, factors = self._split(outputs)
        scale = jnp.exp(0.5 * clipped("HeteroscedasticCategorical", "log variance", log_variance))
        return NoisyLogits(logits, scale, factors, self.temperature, jax.random.key_data(key), self.num_samples)

    def _split(self, outputs: Any) -> tuple[jax.Array, jax.Array, Any]:
        shapes = [tuple(o.shape) for o in jax.tree.leaves(outputs)]
        rank, heads = self.rank, 2 + (self.rank > 0)
        if isinstance(outputs, tuple | list):
            logits = outputs[0]
            expected = [logits.shape, logits.shape, (*logits.shape, rank)][:heads]
            if shapes == [tuple(s) for s in expected] and logits.ndim >= 2 and logits.shape[-1] >= 2:
                return logits, outputs[1], outputs[2] if rank else None
        elif outputs.ndim >= 2 and outputs.shape[-1] % (2 + rank) == 0 and outputs.shape[-1] >= 2 * (2 + rank):
            classes = outputs.shape[-1] // (2 + rank)
            logits, log_variance, factors = jnp.split(outputs, [classes, 2 * classes], axis=-1)
            return logits, log_variance, factors.reshape(*logits.shape, rank) if rank else None
        raise ValueError(
            f"HeteroscedasticCategorical(rank={rank}) takes logits and log variances [N, ..., K] of K >= 2 classes"
            f"{f' and factors [N, ..., K, {rank}]' if rank else ''}, as a {'triple' if rank else 'pair'} or side by "
            f"side in {2 + rank} K columns, but the network's outputs have shape {', '.join(map(str, shapes))}. Give "
            f"its last layer {2 + rank} units for each class."
        )


class NoisyLogits(dist.Distribution):
    """The mean of T softmaxes: p(y) = (1/T) Σₜ softmax(noisyₜ)_y, over classes.

    The noise is not kept but drawn where it is needed, and again for gradients: of images a few samples at a time.

    Args:
        mean_logits: the logits without noise, [N, ..., K].
        scale: the standard deviations of the noise that each class has for itself, [N, ..., K].
        factors: of the noise shared between classes, [N, ..., K, R], or None.
        temperature: divides the noisy logits.
        key: the data of the key of the noise.
        num_samples: T.
    """

    pytree_data_fields = ("mean_logits", "scale", "factors", "temperature", "key")
    pytree_aux_fields = ("num_samples",)

    def __init__(
        self, mean_logits: jax.Array, scale: jax.Array, factors: Any, temperature: Any, key: Any, num_samples: int
    ):
        self.mean_logits, self.scale, self.factors = mean_logits, scale, factors
        self.temperature, self.key, self.num_samples = temperature, key, num_samples
        super().__init__(batch_shape=mean_logits.shape[:-1], validate_args=False)

    @property
    def support(self) -> Any:
        """The classes."""
        return dist.constraints.integer_interval(0, self.mean_logits.shape[-1] - 1)

    @property
    def probs(self) -> jax.Array:
        """The mean of the softmaxes."""
        total = self._reduced(lambda noisy: jax.nn.softmax(noisy, _CLASSES).sum(0), jnp.add)
        return jnp.moveaxis(total, 1, -1) / self.num_samples

    @property
    def logits(self) -> jax.Array:
        """The logarithms of `probs`."""
        log_softmax = lambda noisy: noisy - _log_total(noisy)
        total = self._reduced(lambda noisy: logsumexp(log_softmax(noisy), axis=0), jnp.logaddexp)
        return jnp.moveaxis(total, 1, -1) - np.log(self.num_samples)

    @property
    def noisy(self) -> jax.Array:
        """All noisy logits, [T, N, ..., K]."""
        sample = self._sampler()
        noisy = jnp.concatenate([sample(group) for group in range(self._groups)])
        return jnp.moveaxis(noisy, _CLASSES, -1)

    def log_prob(self, value: Any) -> jax.Array:
        """Log p(value) in nats, without the probabilities of the other classes."""

        def picked(noisy: jax.Array) -> jax.Array:
            index = jnp.broadcast_to(value, self.batch_shape)[None, :, None]
            chosen = jnp.take_along_axis(noisy, index, _CLASSES) - _log_total(noisy)
            return logsumexp(chosen.squeeze(_CLASSES), axis=0)

        return self._reduced(picked, jnp.logaddexp) - np.log(self.num_samples)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Classes."""
        return jax.random.categorical(key, self.logits, shape=sample_shape + self.batch_shape)

    @property
    def _groups(self) -> int:
        # By the size of a row, so that a row's noise does not depend on how many rows there are.
        fitting = max(_AT_ONCE // max(self.mean_logits[0].size, 1), 1)
        groups = range(1, self.num_samples + 1)
        return next(g for g in groups if self.num_samples % g == 0 and self.num_samples // g <= fitting)

    def _sampler(self) -> Callable[[Any], jax.Array]:
        """From a group of samples to its noisy logits, [T / groups, N, K, ...]."""
        # Sums over classes are sums of whole images with classes before the pixels: twice as fast on a host.
        logits, scale = (jnp.moveaxis(a, -1, 1) / self.temperature for a in (self.mean_logits, self.scale))
        factors = None if self.factors is None else jnp.moveaxis(self.factors, (-2, -1), (1, 2)) / self.temperature
        classes, rank = logits.shape[1], 0 if factors is None else factors.shape[2]
        shape = (self.num_samples // self._groups, classes + rank, *logits.shape[2:])

        def sample(group: Any) -> jax.Array:
            key = jax.random.fold_in(jax.random.wrap_key_data(self.key), group)
            # A key for each row: its noise is the same whatever rows stand behind it.
            keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(logits.shape[0]))
            # [T / groups, N, K + R, ...]
            noise = jnp.swapaxes(jax.vmap(lambda k: _random.normal(k, shape))(keys), 0, 1)
            own, shared = jnp.split(noise, [classes], axis=_CLASSES)
            noisy = logits + scale * own
            if factors is None:
                return noisy
            return noisy + jnp.einsum("nkr...,tnr...->tnk...", factors, shared, precision="highest")

        return sample

    def _reduced(self, function: Callable[[jax.Array], jax.Array], combine: Callable[..., jax.Array]) -> jax.Array:
        """`function` of the noisy logits of every group, combined."""
        sample = self._sampler()
        if self._groups == 1:
            return function(sample(0))
        one = jax.checkpoint(lambda group: function(sample(group)))
        add = lambda total, group: (combine(total, one(group)), None)
        return jax.lax.scan(add, one(0), jnp.arange(1, self._groups))[0]


def _log_total(noisy: jax.Array) -> jax.Array:
    """The logarithm of Σ exp over the classes, of finite numbers."""
    largest = jax.lax.stop_gradient(noisy.max(_CLASSES, keepdims=True))
    return largest + jnp.log(jnp.exp(noisy - largest).sum(_CLASSES, keepdims=True))
