"""Intervals for any metric, by resampling the examples or whole groups of them."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bdl._data_checks import is_traced
from bdl._keys import check_key, derive

_NUMBERS_AT_ONCE = 2**22


class BootstrapInterval(eqx.Module):
    """A metric and how far it may be off; each has the shape of the metric, or its structure where it returns several.

    Attributes:
        estimate: the metric of the examples as they are.
        standard_error: the standard deviation over resamples.
        lower: the lower end of the percentile interval.
        upper: the upper end.
        num_undefined: in how many resamples the metric was NaN, as where no positive was drawn; the others are used.
    """

    estimate: Any
    standard_error: Any
    lower: Any
    upper: Any
    num_undefined: Any


def bootstrap(
    key: Any,
    metric: Callable[..., Any],
    *arrays: Any,
    num_resamples: int = 1000,
    groups: Any = None,
    level: float = 0.95,
    chunk_size: int | None = None,
) -> BootstrapInterval:
    """The interval between quantiles of the metric over resamples of N from the N examples, with replacement.

    Examples that depend on each other, as pixels of an image, windows of a series or images of a patient, belong into
    one group: groups are then drawn whole, as many as there are. The interval of single examples would be too narrow.

    Args:
        key: one random key.
        metric: a function of the arrays that JAX can trace, with an optional `mask`. It is compiled once; a `lambda`
            that is made anew for each call is compiled anew.
        arrays: examples along axis 0 of each, [N, ...]; a mask of theirs may be one of them.
        num_resamples: R.
        groups: [N], of any type: equal entries are one group. Where groups differ in size, so do the resamples, and
            `metric` must take `mask=`, bool [M], which says what of its M rows counts.
        level: the share of resamples between `lower` and `upper`.
        chunk_size: resamples at once; by default as many as fit into little memory.

    Returns:
        Estimate, standard error, both ends of the interval, and in how many resamples it was undefined.

    Raises:
        ValueError: arrays of different lengths, fewer than two examples or groups, a bad level or count, a metric
            without `mask` for groups that differ in size, a metric that is undefined in all resamples, or all but one.

    Reference:
        Efron and Tibshirani (1993), An introduction to the bootstrap; Cameron, Gelbach and Miller (2008),
        Bootstrap-based improvements for inference with clustered errors, https://doi.org/10.1162/rest.90.3.414

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> scores, labels = jnp.arange(40) % 7, jnp.arange(40) % 7 + jnp.arange(40) % 5 > 5
        >>> found = bdl.metrics.bootstrap(jax.random.key(0), bdl.metrics.auroc, scores, labels)
        >>> bool(found.lower < found.estimate < found.upper), int(found.num_undefined)
        (True, 0)
    """
    key = check_key(key)
    size = _check(arrays, num_resamples, level, chunk_size)
    arrays = tuple(jnp.asarray(array) for array in arrays)
    chunk = min(num_resamples, chunk_size or max(1, _NUMBERS_AT_ONCE // sum(array.size for array in arrays)))
    if groups is None:
        found = _of_examples(key, metric, arrays, num_resamples, chunk)
    else:
        found = _of_groups(key, metric, arrays, _Groups.of(groups, size), num_resamples, chunk)
    return _interval(metric(*arrays), found, level)


class _Groups(eqx.Module):
    """Where the examples of each of G groups stand: `order[start[g] : start[g] + size[g]]`."""

    order: np.ndarray
    start: np.ndarray
    size: np.ndarray

    @classmethod
    def of(cls, groups: Any, num_examples: int) -> "_Groups":
        if is_traced(groups):
            raise ValueError("bootstrap: groups must be known outside of jit. Call bootstrap outside of it.")
        groups = np.asarray(groups)
        if groups.shape != (num_examples,):
            raise ValueError(f"bootstrap: expected groups [{num_examples}], got the shape {groups.shape}.")
        _, member, size = np.unique(groups, return_inverse=True, return_counts=True)
        if len(size) < 2:
            raise ValueError("bootstrap: expected at least two groups, got one. A single one says nothing of others.")
        start = np.cumsum(size) - size
        return cls(*(a.astype(np.int32) for a in (np.argsort(member, kind="stable"), start, size)))


@functools.partial(jax.jit, static_argnames=("metric", "num_resamples", "chunk"))
def _of_examples(key: Any, metric: Any, arrays: Any, num_resamples: int, chunk: int) -> Any:
    size = len(arrays[0])

    def one(resample: Any) -> Any:
        rows = jax.random.randint(derive(key, "bootstrap", resample), (size,), 0, size)
        return metric(*(array[rows] for array in arrays))

    return _map(one, num_resamples, chunk)


def _map(one: Callable[[Any], Any], num_resamples: int, chunk: int) -> Any:
    """`one` of each resample, in chunks of one size, so that there is one program."""
    chunks = -(-num_resamples // chunk)
    chunk = -(-num_resamples // chunks)
    found = lax.map(jax.vmap(one), jnp.arange(chunks * chunk, dtype=jnp.int32).reshape(chunks, chunk))
    return jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:])[:num_resamples], found)


def _of_groups(key: Any, metric: Any, arrays: Any, groups: _Groups, num_resamples: int, chunk: int) -> Any:
    if (groups.size == groups.size[0]).all():
        return _resampled_groups(key, metric, arrays, groups, num_resamples, chunk, len(groups.order), False)
    if "mask" not in inspect.signature(metric).parameters:
        raise ValueError(
            f"bootstrap: the groups have {groups.size.min()} to {groups.size.max()} examples, so that resamples differ "
            "in size, for which the metric must take `mask=`. Pass lambda *a, mask=None: metric(*a, mask=mask)."
        )
    # Room for the largest resample, in steps, so that other keys seldom need another program.
    step = -(-len(groups.order) // 8)
    room = -(-int(_largest(key, groups, num_resamples)) // step) * step
    return _resampled_groups(key, metric, arrays, groups, num_resamples, chunk, room, True)


@functools.partial(jax.jit, static_argnames="num_resamples")
def _largest(key: Any, groups: _Groups, num_resamples: int) -> jax.Array:
    size = jnp.asarray(groups.size)
    totals = lax.map(lambda resample: size[_drawn(key, resample, groups)].sum(), jnp.arange(num_resamples))
    return totals.max()


@functools.partial(jax.jit, static_argnames=("metric", "num_resamples", "chunk", "room", "masked"))
def _resampled_groups(
    key: Any, metric: Any, arrays: Any, groups: _Groups, num_resamples: int, chunk: int, room: int, masked: bool
) -> Any:
    order, start, size = (jnp.asarray(array) for array in (groups.order, groups.start, groups.size))
    place = jnp.arange(room, dtype=jnp.int32)

    def one(resample: Any) -> Any:
        drawn = _drawn(key, resample, groups)
        ends = jnp.cumsum(size[drawn])
        which = jnp.minimum(jnp.searchsorted(ends, place, side="right"), len(ends) - 1)
        within = place - (ends - size[drawn])[which]
        # Beyond the last group the rows are those of any example, and do not count.
        rows = order[jnp.minimum(start[drawn][which] + within, len(order) - 1)]
        counts = {"mask": place < ends[-1]} if masked else {}
        return metric(*(array[rows] for array in arrays), **counts)

    return _map(one, num_resamples, chunk)


def _drawn(key: Any, resample: Any, groups: _Groups) -> jax.Array:
    number = len(groups.size)
    return jax.random.randint(derive(key, "bootstrap", resample), (number,), 0, number)


def _interval(estimate: Any, found: Any, level: float) -> BootstrapInterval:
    tails = np.array([(1 - level) / 2, (1 + level) / 2], np.float32)
    summaries = jax.tree.map(functools.partial(_summary, tails=tails), found)
    error, lower, upper, undefined, defined = (
        jax.tree.map(lambda _, summary, i=i: summary[i], found, summaries) for i in range(5)
    )
    for number in jax.tree.leaves(defined):
        if not is_traced(number) and np.min(number) < 2:
            raise ValueError(
                f"bootstrap: the metric is NaN in all resamples but {np.min(number)}. Groups or classes of which there "
                "are so few are seldom drawn: pass more examples."
            )
    return BootstrapInterval(jax.tree.map(jnp.asarray, estimate), error, lower, upper, undefined)


@jax.jit
def _summary(found: jax.Array, tails: jax.Array) -> tuple[jax.Array, ...]:
    found = found.astype(jnp.float32)
    lower, upper = jnp.nanquantile(found, tails, axis=0)
    undefined = jnp.isnan(found).sum(0, dtype=jnp.int32)
    return jnp.nanstd(found, axis=0, ddof=1), lower, upper, undefined, len(found) - undefined


def _check(arrays: tuple[Any, ...], num_resamples: int, level: float, chunk_size: int | None) -> int:
    lengths = [np.shape(array)[:1] for array in arrays]
    if not arrays or () in lengths or len(set(lengths)) > 1:
        raise ValueError(
            f"bootstrap: expected arrays with the same number of rows, got {[n for n, *_ in lengths if n]}."
        )
    if lengths[0][0] < 2:
        raise ValueError(f"bootstrap: expected at least two examples, got {lengths[0][0]}.")
    if num_resamples < 2 or (chunk_size is not None and chunk_size < 1):
        raise ValueError(
            f"bootstrap: expected num_resamples >= 2 and chunk_size >= 1, got {num_resamples} and {chunk_size}."
        )
    if not 0 < level < 1:
        raise ValueError(f"bootstrap: expected level in (0, 1), got {level}. 95 % is level=0.95.")
    return lengths[0][0]
