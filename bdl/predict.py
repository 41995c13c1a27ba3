"""Monte Carlo prediction with running moments: one program, in memory that does not grow with the number of draws."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bdl._bind import bind
from bdl._data_checks import check_data, is_traced
from bdl._draws import check_counts, default_chunk, draw, each, is_enumerated, once_outside, refuse_silent, refuse_still
from bdl._in_batches import in_batches, joined
from bdl._keys import check_key, derive
from bdl._mixture import quantiles as mixture_quantiles
from bdl.model import Model
from bdl.uncertainty import ClassMoments, ClassPrediction, Prediction, no_draws, statistics

# Draws before `tolerance` may stop: fewer do not tell their own error.
_MINIMUM = 64


def predict(
    key: Any,
    posterior: Any,
    model: Model,
    x: Any,
    *,
    num_samples: int | None = None,
    chunk_size: int | None = None,
    batch_size: int | None = None,
    noise: str = "shared",
    tolerance: float | None = None,
    quantiles: Sequence[float] | None = None,
    return_draws: bool = False,
    check: bool = True,
) -> Prediction | ClassPrediction:
    """The predictive mean and variance at `x`, split into aleatoric and epistemic, by Monte Carlo over the weights:

        p(y | x) ≈ (1/S) Σₛ p(y | f(x; wₛ)),   wₛ ~ q(w).

    Draw s depends on `key` and s alone: the first 100 of 1,000 draws are the draws of a run of 100, whatever the chunk
    size, the batch, and the number of devices. Memory does not grow with `num_samples`, unless raw draws or quantiles
    are asked for.

    Args:
        key: one random key.
        posterior: anything with `sample(key)`.
        model: network and likelihood.
        x: inputs, examples along axis 0.
        num_samples: S, the number of draws; may be left out for a posterior without randomness.
        chunk_size: draws computed at once; by default chosen for the device and the batch.
        batch_size: examples at once, for images and sequences whose activations fill the memory; all where `None`. The
            draws are the same functions for every batch; local noise and a network's own dropout layers draw for each
            row of a batch, and the rows of different batches share them. Under `jit` the program has a copy of its body
            for each batch.
        noise: `"shared"`, a draw is one function for all of `x`; or `"local"`, each example has draws of its own.
        tolerance: stop when the Monte Carlo errors of mean and of variance, relative to the predictive standard
            deviation and variance, are below it everywhere; after at least 64 draws and at most `num_samples`. For
            classes: the errors of the probabilities and of the expected entropy, absolute.
        quantiles: probabilities of which the predictive quantiles are returned, for regression. They keep the outputs
            of all draws: [S, N, ...] float32.
        return_draws: return the network's outputs for all draws, [S, N, ...].
        check: whether inputs and outputs are checked for NaN, and a posterior that does not move the outputs is an
            error. Under `jit` and `vmap` there are no checks.

    Returns:
        a `bdl.Prediction`, or a `bdl.ClassPrediction` where the likelihood is over classes.

    Raises:
        ValueError: bad counts, quantiles or inputs; or the outputs are the same for all draws although the weights
            differ, or no family can move; or draws are asked of a network whose own dropout layers are off, and of
            which nothing else is random; or the outputs are not finite.

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.ones((3, 1))})
        >>> posterior = bdl.variational(network.params, bdl.families.normal(scale=0.1))
        >>> model = bdl.Model(network, bdl.likelihoods.Normal(scale=0.5))
        >>> prediction = bdl.predict(jax.random.key(0), posterior, model, jnp.ones((5, 3)), num_samples=1_000)
        >>> prediction.mean.shape, float(prediction.aleatoric[0, 0])
        ((5, 1), 0.25)
    """
    key = check_key(key)
    num_asked = num_samples
    num_samples = check_counts("predict", posterior, model, num_samples, chunk_size)
    levels = _check_levels(quantiles)
    if tolerance is not None and (return_draws or levels is not None):
        raise ValueError("predict: tolerance= keeps no draws. Leave quantiles= and return_draws= out.")
    if tolerance is not None and batch_size is not None:
        raise ValueError("predict: tolerance= stops at one number of draws for all of x. Leave batch_size= out.")
    check = check and not is_traced((key, posterior, model, x))
    if check:
        check_data(x)
        refuse_silent(posterior, model, x, num_asked)
    keep = return_draws or levels is not None

    def run(x: Any) -> tuple[Any, Any, jax.Array, jax.Array]:
        chunk = min(chunk_size or default_chunk(x), num_samples)
        return _predict(key, posterior, model, x, num_samples, chunk, noise, tolerance, keep)

    parts = in_batches(run, x, batch_size)
    prediction = _joined([(part[0], rows) for part, rows in parts])
    draws = joined([(part[1], rows) for part, rows in parts], axis=1)
    if check and not all(part[3] for part, _ in parts):
        raise ValueError(
            "predict: the network's outputs (means, logits, log variances) are not all finite for these weights and "
            "inputs. Standardise the inputs, and look at the history of the fit for the step at which it diverged; "
            "check=False returns what there is."
        )
    if check and num_samples > 1 and not any(part[2] for part, _ in parts):
        refuse_still(key, posterior, model, x)
    if levels is not None:
        if isinstance(prediction, ClassPrediction):
            raise ValueError("predict: classes have no quantiles. Leave quantiles= out.")
        found = mixture_quantiles(key, model, draws, jnp.asarray(levels, jnp.float32))
        prediction = dataclasses.replace(prediction, quantiles=found)
    return dataclasses.replace(prediction, draws=draws) if return_draws else prediction


@functools.partial(jax.jit, static_argnames=("num_samples", "chunk", "noise", "keep"))
def _predict(
    key: Any, posterior: Any, model: Model, x: Any, num_samples: int, chunk: int, noise: str, tolerance: Any, keep: bool
) -> tuple[Any, Any, jax.Array, jax.Array]:
    posterior, model = bind(posterior, model, x)
    one = functools.partial(_one, key, posterior, model, x, noise)
    outputs, found = jax.eval_shape(one, 0)

    def chunk_of_draws(carry: Any, _: Any) -> tuple[Any, Any]:
        start, moments, first, moved, finite = carry
        index = start + jnp.arange(chunk)
        outputs, found = each(one, index)
        valid = index < num_samples
        sums = jnp.stack([jax.vmap(_checksum)(a) for a in jax.tree.leaves(outputs)], 1)
        first = jnp.where(start == 0, sums[0], first)
        moved = moved | jnp.any((sums != first) & valid[:, None])
        finite = finite & jnp.stack([jnp.isfinite(a).all() for a in jax.tree.leaves(outputs)]).all()
        return (start + chunk, moments.add(found, valid), first, moved, finite), outputs if keep else None

    zeros = jnp.zeros(len(jax.tree.leaves(outputs)), jnp.uint32)
    # The draws are counted in the carry: an array of their indices would grow with them.
    carry = (jnp.zeros((), jnp.int32), no_draws(found), zeros, jnp.zeros((), bool), jnp.ones((), bool))
    add = once_outside(chunk_of_draws, carry)
    if tolerance is None:
        carry, draws = jax.lax.scan(add, carry, length=-(-num_samples // chunk))
    else:
        carry, draws = _until(add, carry, num_samples, tolerance), None
    _, moments, _, moved, finite = carry
    draws = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:num_samples], draws)
    return moments.split(enumerated=is_enumerated(posterior, model)), draws, moved, finite


def _checksum(outputs: jax.Array) -> jax.Array:
    # Whether two draws have the same outputs, without keeping those of one.
    return jax.lax.bitcast_convert_type(outputs.astype(jnp.float32), jnp.uint32).sum(dtype=jnp.uint32)


def _one(key: Any, posterior: Any, model: Model, x: Any, noise: str, index: Any) -> tuple[Any, Any]:
    outputs, draw_key, model = draw(key, posterior, model, x, noise, index)
    distribution = model.distribution(derive(draw_key, "likelihood"), outputs)
    return outputs, statistics(distribution)


def _joined(parts: list[tuple[Any, int]]) -> Any:
    # All fields run over the examples but the number of draws, which is the same for all batches.
    count = parts[0][0].num_samples
    whole = joined([(dataclasses.replace(prediction, num_samples=None), rows) for prediction, rows in parts])
    return dataclasses.replace(whole, num_samples=count)


def _until(add: Any, carry: Any, num_samples: int, tolerance: Any) -> Any:
    # Chunks of draws until the Monte Carlo error is small.
    def go_on(carry: Any) -> jax.Array:
        start, moments, *_ = carry
        return (start < num_samples) & ((moments.location.count < _MINIMUM) | (_error(moments) > tolerance))

    return jax.lax.while_loop(go_on, lambda carry: add(carry, None)[0], carry)


def _error(moments: Any) -> jax.Array:
    location, spread = moments.location, moments.spread
    if isinstance(moments, ClassMoments):
        return jnp.maximum(location.standard_error.max(), spread.standard_error.max())
    epistemic = location.variance()
    variance = spread.mean + epistemic
    # The variance of a sample variance is 2 σ⁴ / (S − 1) where the draws of the mean are Normal.
    error = jnp.sqrt(spread.standard_error**2 + 2 * epistemic**2 / jnp.maximum(location.count - 1, 1))
    tiny = jnp.finfo(jnp.float32).tiny
    relative = location.standard_error / jnp.sqrt(variance + tiny), error / (variance + tiny)
    return jnp.maximum(relative[0].max(), relative[1].max())


def _check_levels(quantiles: Sequence[float] | None) -> tuple[float, ...] | None:
    if quantiles is None:
        return None
    levels = tuple(float(q) for q in quantiles)
    if not levels or not all(0 < q < 1 for q in levels):
        raise ValueError(f"predict: expected quantiles= in (0, 1), such as (0.025, 0.975); got {levels}.")
    return levels
