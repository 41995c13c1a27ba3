"""Splits by time, by group, by class and at random; how far a random one flatters; metrics that mean nothing."""

import warnings

import jax
import numpy as np
import pytest
from sklearn.model_selection import GroupKFold, StratifiedKFold, TimeSeriesSplit

import bdl.metrics
from bdl import data
from bdl.data import splits

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
N = 200


def check_partition(pairs, size, *, whole=True):
    """Every row is in the test of one fold, and with `whole` all the others train."""
    np.testing.assert_array_equal(np.sort(np.concatenate([test for _, test in pairs])), np.arange(size))
    for train, test in pairs:
        assert not np.intersect1d(train, test).size
        assert np.all(np.diff(train) > 0)
        assert np.all(np.diff(test) > 0)
        assert not whole or len(train) + len(test) == size


def test_random_folds_are_a_partition_that_the_key_makes():
    pairs = splits.random(KEY, N, num_folds=7)
    check_partition(pairs, N)
    assert {len(test) for _, test in pairs} == {28, 29}
    same, other = splits.random(KEY, N, num_folds=7), splits.random(jax.random.key(1), N, num_folds=7)
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(pairs, same, strict=True))
    assert not np.array_equal(pairs[0][1], other[0][1])
    assert np.abs(np.corrcoef(pairs[0][1], np.arange(len(pairs[0][1])))[0, 1]) > 0.99  # in the order of the data


def test_stratified_folds_have_the_counts_of_scikit_learn():
    labels = RNG.choice(4, N, p=[0.7, 0.2, 0.06, 0.04])
    pairs = splits.stratified(KEY, labels, num_folds=5)
    check_partition(pairs, N)
    assert {len(test) for _, test in pairs} == {40}
    counts = np.array([np.bincount(labels[test], minlength=4) for _, test in pairs])
    theirs = [np.bincount(labels[test], minlength=4) for _, test in StratifiedKFold(5).split(labels, labels)]
    np.testing.assert_array_equal(np.sort(counts, 0), np.sort(theirs, 0))


def test_grouped_folds_hold_whole_groups_as_evenly_as_scikit_learn():
    groups = RNG.integers(0, 30, N) ** 2
    labels = (groups % 5 == 0).astype(int)
    pairs = splits.grouped(KEY, groups, num_folds=4)
    check_partition(pairs, N)
    for train, test in pairs:
        assert not np.intersect1d(groups[train], groups[test]).size
    spread = lambda pairs: np.ptp([len(test) for _, test in pairs])
    assert spread(pairs) <= max(spread(list(GroupKFold(4).split(groups, groups=groups))), 2)

    by_class = splits.grouped(KEY, groups, num_folds=4, labels=labels)
    check_partition(by_class, N)
    events = np.array([labels[test].sum() for _, test in by_class])
    biggest = np.bincount(groups[labels == 1]).max()
    assert np.ptp(events) <= biggest
    other = splits.grouped(jax.random.key(1), groups, num_folds=4, labels=labels)
    assert not np.array_equal(by_class[0][1], other[0][1])


def test_no_grouped_fold_is_empty():
    """Groups of different classes cost nothing together, and would all go into the first fold."""
    pairs = splits.grouped(KEY, np.arange(3), num_folds=3, labels=np.arange(3))
    assert [len(test) for _, test in pairs] == [1, 1, 1]


def test_blocks_of_time_are_those_of_scikit_learn_with_its_gap():
    """`TimeSeriesSplit` leaves `gap` rows out between the past and the test block."""
    mine = splits.blocked_by_time(np.arange(120), num_folds=6, gap=3, past_only=True)
    for (train, test), (past, block) in zip(mine, TimeSeriesSplit(5, gap=3).split(np.arange(120)), strict=True):
        np.testing.assert_array_equal(train, past)
        np.testing.assert_array_equal(test, block)


