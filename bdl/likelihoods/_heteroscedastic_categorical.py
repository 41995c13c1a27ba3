"""Classes whose logits have noise of a size that the network predicts."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import log_softmax, logsumexp
from numpyro import distributions as dist

from bdl import _random
from bdl.likelihoods._heads import clipped


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
        # A key for each row: its noise is the same whatever rows stand behind it.
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(logits.shape[0]))
        shape = (self.num_samples, *logits.shape[1:-1], logits.shape[-1] + self.rank)
        noise = jnp.swapaxes(jax.vmap(lambda k: _random.normal(k, shape))(keys), 0, 1)  # [T, N, ..., K + R]
        own, shared = jnp.split(noise, [logits.shape[-1]], axis=-1)
        noisy = logits + scale * own
        if self.rank:
            noisy += jnp.einsum("n...kr,tn...r->tn...k", factors, shared, precision="highest")
        return NoisyLogits(noisy / self.temperature, logits)

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


class NoisyLogits(dist.CategoricalLogits):
    """The mean of T softmaxes: p(y) = (1/T) Σₜ softmax(noisyₜ)_y, over classes.

    Args:
        noisy: [T, N, ..., K].
        mean_logits: the logits without noise, [N, ..., K].
    """

    pytree_data_fields = ("noisy", "mean_logits")

    def __init__(self, noisy: jax.Array, mean_logits: jax.Array):
        self.noisy, self.mean_logits = noisy, mean_logits
        # log (1/T) Σₜ softmax(noisyₜ); a program that does not use it does not compute it
        super().__init__(logits=logsumexp(log_softmax(noisy), axis=0) - np.log(noisy.shape[0]), validate_args=False)

    @property
    def probs(self) -> jax.Array:
        """The mean of the softmaxes."""
        return jax.nn.softmax(self.noisy).mean(0)

    def log_prob(self, value: Any) -> jax.Array:
        """Log p(value) in nats, without the probabilities of the other classes."""
        index = jnp.broadcast_to(value, self.noisy.shape[:-1])[..., None]
        picked = jnp.take_along_axis(self.noisy, index, -1)[..., 0] - logsumexp(self.noisy, axis=-1)
        return logsumexp(picked, axis=0) - np.log(self.noisy.shape[0])
