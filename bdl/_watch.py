"""The loop around the compiled blocks of a fit: progress, held-out scores and checkpoints between them."""

import itertools
import math
import time
import warnings
from collections.abc import Iterator
from typing import Any

from bdl._paths import named_leaves
from bdl._progress import progress_bar
from bdl._resume import Checkpoint
from bdl._trail import Trail
from bdl._training import CAPACITY, HeldOut, Plan, block, look, single

_SECONDS = 0.5  # that a block should take


def watch(
    plan: Plan,
    batches: Iterator[Any] | None,
    held_out: HeldOut | None,
    trail: Trail,
    num_steps: int,
    block_size: int | None,
    progress: bool,
    file: Checkpoint | None,
) -> None:
    """Take the trail on until `num_steps` are done, the run ends or the batches do; keep it in the file, if any.

    Args:
        plan: of the fit.
        batches: those of the host from the trail's step on; `None` where the plan has them.
        held_out: what to score the run on.
        trail: is changed.
        num_steps: to be done in all.
        block_size: steps in a block; `None` for about half a second's worth.
        progress: whether to show a bar.
        file: to write the trail to.
    """
    bar = progress_bar(num_steps, trail.step, progress)
    reason: str | None
    try:
        _loop(plan, batches, held_out, trail, num_steps, block_size, bar, file)
    except KeyboardInterrupt:
        trail.fetch()
        if file is not None or trail.step == 0:
            raise
        reason = f"interrupted after {trail.step} of {num_steps} steps; the fit so far is returned."
    else:
        reason = _reason(trail, num_steps)
    finally:
        bar.close()
        if file is not None:
            file.save(trail)
    if reason is not None:
        warnings.warn(reason, RuntimeWarning, stacklevel=3)


def _loop(
    plan: Plan,
    batches: Iterator[Any] | None,
    held_out: HeldOut | None,
    trail: Trail,
    num_steps: int,
    block_size: int | None,
    bar: Any,
    file: Checkpoint | None,
) -> None:
    every = num_steps if held_out is None else held_out.every
    count = min(block_size or 1, CAPACITY)
    while True:
        if held_out is not None and _is_due(trail, every, num_steps):
            run, score = look(plan.key, held_out, trail.run)
            looks = [*trail.looks, (trail.step, float(score))]
            trail.run, trail.looks = run, looks
        if file is not None:
            file.save_if_due(trail)
        if trail.step >= num_steps or not trail.alive:
            return
        before, since = trail.step, time.perf_counter()
        _advance(plan, batches, trail, min(count, num_steps - before, every - before % every))
        trail.fetch()
        done, seconds = trail.step - before, time.perf_counter() - since
        if done == 0:
            return
        bar.update(done, _figures(trail))
        if block_size is None:
            count = int(min(max(done * _SECONDS / seconds, 1), 8 * done, CAPACITY))


def _advance(plan: Plan, batches: Iterator[Any] | None, trail: Trail, count: int) -> None:
    """`count` steps: in one block, or one by one and fewer where the batches of the host end."""
    if batches is None:
        trail.add(*block(plan, count, trail.run))
    else:
        for batch in itertools.islice(batches, count):
            trail.add(*single(plan, batch, trail.run))


def _is_due(trail: Trail, every: int, num_steps: int) -> bool:
    """Whether the run is to be scored at this step, and was not yet."""
    at = trail.step > 0 and (trail.step % every == 0 or trail.step == num_steps)
    return at and trail.alive and (not trail.looks or trail.looks[-1][0] < trail.step)


def _figures(trail: Trail) -> dict[str, float]:
    name, values = next(iter(named_leaves(trail.told[-1]).items()))
    figures = {name: float(values.mean())}
    return figures | ({"held out": trail.looks[-1][1]} if trail.looks else {})


def _reason(trail: Trail, num_steps: int) -> str | None:
    """Why a run ended before its time, unless patience ran out."""
    last = {name: float(values[-1]) for name, values in named_leaves(trail.told[-1]).items()}
    bad = [name for name, value in last.items() if not math.isfinite(value)]
    if bad:
        figures = ", ".join(f"{name} {value:.5g}" for name, value in last.items())
        return (
            f"the loss became non-finite at step {trail.step - 1}, in {' and '.join(bad)} ({figures}). The fit stopped "
            "there, and what it returns is the last finite state. Try a lower learning rate, clipped gradients "
            "(`optax.clip_by_global_norm`), standardised inputs and targets, or a narrower start of the posterior."
        )
    if trail.alive and trail.step < num_steps:
        return (
            f"the iterable of batches ended after {trail.step} of {num_steps} steps, and the fit with it. Pass one "
            "that can be started again, such as a list or a data loader, or an endless one."
        )
    return None
