"""Posterior predictive checks: could the fitted model have made these data?"""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from bdl._bind import bind
from bdl._data_checks import check_data, is_traced
from bdl._draws import check_counts, default_chunk, draw, each, once_outside
from bdl._keys import check_key, derive
from bdl.model import Model


class PredictiveCheck(eqx.Module):
    """A statistic of the data and of data that the model made.

    Attributes:
        observed: T(y), of the statistic's shape [...].
        replicated: T of one data set for each draw, [S, ...].
        p_value: P(T(replicated) > T(y)) + ½ P(T(replicated) = T(y)), [...]. ½ is perfect; near 0 the data have a larger
            statistic than the model makes, near 1 a smaller one.
    """

    observed: jax.Array
    replicated: jax.Array
    p_value: jax.Array


def posterior_predictive_check(
    key: Any,
    posterior: Any,
    model: Model,
    data: tuple[Any, Any],
    statistic: Callable[[Any], Any],
    *,
    num_samples: int | None = None,
    chunk_size: int | None = None,
) -> PredictiveCheck:
    """A statistic of the targets beside that of targets drawn from the posterior predictive, at the same inputs:

        p = P(T(y_rep) ≥ T(y)),   y_rep ~ p(y | f(x; w)),   w ~ q(w).

    The data have been used to fit, so p is no frequency of false alarms: it tends to ½. Choose statistics that the
    likelihood does not fit by itself: the largest residual, the share of zeros, a correlation along x.

    Args:
        key: one random key.
        posterior: anything with `sample(key)`.
        model: network and likelihood.
        data: inputs and targets, (x, y).
        statistic: T, a function of targets [N, ...] that `jax.vmap` takes; it may return several numbers as an array,
            and may close over x. The same function does not compile again.
        num_samples: S; may be left out for a posterior without randomness.
        chunk_size: data sets at once; by default chosen for the device and the inputs.

    Raises:
        ValueError: bad counts or inputs, or targets that are not of the shape that the likelihood draws (a pair of
            targets and a mask, say).

    Reference:
        Gelman, Meng and Stern (1996), Posterior predictive assessment of model fitness via realized discrepancies

    Example:
        >>> import jax, jax.numpy as jnp, bdl, bdl.diagnostics
        >>> network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.zeros((1, 1))})
        >>> posterior = bdl.variational(network.params, bdl.families.normal(scale=0.1))
        >>> model = bdl.Model(network, bdl.likelihoods.Normal(scale=1.0))
        >>> data = (jnp.ones((50, 1)), 3 * jnp.ones((50, 1)))
        >>> check = bdl.diagnostics.posterior_predictive_check(
        ...     jax.random.key(0), posterior, model, data, jnp.std, num_samples=200
        ... )
        >>> float(check.observed), float(check.p_value)  # the model says that targets vary
        (0.0, 1.0)
    """
    key = check_key(key)
    num_samples = check_counts("posterior_predictive_check", posterior, model, num_samples, chunk_size)
    x, y = data
    if not is_traced((key, posterior, model, data)):
        check_data(x)
    like = jax.eval_shape(_replicate, key, posterior, model, x)
    shape = getattr(y, "shape", None)
    if shape != like.shape:
        raise ValueError(
            f"posterior_predictive_check: expected targets of the shape {like.shape} that the likelihood draws, got "
            f"{shape or type(y).__name__}. Where the likelihood takes more (a mask, a censoring), pass the targets "
            "alone and let the statistic leave out what is not observed."
        )
    chunk = min(chunk_size or default_chunk(x), num_samples)
    return PredictiveCheck(*_check(key, posterior, model, x, jnp.asarray(y), statistic, num_samples, chunk))


@jax.jit
def _replicate(key: Any, posterior: Any, model: Model, x: Any) -> jax.Array:
    posterior, model = bind(posterior, model, x)
    return _targets(key, posterior, model, x, 0)


def _targets(key: Any, posterior: Any, model: Model, x: Any, index: Any) -> jax.Array:
    outputs, draw_key, model = draw(key, posterior, model, x, "shared", index)
    return model.distribution(derive(draw_key, "likelihood"), outputs).sample(derive(draw_key, "replicate"))


@functools.partial(jax.jit, static_argnames=("statistic", "num_samples", "chunk"))
def _check(
    key: Any, posterior: Any, model: Model, x: Any, y: jax.Array, statistic: Any, num_samples: int, chunk: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    posterior, model = bind(posterior, model, x)

    def one(index: jax.Array) -> jax.Array:
        drawn = _targets(key, posterior, model, x, index).astype(y.dtype)
        return jnp.asarray(statistic(drawn)).astype(jnp.float32)

    def chunk_of_draws(start: jax.Array, _: Any) -> tuple[jax.Array, jax.Array]:
        return start + chunk, each(one, start + jnp.arange(chunk))

    start = jnp.zeros((), jnp.int32)
    _, found = jax.lax.scan(once_outside(chunk_of_draws, start), start, length=-(-num_samples // chunk))
    replicated = found.reshape(-1, *found.shape[2:])[:num_samples]
    observed = jnp.asarray(statistic(y)).astype(jnp.float32)
    above = jnp.where(replicated > observed[None], 1.0, jnp.where(replicated == observed[None], 0.5, 0.0))
    undefined = jnp.isnan(replicated).any(0) | jnp.isnan(observed)
    return observed, replicated, jnp.where(undefined, jnp.nan, above.mean(0))
