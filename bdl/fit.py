"""The training loop: from an algorithm, a posterior, a model and data to a fitted posterior."""

import itertools
import math
import operator
import os
from collections.abc import Callable, Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bdl._batches import ArrayBatches, HostBatches
from bdl._bind import bind
from bdl._data_checks import check_data, is_traced
from bdl._keys import check_key, derive
from bdl._resume import Checkpoint
from bdl._trail import Trail
from bdl._training import HeldOut, Plan, Run, info_shapes, start, unguarded_block, whole
from bdl._watch import watch
from bdl.inference._base import Algorithm
from bdl.log_predictive import log_predictive


class History(eqx.Module):
    """What a fit told, step by step.

    Its figures are also its own attributes: `history.elbo` is `history.info.elbo`.

    Attributes:
        info: the algorithm's info (of `vi`: `elbo`, `log_likelihood`, `kl`, `gradient_norm`), float32, [T] each. T is
            `num_steps`, or the steps done where the fit stopped before; under `jit` and `vmap` T stays `num_steps` and
            the steps not done are NaN.
        held_out: the scores on held-out data, [E].
        held_out_steps: the steps done when they were taken, [E].
    """

    info: Any
    held_out: jax.Array
    held_out_steps: jax.Array

    def __getattr__(self, name: str) -> Any:
        """A figure of `info`."""
        if name.startswith("__") or name == "info":
            raise AttributeError(name)
        return getattr(self.info, name)


class Fitted(eqx.Module):
    """The result of `bdl.fit`.

    Attributes:
        posterior: the fitted one; with held-out data, the best of all looks.
        model: the model that belongs to it, with what was learned in it (a noise scale, batch statistics).
        history: what the steps told.
        state: the algorithm's last one.
    """

    posterior: Any
    model: Any
    history: History
    state: Any


