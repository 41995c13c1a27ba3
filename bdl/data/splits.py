"""Splits into training and test rows: by time, by group, by class, at random."""

import datetime
from typing import Any

import numpy as np

from bdl.data._checks import classes, generator, host, same_length, whole_number

__all__ = ["blocked_by_time", "grouped", "random", "stratified"]

Split = tuple[np.ndarray, np.ndarray]


def blocked_by_time(
    times: Any,
    *,
    num_folds: int | None = None,
    edges: Any = None,
    gap: Any = 0,
    groups: Any = None,
    past_only: bool = False,
) -> list[Split]:
    """Folds that are blocks of time: a block is the test, the rest that is further than `gap` from it the training.

        test_b = {n: edge_b ≤ t_n < edge_b+1},   train_b = {n: t_n < min t(test_b) − gap or t_n > max t(test_b) + gap}

    Neighbours in time tell each other's labels. A random split puts one of them into the training set and the other
    into the test set, and so measures memory; see `overstatement`.

    Args:
        times: [N], numbers or `datetime64`, in any order; rows of one time stay together.
        num_folds: blocks, of about as many rows each; 5 where neither this nor `edges` is given.
        edges: instead, the times at which blocks begin but the first, increasing.
        gap: in the unit of `times`, or a `timedelta64` for dates: at least how far ahead a label looks, plus how far
            back the inputs do.
        groups: [N], anything that has an identity; training rows of a group that has a row in the test are left out.
        past_only: whether to train on what was before the block alone; the first block is then never the test.

    Returns:
        A pair (training rows, test rows) of increasing index arrays for each fold, in the order of time.

    Raises:
        ValueError: times that are not finite; blocks without rows, or without training rows; `num_folds` and `edges`.

    Example:
        >>> import bdl
        >>> for train, test in bdl.data.splits.blocked_by_time(range(9), num_folds=3, gap=1):
        ...     print(train, test)
        [4 5 6 7 8] [0 1 2]
        [0 1 7 8] [3 4 5]
        [0 1 2 3 4] [6 7 8]

    Reference:
        Roberts et al. (2017), Cross-validation strategies for data with temporal, spatial, hierarchical, or
        phylogenetic structure, https://doi.org/10.1111/ecog.02881; Ahmadzadeh et al. (2021),
        https://arxiv.org/abs/2103.07542
    """
    times = _times(times)
    gap = _gap(times, gap)
    block, count = _blocks(times, num_folds, edges)
    groups = None if groups is None else host("blocked_by_time", "groups", groups)
    if groups is not None:
        same_length("blocked_by_time", "a group", groups, len(times))
    found = []
    for number in range(1 if past_only else 0, count):
        test = block == number
        start, end = times[test].min(), times[test].max()
        train = (times < start) & (start - times > gap)
        if not past_only:
            train |= (times > end) & (times - end > gap)
        if groups is not None:
            train &= ~np.isin(groups, groups[test])
        if not train.any():
            raise ValueError(
                f"blocked_by_time: fold {number} has no training rows. Make the gap of {gap} smaller, or pass fewer "
                "folds."
            )
        found.append((np.flatnonzero(train), np.flatnonzero(test)))
    return found


def grouped(key: Any, groups: Any, *, num_folds: int = 5, labels: Any = None) -> list[Split]:
    """Folds that hold whole groups: no group (a patient, an active region) has rows on both sides.

    The largest groups come first, each into the fold where it does least harm: Σ over folds and classes of
    (count / the class's total)² grows least. Equal groups come in random order.

    Args:
        key: a random key.
        groups: [N], anything that has an identity.
        num_folds: F.
        labels: [N] integers, to have about as many rows of each class in every fold; `None` for as many rows.

    Returns:
        A pair (training rows, test rows) of increasing index arrays for each fold.

    Raises:
        ValueError: fewer groups than folds.

    Example:
        >>> import jax, numpy as np, bdl
        >>> groups = np.array([7, 7, 7, 3, 3, 9])
        >>> folds = bdl.data.splits.grouped(jax.random.key(0), groups, num_folds=2)
        >>> sorted(len(test) for _, test in folds), [set(groups[a]) & set(groups[b]) for a, b in folds]
        ([3, 3], [set(), set()])
    """
    rng, count = generator("grouped", key), whole_number("grouped", "num_folds", num_folds, 2)
    groups = host("grouped", "groups", groups)
    labels = np.zeros(len(groups), np.int64) if labels is None else classes("grouped", labels)
    same_length("grouped", "a label", labels, len(groups))
    names, member = np.unique(groups, return_inverse=True)
    if len(names) < count:
        raise ValueError(
            f"grouped: {len(names)} groups cannot fill {count} folds. Pass num_folds={len(names)} or less."
        )
    found, kind = np.unique(labels, return_inverse=True)
    table = np.zeros((len(names), len(found)))  # rows of each class in each group
    np.add.at(table, (member, kind), 1)
    share = table / table.sum(0)
    order = rng.permutation(len(names))
    order = order[np.argsort(-table[order].sum(1), kind="stable")]
    held, fold = np.zeros((count, len(found))), np.empty(len(names), np.int64)
    for place, group in enumerate(order):
        # Σ (h + s)² − h², without the s² that is the same for all folds.
        cost, empty = held @ share[group], ~held.any(1)
        if len(order) - place <= empty.sum():  # groups that are left: none of the folds stays empty
            cost = np.where(empty, cost, np.inf)
        fold[group] = np.argmin(cost)
        held[fold[group]] += share[group]
    return _pairs(fold[member], count)