@pytest.mark.parametrize("past_only", [False, True])
def test_nothing_of_the_training_rows_is_within_the_gap_of_the_test(past_only):
    """Times with ties, out of order, of which what is left out is within the gap, or comes later."""
    rng, refused = np.random.default_rng(1), 0
    for _ in range(60):
        times, gap = rng.integers(0, 60, rng.integers(12, 60)), rng.integers(0, 8)
        try:
            pairs = splits.blocked_by_time(times, num_folds=int(rng.integers(2, 5)), gap=gap, past_only=past_only)
        except ValueError:
            refused += 1
            continue
        if not past_only:
            check_partition(pairs, len(times), whole=False)
        ends = [times[test].max() for _, test in pairs]
        assert ends == sorted(ends)
        for train, test in pairs:
            near = np.abs(times[:, None] - times[test]).min(1) <= gap
            start, end = times[test].min(), times[test].max()
            np.testing.assert_array_equal(test, np.flatnonzero((times >= start) & (times <= end)))
            within = (times >= start - gap) & (times <= end + gap)
            allowed = ~within & ((times < start) | (not past_only))
            np.testing.assert_array_equal(train, np.flatnonzero(allowed))
            assert not near[train].any()
    assert refused < 30


def test_dates_edges_and_groups():
    days = np.datetime64("2011-12-20") + np.arange(24)
    regions = np.arange(24) // 4
    edges = ["2011-12-28", "2012-01-05"]
    (train, test), *_ = splits.blocked_by_time(days, edges=edges, gap=np.timedelta64(48, "h"), groups=regions)
    np.testing.assert_array_equal(test, np.arange(8))
    np.testing.assert_array_equal(train, np.arange(10, 24))
    order = RNG.permutation(24)
    shuffled = splits.blocked_by_time(days[order], edges=edges, gap=np.timedelta64(48, "h"))
    np.testing.assert_array_equal(np.sort(order[shuffled[0][1]]), np.arange(8))
    straddling = splits.blocked_by_time(days, edges=["2011-12-26", "2012-01-05"], groups=regions)
    np.testing.assert_array_equal(straddling[0][0], np.arange(8, 24))  # region 1 has rows in the test
    unsigned = splits.blocked_by_time(np.arange(9, dtype=np.uint8), num_folds=3, gap=1)
    np.testing.assert_array_equal(unsigned[1][0], [0, 1, 7, 8])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: splits.random(KEY, 3), "num_rows as a whole number of at least 5, got 3"),
        (lambda: splits.random(KEY, 9, num_folds=1), "num_folds as a whole number of at least 2, got 1"),
        (lambda: splits.random(KEY, 9, num_folds=2.5), "num_folds as a whole number of at least 2, got 2.5"),
        (lambda: splits.stratified(KEY, [0] * 9 + [7]), "class 7 has 1 rows and cannot be in each of 5"),
        (lambda: splits.stratified(KEY, np.ones(9)), "expected integer labels, got float64"),
        (lambda: splits.stratified(KEY, np.ones((9, 2), int)), "got shape .9, 2."),
        (lambda: splits.grouped(KEY, [1, 1, 2]), "2 groups cannot fill 5 folds"),
        (lambda: splits.grouped(KEY, [1, 1, 2], labels=[1], num_folds=2), "a label for each of 3 rows, got 1"),
        (lambda: splits.blocked_by_time([0.0, np.nan, 1.0]), "times is nan at row 1"),
        (lambda: splits.blocked_by_time(["2011", "2012"]), "numbers or datetime64, got <U4"),
        (lambda: splits.blocked_by_time([]), "at least one element"),
        (lambda: splits.blocked_by_time([1, 1, 1, 2], num_folds=3), "block 0 of 3 has no rows"),
        (lambda: splits.blocked_by_time(range(9), num_folds=2, gap=9), "fold 0 has no training rows"),
        (lambda: splits.blocked_by_time(range(9), num_folds=2, gap=-1), "a gap of at least 0, got -1"),
        (lambda: splits.blocked_by_time(range(9), num_folds=2, edges=[4]), "leave `num_folds` out"),
        (lambda: splits.blocked_by_time(range(9), edges=[4, 4]), "increasing edges"),
        (lambda: splits.blocked_by_time(range(9), edges=[4, 40]), "block 2 of 3 has no rows.*from 0 to 8"),
        (lambda: splits.blocked_by_time(range(9), gap=np.timedelta64(1, "D")), "a number as the gap of times"),
        (lambda: splits.blocked_by_time(np.arange("2011", "2012", dtype="M8[M]"), gap=2), "a timedelta64 as the gap"),
        (lambda: splits.blocked_by_time(range(9), groups=[1, 2]), "a group for each of 9 rows, got 2"),
        (lambda: jax.jit(lambda y: splits.stratified(KEY, y))(np.ones(9, int)), "got a tracer"),
        (lambda: jax.jit(lambda key: splits.random(key, 9)[0][0])(KEY), "got a tracer"),
    ],
)
def test_what_is_wrong_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def nearest_neighbour(x, y):
    """A memory: the label of the training row with the nearest input; −squared error."""
    return lambda train, test: -np.mean((y[test] - y[train][np.abs(x[train][:, None] - x[test]).argmin(0)]) ** 2)