def fit(
    key: Any,
    algorithm: Algorithm,
    posterior: Any,
    model: Any,
    data: tuple[Any, Any] | Iterable[tuple[Any, Any]],
    *,
    num_steps: int,
    batch_size: int | None = None,
    num_data: int | None = None,
    validation: tuple[Any, Any] | None = None,
    score: Callable[..., jax.Array] | None = None,
    evaluate_every: int | None = None,
    patience: int | None = None,
    block_size: int | None = None,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Fitted:
    """Fit a posterior, and what is learned in a model, to data.

    Arrays stay on the device and are gone through in a fresh order every epoch; a batch may straddle two epochs. The
    result depends on the key and the arguments alone, not on how the steps fall into blocks or whether the fit was
    interrupted: the draws of step t come from `key` and t.

    Under `jit` or `vmap` the fit is one quiet program: `jax.vmap` over keys, data, rates or priors trains them all at
    once. Values are not looked at there: a run whose loss becomes non-finite stays at a finite state, of up to 32 steps
    before, and its history shows it.

    Args:
        key: a random key.
        algorithm: such as `bdl.inference.vi(optax.adam(1e-3))`. Build it once: another one compiles again.
        posterior: where the fit starts.
        model: the model.
        data: the pair (x, y) of arrays (or of nested dicts of arrays) with examples along axis 0; or an iterable of
            such pairs, the batches, all of one shape. One that can (a list, a data loader) is started again when it
            ends.
        num_steps: the steps to do, at most.
        batch_size: examples per step; `None` for all of them. Not for an iterable.
        num_data: the number N of examples that the objective is for; of arrays it is their length.
        validation: held-out data (x, y). The posterior and the model with the best score come back.
        score: `score(key, posterior, model, (x, y)) -> scalar`, higher is better; `None` for the mean log predictive
            density of 16 draws, in nats. Always under the same key, so that scores are comparable.
        evaluate_every: steps between two scores; `None` for a fiftieth of `num_steps`.
        patience: the number of scores without a better one after which the fit stops; `None` for no stop.
        block_size: steps between two moments for the progress bar, Ctrl-C and checkpoints, at most 4,096; `None` for
            half a second's worth. It changes no result.
        progress: whether to show a bar on standard error (with `tqdm` where it is installed).
        checkpoint: a file to write to every ten seconds or more, at the end and when interrupted. Where it exists the
            fit goes on from it and ends as if it had never stopped (an iterable is run through to that batch). To do
            more steps after the end, give a larger `num_steps`.

    Returns:
        `Fitted(posterior, model, history, state)`.

    Raises:
        ValueError: an argument is out of range; the data are empty, ragged, NaN, infinite or not what the likelihood
            describes; an iterable without `num_data`; a checkpoint of another fit.
        TypeError: the key is not a random key; the data are of the wrong type.
        KeyboardInterrupt: with a checkpoint, once it is written; without one the fit so far is returned.

    Warns:
        RuntimeWarning: the loss became non-finite (the message says at which step and in which term, and what to try;
            the state before that step is returned), the iterator ended early, or the fit was interrupted.

    Example:
        >>> import jax, jax.numpy as jnp, optax, bdl
        >>> x = jnp.linspace(-1.0, 1.0, 64)[:, None]
        >>> network = bdl.network(lambda params, x: x @ params["w"], {"w": jnp.zeros((1, 1))})
        >>> model = bdl.Model(network, bdl.likelihoods.Normal(scale=0.1))
        >>> posterior = bdl.variational(network.params, bdl.families.normal(scale=0.05))
        >>> algorithm = bdl.inference.vi(optax.adam(0.05))
        >>> fitted = bdl.fit(
        ...     jax.random.key(0), algorithm, posterior, model, (x, 2 * x), num_steps=500, batch_size=16, progress=False
        ... )
        >>> fitted.history.elbo.shape, bool(abs(fitted.posterior.tree["w"].mean - 2) < 0.1)
        ((500,), True)
    """
    key = check_key(key)
    num_steps = _count("num_steps", num_steps)
    block_size = None if block_size is None else _count("block_size", block_size)
    traced = is_traced((key, posterior, model, validation)) or (_is_pair(data) and is_traced(data))
    if not traced:
        _check_pair(key, posterior, model, validation)
        _check_pair(key, posterior, model, data if _is_pair(data) else None)
    batches, num_data = _batches(data, batch_size, num_data)
    arrays = batches if isinstance(batches, ArrayBatches) else None
    if arrays is None and not traced:
        _check_pair(key, posterior, model, batches.example())
    held_out = _held_out(validation, score, evaluate_every, patience, num_steps)

    plan = Plan(algorithm, key, arrays)
    run = start(plan, posterior, model, batches.example()[0], num_data, held_out is not None)
    if not (arrays is None or traced):
        # No steps. An algorithm may close over a tracer (a learning rate under `vmap`), and only this shows it.
        run, _ = unguarded_block(plan, jnp.int32(0), run)
    every = num_steps if held_out is None else held_out.every
    if traced or is_traced(run):
        if arrays is None or checkpoint is not None:
            raise ValueError("under `jit` or `vmap` the data must be arrays (x, y), and `checkpoint` must be None.")
        run, infos, scores = whole(plan, held_out, num_steps, run)
        return _fitted(run, infos, scores, [min((i + 1) * every, num_steps) for i in range(len(scores))])

    trail, file = Trail(run), None
    if checkpoint is not None:
        file = Checkpoint(
            checkpoint,
            key=np.asarray(jax.random.key_data(key)).tolist(),
            num_data=num_data,
            batch_size=None if arrays is None else arrays.batch_size,
            validation=held_out is not None,
            evaluate_every=None if held_out is None else every,
        )
        trail = file.restore(run, info_shapes(plan, batches.example(), run), num_steps)
    stream = None if isinstance(batches, ArrayBatches) else itertools.islice(batches, trail.step, None)
    watch(plan, stream, held_out, trail, num_steps, block_size, progress, file)
    return _fitted(trail.run, trail.infos(), [score for _, score in trail.looks], [step for step, _ in trail.looks])


def _fitted(run: Run, infos: Any, scores: Any, steps: Any) -> Fitted:
    history = History(jax.tree.map(jnp.asarray, infos), jnp.asarray(scores, jnp.float32), jnp.asarray(steps, jnp.int32))
    return Fitted(*run.result(), history, run.state)


def _is_pair(data: Any) -> bool:
    return isinstance(data, tuple) and len(data) == 2


def _batches(data: Any, batch_size: int | None, num_data: int | None) -> tuple[ArrayBatches | HostBatches, int]:
    """The batches of arrays or of an iterable, and N."""
    if num_data is not None:
        num_data = _count("num_data", num_data)
    if _is_pair(data):
        data = jax.tree.map(jnp.asarray, data)
        lengths = {len(leaf) for leaf in jax.tree.leaves(data)}
        if len(lengths) != 1:
            raise ValueError(f"x and y must have the same number of examples along axis 0, got {sorted(lengths)}.")
        size = lengths.pop()
        batch_size = size if batch_size is None else min(_count("batch_size", batch_size), size)
        return ArrayBatches(data, batch_size), num_data or size
    if hasattr(data, "shape") or not isinstance(data, Iterable):
        raise TypeError(f"expected the data as a tuple (x, y) or an iterable of batches, got {type(data).__name__}.")
    if num_data is None:
        raise ValueError(
            "an iterable does not tell the size N of the data set, which the objective is for: pass `num_data=N`."
        )
    if batch_size is not None:
        raise ValueError("`batch_size` is for arrays; an iterable's batches have the size they come in. Leave it out.")
    return HostBatches(data), num_data


def _held_out(validation: Any, score: Any, every: int | None, patience: int | None, num_steps: int) -> HeldOut | None:
    if validation is None:
        for name, value in {"score": score, "evaluate_every": every, "patience": patience}.items():
            if value is not None:
                raise ValueError(f"`{name}` is about held-out data: pass `validation=(x, y)` as well.")
        return None
    return HeldOut(
        data=jax.tree.map(jnp.asarray, validation),
        score=score or _mean_log_predictive,
        every=math.ceil(num_steps / 50) if every is None else _count("evaluate_every", every),
        patience=None if patience is None else _count("patience", patience),
    )


def _mean_log_predictive(key: jax.Array, posterior: Any, model: Any, data: Any) -> jax.Array:
    return log_predictive(key, posterior, model, data, num_samples=16).mean()


def _check_pair(key: jax.Array, posterior: Any, model: Any, pair: Any) -> None:
    """Whether x and y can be used, and y is what the likelihood describes."""
    if pair is None:
        return
    if not _is_pair(pair):
        raise TypeError(f"expected `validation` as a tuple (x, y), got {type(pair).__name__}.")
    x, y = pair
    check_data(x, y, finite_targets=False)
    outputs = jax.eval_shape(_outputs, derive(key, "check"), posterior, model, x)
    model.check_targets(outputs, y)


@jax.jit
def _outputs(key: jax.Array, posterior: Any, model: Any, x: Any) -> Any:
    posterior, model = bind(posterior, model, x)
    network_key = derive(key, "network") if model.network.stochastic else None
    return model.apply(posterior.sample(derive(key, "draw")), x, key=network_key)[0]


def _count(name: str, value: Any) -> int:
    """`value` as an integer of at least one."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"`{name}` must be a whole number, got {value!r}.") from None
    if number < 1:
        raise ValueError(f"`{name}` must be at least 1, got {number}.")
    return number