def stratified(key: Any, labels: Any, *, num_folds: int = 5) -> list[Split]:
    """Random folds with each class dealt evenly: counts of a class, and sizes of folds, differ by at most one.

    It presumes that rows are independent, as `random` does.

    Args:
        key: a random key.
        labels: [N] integers.
        num_folds: F.

    Returns:
        A pair (training rows, test rows) of increasing index arrays for each fold.

    Raises:
        ValueError: a class has fewer rows than there are folds.

    Example:
        >>> import jax, numpy as np, bdl
        >>> labels = np.array([0] * 8 + [1] * 2)
        >>> [labels[test].sum() for _, test in bdl.data.splits.stratified(jax.random.key(0), labels, num_folds=2)]
        [np.int64(1), np.int64(1)]
    """
    rng, count = generator("stratified", key), whole_number("stratified", "num_folds", num_folds, 2)
    labels = classes("stratified", labels)
    names, numbers = np.unique(labels, return_counts=True)
    if numbers.min() < count:
        raise ValueError(
            f"stratified: class {names[numbers.argmin()]} has {numbers.min()} rows and cannot be in each of {count} "
            "folds. Pass fewer folds, or join it to another class."
        )
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    fold = np.empty(len(labels), np.int64)
    fold[order] = np.arange(len(labels)) % count
    return _pairs(fold, count)


def random(key: Any, num_rows: int, *, num_folds: int = 5) -> list[Split]:
    """Random folds of sizes that differ by at most one.

    It presumes that rows are independent. Of series and of groups it overstates skill; see `overstatement`.

    Args:
        key: a random key.
        num_rows: N.
        num_folds: F.

    Returns:
        A pair (training rows, test rows) of increasing index arrays for each fold.

    Raises:
        ValueError: fewer rows than folds.

    Example:
        >>> import jax, numpy as np, bdl
        >>> folds = bdl.data.splits.random(jax.random.key(0), 7, num_folds=3)
        >>> np.sort(np.concatenate([test for _, test in folds])), [len(train) for train, _ in folds]
        (array([0, 1, 2, 3, 4, 5, 6]), [4, 5, 5])
    """
    rng, count = generator("random", key), whole_number("random", "num_folds", num_folds, 2)
    size = whole_number("random", "num_rows", num_rows, count)
    fold = np.empty(size, np.int64)
    fold[rng.permutation(size)] = np.arange(size) % count
    return _pairs(fold, count)


def _pairs(fold: np.ndarray, count: int) -> list[Split]:
    return [(np.flatnonzero(fold != number), np.flatnonzero(fold == number)) for number in range(count)]


def _times(times: Any) -> np.ndarray:
    times = host("blocked_by_time", "times", times)
    if times.dtype.kind not in "iufM":
        raise ValueError(
            f"blocked_by_time: expected times as numbers or datetime64, got {times.dtype}. Pass "
            "np.array(times, 'datetime64[s]')."
        )
    missing = np.isnat(times) if times.dtype.kind == "M" else ~np.isfinite(times)
    if missing.any():
        raise ValueError(f"blocked_by_time: times is {times[missing][0]} at row {np.flatnonzero(missing)[0]}.")
    # Differences of unsigned numbers wrap around.
    return times.astype(np.int64) if times.dtype.kind in "iu" else times


def _gap(times: np.ndarray, gap: Any) -> Any:
    if isinstance(gap, np.timedelta64 | datetime.timedelta):
        gap, dates = np.timedelta64(gap), True
    else:
        dates = False
    if times.dtype.kind == "M":
        if not dates and gap != 0:
            raise ValueError(
                f"blocked_by_time: expected a timedelta64 as the gap of dates, got {gap!r}. Pass "
                "np.timedelta64(2, 'D') for two days."
            )
        gap = gap if dates else np.timedelta64(0, "s")
    elif dates or np.ndim(gap) != 0:
        raise ValueError(f"blocked_by_time: expected a number as the gap of times that are numbers, got {gap!r}.")
    if not gap >= (np.timedelta64(0, "s") if times.dtype.kind == "M" else 0):
        raise ValueError(f"blocked_by_time: expected a gap of at least 0, got {gap}.")
    return gap


def _blocks(times: np.ndarray, num_folds: int | None, edges: Any) -> tuple[np.ndarray, int]:
    """The number of each row's block, and how many blocks there are."""
    if edges is None:
        count = whole_number("blocked_by_time", "num_folds", 5 if num_folds is None else num_folds, 2)
        _, moment, sizes = np.unique(times, return_inverse=True, return_counts=True)
        # The middle of the rows of one moment, among all rows, says in which block they are.
        middle = np.cumsum(sizes) - sizes / 2
        block = np.floor(count * middle / len(times)).astype(np.int64)[moment]
    else:
        if num_folds is not None:
            raise ValueError("blocked_by_time: `edges` say how many folds there are; leave `num_folds` out.")
        edges = np.asarray(edges, times.dtype if times.dtype.kind == "M" else None)
        if edges.ndim != 1 or not len(edges) or not np.all(edges[1:] > edges[:-1]):
            raise ValueError(f"blocked_by_time: expected increasing edges [B − 1], got {edges}.")
        block, count = np.searchsorted(edges, times, side="right"), len(edges) + 1
    empty = np.setdiff1d(np.arange(count), block)
    if len(empty):
        raise ValueError(
            f"blocked_by_time: block {empty[0]} of {count} has no rows. Pass fewer folds, or `edges` between which "
            f"there are some; the times are from {times.min()} to {times.max()}."
        )
    return block, count