def test_a_random_split_overstates_what_a_memory_knows_of_a_series():
    times, rng = np.arange(N), np.random.default_rng(0)
    series = np.cumsum(rng.normal(size=N))
    memory = nearest_neighbour(times, series)
    random, blocked = splits.random(KEY, N), splits.blocked_by_time(times)
    found = data.overstatement(memory, random, blocked)
    expected = [[memory(*pair) for pair in pairs] for pairs in (random, blocked)]
    np.testing.assert_allclose(found.random_scores, expected[0])
    np.testing.assert_allclose(found.blocked_scores, expected[1])
    means, errors = np.mean(expected, 1), np.std(expected, 1, ddof=1) / np.sqrt(5)
    np.testing.assert_allclose([found.random, found.blocked], means)
    np.testing.assert_allclose(found.difference, means[0] - means[1])
    np.testing.assert_allclose(found.standard_error, np.hypot(*errors))
    assert found.difference > 2 * found.standard_error

    independent = data.overstatement(nearest_neighbour(times, rng.normal(size=N)), random, blocked)
    assert abs(independent.difference) < 4 * independent.standard_error


def test_folds_without_a_score_are_left_out():
    found = data.overstatement(lambda train, test: [np.nan, 1.0, 3.0][test[0]], *[[([], [i]) for i in range(3)]] * 2)
    assert (found.random, found.difference, found.standard_error) == (2.0, 0.0, pytest.approx(np.sqrt(2)))
    folds = [([], [0]), ([], [1])]
    with pytest.raises(ValueError, match="a finite score in two random folds or more, got .nan  1"):
        data.overstatement(lambda train, test: [np.nan, 1.0][test[0]], folds, folds)
    with pytest.raises(ValueError, match="return one number"):
        data.overstatement(lambda train, test: np.ones(2), folds, folds)


@pytest.mark.parametrize(
    ("metric", "counts", "message"),
    [
        ("accuracy", (950, 50), "1:19 to class 0.*always saying class 0 scores 0.950.*Use true_skill_statistic"),
        ("accuracy", (50, 950), "the rarest class, 0.*always saying class 1"),
        ("accuracy", (500, 500), ""),
        ("accuracy", (450, 430, 20), ""),
        ("auroc", (9_900, 100), "1 % is 1.0 false alarms for each example of class 1.*average_precision"),
        ("auroc", (900, 100), ""),
        ("brier", (9_900, 100), "Use the skill score 1 − score / score of climatology"),
        ("expected_calibration_error", (9_900, 100), "without any skill"),
        ("heidke_skill_score", (9_900, 100), "depends on the class ratio"),
        ("true_skill_statistic", (9_900, 100), ""),
        ("true_skill_statistic", (9_900, 4), "a rate among 4 has a standard error of up to 0.25"),
        ("true_skill_statistic", (300, 0), "no example is of class 1.*undefined"),
    ],
)
def test_metrics_that_mean_little_are_named_with_the_ratio_and_what_to_use(metric, counts, message):
    labels = np.repeat(np.arange(len(counts)), counts)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warned = data.warn_of_imbalance(metric, labels)
    assert warned == bool(message) == bool(caught)
    if message:
        with pytest.warns(UserWarning, match=f"^{metric}: .*{message}"):
            data.warn_of_imbalance(metric, RNG.permutation(labels))


def test_every_metric_that_is_looked_at_exists():
    from bdl.data import _imbalance

    assert not [name for name in _imbalance._TROUBLES if not hasattr(bdl.metrics, name)]


def test_functions_masks_and_typing_errors():
    def auroc(): ...

    with pytest.warns(UserWarning, match="^auroc: no example is of class 2"):
        data.warn_of_imbalance(auroc, [0, 1, 255], mask=[True, True, False], num_classes=3)
    with pytest.raises(ValueError, match="expected one of accuracy.*got 'acuracy'"):
        data.warn_of_imbalance("acuracy", [0, 1])
    with pytest.raises(ValueError, match="labels in 0, …, K − 1"):
        data.warn_of_imbalance("accuracy", [0, 255], num_classes=2)
