"""The compiled parts of a fit: its start, a block of steps, a look at held-out data, and all of it as one program."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from bdl._batches import random_order
from bdl._bind import bind
from bdl._keys import derive
from bdl.inference._base import Algorithm

CAPACITY = 4096  # steps that a block may have; all it costs is room for their infos
GUARD = 32  # steps between two looks at whether they were finite, in the one program of `whole`


class HeldOut(eqx.Module):
    """How a run is scored on held-out data.

    Attributes:
        data: (x, y).
        score: `score(key, posterior, model, data)`, higher is better.
        every: the steps between two looks.
        patience: the looks without a better score that end the run; `None` for no end.
    """

    data: Any
    score: Callable[..., jax.Array] = eqx.field(static=True)
    every: int = eqx.field(static=True)
    patience: int | None = eqx.field(static=True)


class Plan(eqx.Module):
    """What every step uses; `batches` are `ArrayBatches`, or `None` where they come from the host."""

    algorithm: Algorithm = eqx.field(static=True)
    key: jax.Array
    batches: Any


class Run(eqx.Module):
    """What the next step needs.

    Attributes:
        state: the algorithm's.
        step: the steps done.
        position: in the stream of `ArrayBatches`; `None` where they come from the host.
        alive: whether it goes on; False after a non-finite step, or when patience has run out.
        best: posterior and model of the best look at held-out data; `None` in a fit without.
        best_score: their score; -inf before the first look.
        waited: looks since the best one.
    """

    state: Any
    step: jax.Array
    position: Any
    alive: jax.Array
    best: Any
    best_score: jax.Array
    waited: jax.Array

    def result(self) -> tuple[Any, Any]:
        """The posterior and the model to hand back: the best ones if there was a look, else the last."""
        last = (self.state.posterior, self.state.model)
        return last if self.best is None else _where(self.best_score > -jnp.inf, self.best, last)


@functools.partial(jax.jit, static_argnames=("num_data", "keep_best"))
def start(plan: Plan, posterior: Any, model: Any, x: Any, num_data: int, keep_best: bool) -> Run:
    """The run before its first step; `x` is a batch of inputs, for its shape."""
    posterior, model = bind(posterior, model, x)
    state = plan.algorithm.init(derive(plan.key, "init"), posterior, model, num_data=num_data)
    state = jax.tree.map(_settled, state)
    zero = jnp.zeros((), jnp.int32)
    return Run(
        state=state,
        step=zero,
        position=None if plan.batches is None else plan.batches.begin(random_order(plan.key)),
        alive=jnp.array(True),
        best=(state.posterior, state.model) if keep_best else None,
        best_score=jnp.array(-jnp.inf, jnp.float32),
        waited=zero,
    )


@jax.jit
def advance(plan: Plan, batch: Any, run: Run) -> tuple[Run, Any]:
    """One step and its info. A non-finite one is the last: the info of later ones is NaN, the state means nothing."""
    state, info = plan.algorithm.step(derive(plan.key, "fit", run.step), run.state, batch)
    finite = jnp.isfinite(sum(leaf.sum() for leaf in jax.tree.leaves(info)))
    info = jax.tree.map(lambda a: jnp.where(run.alive, a, jnp.nan).astype(jnp.float32), info)
    step = run.step + run.alive.astype(jnp.int32)
    return dataclasses.replace(run, state=state, step=step, alive=run.alive & finite), info


def info_shapes(plan: Plan, batch: Any, run: Run) -> Any:
    """The shapes of a step's info."""
    return jax.eval_shape(advance, plan, batch, run)[1]


@jax.jit
def single(plan: Plan, batch: Any, run: Run) -> tuple[Run, Any]:
    """One step on a batch from the host; a non-finite one leaves the state as it was."""
    after, info = advance(plan, batch, run)
    return _else_keep(after, run), info


def block(plan: Plan, count: int, run: Run) -> tuple[Run, Any]:
    """`count` steps, `CAPACITY` at most; a non-finite one leaves the state as it was and is the last.

    Returns:
        the run, and the infos of the steps at the start of `CAPACITY` places.
    """
    # To keep the old state in the loop, at every step, would cost 20 % of a step of Adam for dense layers of 512: XLA
    # then copies what it updates in place otherwise. To go again up to the bad step costs nothing until there is one.
    after, infos = unguarded_block(plan, jnp.int32(count), run)
    if not after.alive:
        again, _ = unguarded_block(plan, after.step - run.step - 1, run)
        after = dataclasses.replace(after, state=again.state)
    return after, infos


