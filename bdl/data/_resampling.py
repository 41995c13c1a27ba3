"""Under- and over-sampling that leave the structure of time alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bdl.data._checks import classes, generator, host, same_length

_FORMS = ("climatology", "uniform")


def undersample(
    key: Any,
    labels: Any,
    *,
    events: Sequence[int] | None = None,
    ratio: float = 1.0,
    form: str = "climatology",
    rows: Any = None,
    within: Any = None,
) -> np.ndarray:
    """Rows of which no class is too frequent: of frequent classes some are left out, none comes twice.

    Class k keeps m_k = s_k min_j (n_j / s_j) of its n_k rows, for shares s that are

    * without `events`, the same for all classes;
    * with `events`, `ratio` for the other classes to 1 for the events. On either side they are divided among its
      classes as in the data (`form="climatology"`), or evenly (`"uniform"`: by the inverse of their frequency).

    Resample the training rows alone. What is trained predicts for classes of the frequencies m_k: `shift_prior` takes
    its probabilities to those of the data, and a threshold chosen before that means nothing after it.

    Args:
        key: a random key.
        labels: [N] integers, of all rows.
        events: the classes that are the event to forecast, such as those of M and X flares.
        ratio: how many other rows there are for one of an event.
        form: `"climatology"` or `"uniform"`.
        rows: the training rows of a split; nothing else is drawn. `None` for all N.
        within: [N], the blocks of time or groups: each gives the same share of its rows of a class, to less than one
            row, so that the course of a class in time stays as it was.

    Returns:
        Rows, increasing.

    Raises:
        ValueError: an argument out of range, or an event of which there is no row.

    Example:
        >>> import jax, numpy as np, bdl
        >>> labels, years = np.array([0, 0, 0, 0, 1, 0, 0, 0, 0, 1]), np.repeat([2011, 2012], 5)
        >>> rows = bdl.data.undersample(jax.random.key(0), labels, events=[1], ratio=2, within=years)
        >>> labels[rows], years[rows]
        (array([0, 0, 1, 0, 0, 1]), array([2011, 2011, 2011, 2012, 2012, 2012]))

    Reference:
        Ahmadzadeh et al. (2021), How to train your flare prediction model: revisiting robust sampling of rare events,
        https://arxiv.org/abs/2103.07542
    """
    return _resample("undersample", key, labels, np.min, events, ratio, form, rows, within)


def oversample(
    key: Any,
    labels: Any,
    *,
    events: Sequence[int] | None = None,
    ratio: float = 1.0,
    form: str = "climatology",
    rows: Any = None,
    within: Any = None,
) -> np.ndarray:
    """Rows of which no class is too rare: rows of rare classes come again, none is left out.

    As `undersample`, with m_k = s_k max_j (n_j / s_j): each row of class k comes ⌊m_k / n_k⌋ times, and some once more.
    Split before: a copy on the other side of a split is a label that was told.

    Args:
        key: a random key.
        labels: as in `undersample`.
        events: likewise.
        ratio: likewise.
        form: likewise.
        rows: likewise.
        within: likewise: each block's rows of a class come equally often.

    Returns:
        Rows, increasing, some of them several times.

    Raises:
        ValueError: as in `undersample`.

    Example:
        >>> import jax, numpy as np, bdl
        >>> bdl.data.oversample(jax.random.key(0), np.array([0, 0, 0, 0, 1, 1, 0]), rows=[0, 1, 2, 3, 4])
        array([0, 1, 2, 3, 4, 4, 4, 4])
    """
    return _resample("oversample", key, labels, np.max, events, ratio, form, rows, within)


def _resample(
    name: str, key: Any, labels: Any, bound: Any, events: Any, ratio: float, form: str, rows: Any, within: Any
) -> np.ndarray:
    rng, labels = generator(name, key), classes(name, labels)
    rows = np.arange(len(labels)) if rows is None else _rows(name, rows, len(labels))
    blocks = np.zeros(len(labels), np.int64) if within is None else host(name, "within", within)
    same_length(name, "a block", blocks, len(labels))
    labels, blocks = labels[rows], np.unique(blocks, return_inverse=True)[1][rows]
    found, sizes = np.unique(labels, return_counts=True)
    shares = _shares(name, found, sizes, events, ratio, form)
    # The largest size at which no class has to give more rows than it has, or the smallest at which it may give all.
    wanted = np.maximum(1, np.rint(shares * bound(sizes / shares))).astype(np.int64)
    drawn = []
    for kind, size, want in zip(found, sizes, wanted, strict=True):
        of_class = np.flatnonzero(labels == kind)
        here, counts = np.unique(blocks[of_class], return_counts=True)
        for block, count, quota in zip(here, counts, _quotas(rng, counts, want, size), strict=True):
            drawn.append(_draw(rng, of_class[blocks[of_class] == block], count, quota))
    return np.sort(rows[np.concatenate(drawn)])


def _shares(name: str, found: np.ndarray, sizes: np.ndarray, events: Any, ratio: float, form: str) -> np.ndarray:
    if form not in _FORMS:
        raise ValueError(f"{name}: expected form as one of {', '.join(map(repr, _FORMS))}, got {form!r}.")
    if not (np.ndim(ratio) == 0 and 0 < ratio < np.inf):
        raise ValueError(f"{name}: expected a positive ratio, got {ratio!r}.")
    if events is None:
        if ratio != 1 or len(found) < 2:
            raise ValueError(
                f"{name}: expected `events`, the classes of which there is one for {ratio} of the others; the labels "
                f"are {', '.join(map(str, found))}. Pass events=[1] for labels of 0 and 1."
            )
        return np.full(len(found), 1 / len(found))
    event = np.isin(found, events)
    absent = np.setdiff1d(events, found)
    if len(absent) or event.all() or not event.any():
        raise ValueError(
            f"{name}: expected `events` as some of the classes {', '.join(map(str, found))} that the rows have, not "
            f"all, got {list(events)}. Take a split whose training rows have events."
        )
    parts = sizes.astype(float) if form == "climatology" else np.ones(len(sizes))
    # s_k = side · part_k / Σ of the parts of its side
    within = np.where(event, parts / parts[event].sum(), parts / parts[~event].sum())
    return within * np.where(event, 1, ratio) / (1 + ratio)


def _quotas(rng: np.random.Generator, counts: np.ndarray, want: int, size: int) -> np.ndarray:
    """Rows to draw from blocks of these counts, `want` in all: shares rounded down, and the largest remainders up."""
    exact = counts * (want / size)
    quotas = np.floor(exact + 1e-9).astype(np.int64)
    order = rng.permutation(len(counts))  # of equal remainders a random one
    order = order[np.argsort(-(exact - quotas)[order], kind="stable")]
    quotas[order[: want - quotas.sum()]] += 1
    return quotas


def _draw(rng: np.random.Generator, rows: np.ndarray, count: int, quota: int) -> np.ndarray:
    often, more = divmod(int(quota), int(count))
    return np.concatenate([np.repeat(rows, often), rng.choice(rows, more, replace=False)])


def _rows(name: str, rows: Any, length: int) -> np.ndarray:
    rows = classes(name, rows, "rows")
    if rows.min() < 0 or rows.max() >= length or len(np.unique(rows)) < len(rows):
        raise ValueError(
            f"{name}: expected rows in 0, …, {length - 1}, each once, got {rows}. Pass `labels` of all rows, not "
            "of the split."
        )
    return rows
