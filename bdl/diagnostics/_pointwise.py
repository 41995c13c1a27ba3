"""The log-likelihood of each target under each draw: what cross-validation and joint predictions are made of."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from bdl._bind import bind
from bdl._draws import check_counts, default_chunk, each, once_outside
from bdl._in_batches import in_batches, joined
from bdl.log_predictive import check_pair, log_likelihoods
from bdl.model import Model


def pointwise_log_likelihood(
    key: Any,
    posterior: Any,
    model: Model,
    data: tuple[Any, Any],
    *,
    num_samples: int | None = None,
    chunk_size: int | None = None,
    batch_size: int | None = None,
    check: bool = True,
) -> jax.Array:
    """The log-likelihood of each target under each draw of the weights, in nats (higher is better):

        log p(yₙ | f(xₙ; wₛ)).

    The draws are those of `bdl.predict` and `bdl.log_predictive` with the same key; the log-mean-exp over axis 0 is
    `bdl.log_predictive`. It keeps all S · N numbers, 4 bytes each: 40 MB for 1,000 draws and 10,000 examples.

    Args:
        key: one random key.
        posterior: anything with `sample(key)`.
        model: network and likelihood.
        data: inputs and targets, (x, y), examples along axis 0.
        num_samples: S; may be left out for a posterior without randomness.
        chunk_size: draws computed at once; by default chosen for the device and the batch.
        batch_size: examples at once, as in `bdl.predict`.
        check: whether the data are checked for NaN, and targets for the likelihood's support. Not under a trace.

    Returns:
        [S, N], float32.

    Raises:
        ValueError: bad counts, or data that are not finite or do not match the likelihood.

    Example:
        >>> import jax, jax.numpy as jnp, bdl, bdl.diagnostics
        >>> network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.ones((3, 1))})
        >>> posterior = bdl.variational(network.params, bdl.families.normal(scale=0.1))
        >>> model, data = bdl.Model(network, bdl.likelihoods.Normal(scale=1.0)), (jnp.ones((2, 3)), jnp.ones((2, 1)))
        >>> bdl.diagnostics.pointwise_log_likelihood(jax.random.key(0), posterior, model, data, num_samples=50).shape
        (50, 2)
    """
    num_samples = check_counts("pointwise_log_likelihood", posterior, model, num_samples, chunk_size)
    key = check_pair(key, posterior, model, data, check)

    def run(batch: Any) -> jax.Array:
        chunk = min(chunk_size or default_chunk(batch[0]), num_samples)
        return _pointwise(key, posterior, model, *batch, num_samples, chunk)

    found: jax.Array = joined(in_batches(run, data, batch_size), axis=1)
    return found


@functools.partial(jax.jit, static_argnames=("num_samples", "chunk"))
def _pointwise(key: Any, posterior: Any, model: Model, x: Any, y: Any, num_samples: int, chunk: int) -> jax.Array:
    posterior, model = bind(posterior, model, x)
    one = log_likelihoods(key, posterior, model, x, y)

    def chunk_of_draws(start: jax.Array, _: Any) -> tuple[jax.Array, jax.Array]:
        return start + chunk, each(one, start + jnp.arange(chunk))

    start = jnp.zeros((), jnp.int32)
    _, rows = jax.lax.scan(once_outside(chunk_of_draws, start), start, length=-(-num_samples // chunk))
    return rows.reshape(-1, rows.shape[-1])[:num_samples]