@jax.jit
def unguarded_block(plan: Plan, count: jax.Array, run: Run) -> tuple[Run, Any]:
    """Like `block`, but after a non-finite step the state means nothing. One program does for every count."""
    return _steps(plan, count, run, _places(plan, CAPACITY, run), 0)


@jax.jit
def look(key: jax.Array, held_out: HeldOut, run: Run) -> tuple[Run, jax.Array]:
    """Score the run, keep its posterior and model if they are the best so far, end it if patience has run out.

    Every look uses the same draws, so that scores differ by what was learned.
    """
    now = (run.state.posterior, run.state.model)
    score = held_out.score(derive(key, "held out"), *now, held_out.data)
    score = jnp.where(run.alive, score, jnp.nan).astype(jnp.float32)
    better = score > run.best_score
    waited = jnp.where(better, 0, run.waited + 1)
    run = dataclasses.replace(
        run,
        alive=run.alive if held_out.patience is None else run.alive & (waited < held_out.patience),
        best=_where(better, now, run.best),
        best_score=jnp.where(better, score, run.best_score),
        waited=waited,
    )
    return run, score


@functools.partial(jax.jit, static_argnames="num_steps")
def whole(plan: Plan, held_out: HeldOut | None, num_steps: int, run: Run) -> tuple[Run, Any, jax.Array]:
    """All steps and looks as one program: the run, the infos and the held-out scores."""
    every = num_steps if held_out is None else min(held_out.every, num_steps)
    full, rest = divmod(num_steps, every)

    def leg(i: Any, count: int, carry: tuple[Run, Any, jax.Array]) -> tuple[Run, Any, jax.Array]:
        run, infos, scores = carry
        run, infos = _guarded_steps(plan, count, run, infos, i * every)
        if held_out is None:
            return run, infos, scores
        run, score = look(plan.key, held_out, run)
        return run, infos, scores.at[i].set(score)

    scores = jnp.full(0 if held_out is None else full + (rest > 0), jnp.nan)
    carry = (run, _places(plan, num_steps, run), scores)
    carry = jax.lax.fori_loop(0, full, lambda i, carry: leg(i, every, carry), carry)
    return leg(full, rest, carry) if rest else carry


def _places(plan: Plan, size: int, run: Run) -> Any:
    shapes = info_shapes(plan, plan.batches.example(), run)
    return jax.tree.map(lambda a: jnp.full((size, *a.shape), jnp.nan, jnp.float32), shapes)


def _steps(plan: Plan, count: Any, run: Run, infos: Any, at: Any) -> tuple[Run, Any]:
    """`count` steps, whose infos go to the places from `at` on."""
    order = random_order(plan.key)

    def one(i: jax.Array, carry: tuple[Run, Any]) -> tuple[Run, Any]:
        run, infos = carry
        batch, position = plan.batches.take(order, run.position)
        run, info = advance(plan, batch, run)
        infos = jax.tree.map(lambda places, value: places.at[at + i].set(value), infos, info)
        return dataclasses.replace(run, position=position), infos

    return jax.lax.fori_loop(0, count, one, (run, infos))


def _guarded_steps(plan: Plan, count: int, run: Run, infos: Any, at: Any) -> tuple[Run, Any]:
    """Like `_steps`, but after a non-finite step the state is one of up to `GUARD` steps before it."""
    stride = max(k for k in range(1, GUARD + 1) if count % k == 0)

    def some(i: jax.Array, carry: tuple[Run, Any]) -> tuple[Run, Any]:
        run, infos = carry
        after, infos = _steps(plan, stride, run, infos, at + i * stride)
        return _else_keep(after, run), infos

    return jax.lax.fori_loop(0, count // stride, some, (run, infos))


def _else_keep(after: Run, before: Run) -> Run:
    """`after` if it is alive, else with the state of `before`."""
    return dataclasses.replace(after, state=_where(after.alive, after.state, before.state))


def _where(condition: jax.Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)


def _settled(leaf: Any) -> jax.Array:
    """A number as an array of the type that a step gives it, so that the second block is not compiled anew."""
    leaf = jnp.asarray(leaf)
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return leaf if is_key else jax.lax.convert_element_type(leaf, leaf.dtype)
