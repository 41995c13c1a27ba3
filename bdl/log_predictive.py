"""The log predictive density of targets, streamed over draws."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bdl._bind import bind
from bdl._data_checks import check_data, is_traced
from bdl._draws import check_counts, default_chunk, draw, over_draws
from bdl._in_batches import in_batches, joined
from bdl._keys import check_key, derive
from bdl.model import Model


def log_predictive(
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
    """The log predictive density of each target, in nats (higher is better):

        log p(yₙ | xₙ) ≈ log (1/S) Σₛ p(yₙ | f(xₙ; wₛ)).

    The draws are those of `bdl.predict` with the same key. By Jensen's inequality the estimate is biased downwards, by
    O(1 / S).

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
        [N], float32.

    Raises:
        ValueError: bad counts, or data that are not finite or do not match the likelihood.

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.ones((3, 1))})
        >>> posterior = bdl.variational(network.params, bdl.families.point)
        >>> model = bdl.Model(network, bdl.likelihoods.Normal(scale=1.0))
        >>> bdl.log_predictive(jax.random.key(0), posterior, model, (jnp.ones((2, 3)), 3 * jnp.ones((2, 1))))
        Array([-0.9189385, -0.9189385], dtype=float32)
    """
    num_samples = check_counts("log_predictive", posterior, model, num_samples, chunk_size)
    key = check_pair(key, posterior, model, data, check)

    def run(batch: Any) -> jax.Array:
        chunk = min(chunk_size or default_chunk(batch[0]), num_samples)
        return _log_predictive(key, posterior, model, *batch, num_samples, chunk)

    found: jax.Array = joined(in_batches(run, data, batch_size))
    return found


def check_pair(key: Any, posterior: Any, model: Model, data: tuple[Any, Any], check: bool) -> Any:
    """The key, after inputs and targets have been looked at where `check` and they have values."""
    key = check_key(key)
    if check and not is_traced((key, posterior, model, data)):
        x, y = data
        check_data(x, y, finite_targets=False)
        model.check_targets(jax.eval_shape(_outputs, key, posterior, model, x), y)
    return key


def log_likelihoods(key: Any, posterior: Any, model: Model, x: Any, y: Any) -> Callable[[Any], jax.Array]:
    """From the index of a draw to the log-likelihood of each row under it, [N]; posterior and model are bound."""

    def one(index: Any) -> jax.Array:
        outputs, draw_key, drawn = draw(key, posterior, model, x, "shared", index)
        return drawn.log_likelihood(derive(draw_key, "likelihood"), outputs, y)

    return one


@jax.jit
def _outputs(key: Any, posterior: Any, model: Model, x: Any) -> Any:
    posterior, model = bind(posterior, model, x)
    return draw(key, posterior, model, x, "shared", 0)[0]


@functools.partial(jax.jit, static_argnames=("num_samples", "chunk"))
def _log_predictive(key: Any, posterior: Any, model: Model, x: Any, y: Any, num_samples: int, chunk: int) -> jax.Array:
    posterior, model = bind(posterior, model, x)
    one = log_likelihoods(key, posterior, model, x, y)

    def add(total: jax.Array, terms: jax.Array, valid: jax.Array) -> jax.Array:
        return jnp.logaddexp(total, jax.nn.logsumexp(jnp.where(valid[:, None], terms, -jnp.inf), 0))

    total: jax.Array = over_draws(one, add, jnp.full(jax.eval_shape(one, 0).shape, -jnp.inf), num_samples, chunk)
    return total - math.log(num_samples)
