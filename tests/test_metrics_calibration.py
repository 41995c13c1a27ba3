"""Calibration of classes: bins of confidence, errors in three norms, with and without bias, and their noise floor."""

import functools
import itertools

import jax
import numpy as np
import pytest
import scipy.stats

from bdl.metrics import _bins as bins_file
from bdl.metrics._calibration_error import (
    calibration_noise_floor,
    expected_calibration_error,
    maximum_calibration_error,
)
from bdl.metrics._norms import distance
from bdl.metrics._order_statistics import order_statistics
from bdl.metrics._reliability import Reliability, reliability
from tests.slow import slow

pytestmark = pytest.mark.usefixtures("strict_dtypes")

N, K, B = 1500, 4, 15
RNG = np.random.default_rng(0)
PROBS = RNG.dirichlet(np.full(K, 0.7), N).astype(np.float32)
LABELS = np.array([RNG.choice(K, p=p / p.sum()) for p in PROBS.astype(np.float64) ** 0.7])  # too sure of itself
MASK = RNG.uniform(size=N) < 0.6
BAD_PROBS, BAD_LABELS = np.where(MASK[:, None], PROBS, np.nan), np.where(MASK, LABELS, 99)


def confidences(probs, labels, of):
    """The confidences [R, N], and whether they were right."""
    if of == "top":
        return probs.max(-1)[None], (probs.argmax(-1) == labels)[None]
    classes = range(probs.shape[-1]) if of == "classes" else [of]
    return np.stack([probs[:, k] for k in classes]), np.stack([labels == k for k in classes])


def edges_of(confidence, binning, num_bins):
    if binning == "width":
        return (np.arange(num_bins + 1) / num_bins).astype(np.float32)
    ranks = np.ceil(np.arange(1, num_bins) * len(confidence) / num_bins).astype(int)
    return np.concatenate([[0], np.sort(confidence)[np.maximum(ranks, 1) - 1], [1]]).astype(np.float32)


def bins_of(probs, labels, of, binning="width", num_bins=B):
    """In float64, example by example: for each row and bin the confidences and whether they were right."""
    rows = []
    for confidence, right in zip(*confidences(probs, labels, of), strict=True):
        edges = edges_of(confidence, binning, num_bins)
        where = [sum(edge < p for edge in edges[1:-1]) for p in confidence]
        rows.append(
            [(confidence[np.equal(where, b)].astype(float), right[np.equal(where, b)]) for b in range(num_bins)]
        )
    return rows


def error_of(rows, norm, debias=False):
    """The calibration error over all rows from the definition."""
    per_row = []
    for bins in rows:
        total, terms = sum(len(p) for p, _ in bins), []
        for p, right in bins:
            if not len(p):
                continue
            n, gap, a = len(p), right.mean() - p.mean(), right.mean()
            if norm == "max":
                terms.append(abs(gap))
            elif norm == "l2":
                noise = (a * (1 - a) / (n - 1) if n > 1 else gap**2) if debias else 0.0
                terms.append(n / total * (gap**2 - noise))
            else:
                folded = scipy.stats.foldnorm
                scale = np.sqrt(a * (1 - a) / n)
                mean = folded.mean(abs(gap) / scale, scale=scale) if scale else abs(gap)
                terms.append(n / total * (2 * abs(gap) - mean if debias else abs(gap)))
        per_row.append(max(terms) if norm == "max" else sum(terms))
    return max(per_row) if norm == "max" else np.sqrt(max(np.mean(per_row), 0)) if norm == "l2" else np.mean(per_row)


def test_bins_by_hand_with_edges_zero_one_and_ties():
    """Bins are (e_b, e_{b+1}]: a confidence on an edge is in the bin below, 0 in the first one and 1 in the last."""
    of_one = np.array([0.0, 0.25, 0.25, 0.5, 0.50001, 1.0, 1.0, 0.75], np.float32)
    labels = np.array([0, 1, 0, 1, 1, 1, 0, 1])
    found = reliability(np.stack([1 - of_one, of_one], -1), labels, num_bins=4, of=1)
    np.testing.assert_array_equal(found.edges, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_array_equal(found.count, [3, 1, 2, 2])
    np.testing.assert_array_equal(found.correct, [1, 1, 2, 1])
    np.testing.assert_allclose(found.confidence, [0.5 / 3, 0.5, 1.25001 / 2, 1.0], rtol=1e-6)
    np.testing.assert_allclose(found.accuracy, [1 / 3, 1, 1, 0.5], rtol=1e-6)
    spread = [2 * 0.25 * 0.75, 0.25, 0.75 * 0.25 + 0.50001 * 0.49999, 0.0]
    np.testing.assert_allclose(found.spread, spread, rtol=1e-6)
    np.testing.assert_allclose(found.standard_error, np.sqrt(spread) / [3, 1, 2, 2], rtol=1e-6)
    gaps = np.array([1 / 3 - 0.5 / 3, 0.5, 1 - 1.25001 / 2, 0.5])
    np.testing.assert_allclose(found.error(), np.dot([3, 1, 2, 2], gaps) / 8, rtol=1e-6)
    np.testing.assert_allclose(found.error("l2"), np.sqrt(np.dot([3, 1, 2, 2], gaps**2) / 8), rtol=1e-6)
    np.testing.assert_allclose(found.error("max"), 0.5, rtol=1e-6)


def test_empty_bins_are_nan_and_count_nothing():
    probs = np.broadcast_to(np.float32([0.9, 0.1, 0.0, 0.0]), (N, K))
    found = reliability(probs, np.zeros(N, int), mask=np.arange(N) == 3)  # one example
    for each in (found.accuracy, found.confidence, found.standard_error):
        assert np.isnan(each).sum() == B - 1
    np.testing.assert_allclose([found.error(n) for n in ("l1", "l2", "max")], 0.1, rtol=1e-5)
    np.testing.assert_allclose(found.error("l1", debias=True), 0.1, rtol=1e-5)  # no noise is seen in one
    assert float(found.error("l2", debias=True)) == 0.0  # as said of bins of one example


@pytest.mark.parametrize(("of", "binning"), [("top", "width"), ("classes", "width"), ("classes", "mass"), (2, "mass")])
def test_reliability_against_each_example_masked(of, binning):
    """Sums in bins, and the errors of `Reliability`, are those of float64 on the examples that count alone."""
    found = reliability(BAD_PROBS, BAD_LABELS, of=of, binning=binning, mask=MASK)
    rows = bins_of(PROBS[MASK], LABELS[MASK], of, binning)
    shape = (K, B) if of == "classes" else (B,)
    assert found.count.shape == shape
    assert found.edges.shape == (*shape[:-1], B + 1)
    sums = lambda each: np.reshape([[each(*b) for b in row] for row in rows], shape)
    np.testing.assert_array_equal(found.count, sums(lambda p, right: len(p)))
    np.testing.assert_array_equal(found.correct, sums(lambda p, right: right.sum()))
    np.testing.assert_allclose(found.total, sums(lambda p, right: p.sum()), rtol=1e-6)
    np.testing.assert_allclose(found.spread, sums(lambda p, right: (p * (1 - p)).sum()), rtol=1e-6)
    for norm, debias in (("l1", False), ("l2", False), ("max", False), ("l1", True), ("l2", True)):
        expected = [error_of([row], norm, debias) for row in rows]
        np.testing.assert_allclose(np.ravel(found.error(norm, debias=debias)), expected, rtol=1e-5, atol=2e-7)


def test_reliability_under_jit_and_of_images():
    traced = jax.jit(reliability)(BAD_PROBS, BAD_LABELS, mask=MASK)
    jax.tree.map(np.testing.assert_array_equal, traced, reliability(BAD_PROBS, BAD_LABELS, mask=MASK))
    shape = (3, 10, 50)
    images = reliability(BAD_PROBS.reshape(*shape, K), BAD_LABELS.reshape(shape), mask=MASK.reshape(shape))
    jax.tree.map(np.testing.assert_array_equal, images, traced)


def test_uneven_batches_merge_to_the_whole():
    whole = reliability(PROBS, LABELS, of="classes")
    parts = np.split(np.arange(N), [7, 8])
    merged = functools.reduce(Reliability.merge, (reliability(PROBS[i], LABELS[i], of="classes") for i in parts))
    np.testing.assert_array_equal(merged.count, whole.count)
    np.testing.assert_array_equal(merged.correct, whole.correct)
    np.testing.assert_allclose(merged.total, whole.total, rtol=1e-6)
    np.testing.assert_allclose(merged.spread, whole.spread, rtol=1e-6)
    np.testing.assert_allclose(merged.error("l1"), whole.error("l1"), rtol=1e-4, atol=1e-7)
    mass = reliability(PROBS, LABELS, of="classes", binning="mass")
    again = [reliability(PROBS[i], LABELS[i], of="classes", binning=mass.edges) for i in parts]
    np.testing.assert_array_equal(functools.reduce(Reliability.merge, again).count, mass.count)


def test_bins_of_equal_mass_hold_as_many_and_ties_stay_together():
    found = reliability(PROBS, LABELS, binning="mass")
    assert set(np.asarray(found.count).tolist()) == {N // B}
    of_some = lambda probs, num: np.asarray(reliability(probs, LABELS, binning="mass", mask=np.arange(N) < num).count)
    assert set(of_some(PROBS, 1496).tolist()) == {1496 // B, 1496 // B + 1}
    assert sorted(of_some(PROBS, 2).tolist()) == [0] * (B - 2) + [1, 1]
    assert sorted(of_some(np.full((N, K), 0.25, np.float32), 9).tolist()) == [0] * (B - 1) + [9]


def test_order_statistics_are_those_of_a_sort():
    rng = np.random.default_rng(1)
    numbers = np.concatenate([rng.uniform(size=2000), rng.integers(0, 5, 900) / 4, 1e-6 * rng.uniform(size=99), [1.01]])
    numbers, kept = numbers.astype(np.float32), rng.uniform(size=3000) < 0.8
    ranks = np.array([1, 2, 5, 700, 700, 1500, 2000, kept.sum() - 1, kept.sum()], np.int32)
    found = jax.jit(order_statistics)(numbers, kept, ranks)
    np.testing.assert_array_equal(found, np.sort(numbers[kept])[ranks - 1])


def test_sums_of_a_million_are_exact():
    """Blocks: counts are integers, sums right to 1e-6 where one float32 sum of a million in a bin loses digits."""
    rng = np.random.default_rng(2)
    confidence = rng.beta(8, 1.2, 1_000_003).astype(np.float32)
    probs, right = np.stack([1 - confidence, confidence], -1), rng.uniform(size=confidence.size) < confidence
    found = reliability(probs, right, of=1)
    where = np.searchsorted(np.asarray(found.edges)[1:-1], confidence, side="left")
    assert np.array_equal(found.count, np.bincount(where, minlength=B))
    assert np.array_equal(found.correct, np.bincount(where, right, minlength=B))
    p = confidence.astype(np.float64)
    np.testing.assert_allclose(found.total, np.bincount(where, p, B), rtol=1e-6)
    np.testing.assert_allclose(found.spread, np.bincount(where, p * (1 - p), B), rtol=1e-6)
    np.testing.assert_allclose(
        found.error(), np.abs(np.bincount(where, right - p, B)).sum() / p.size, rtol=0, atol=2e-7
    )


OPTIONS = [
    {"norm": norm, "debias": debias, "classwise": classwise, "binning": binning}
    for norm, debias, classwise, binning in itertools.product(
        ("l1", "l2", "max"), (False, True), (False, True), ("width", "mass")
    )
    if not (norm == "max" and debias)
]


def test_errors_in_all_forms_are_those_of_their_definitions():
    for options in OPTIONS:
        of = "classes" if options["classwise"] else "top"
        expected = error_of(
            bins_of(PROBS[MASK], LABELS[MASK], of, options["binning"]), options["norm"], options["debias"]
        )
        found = expected_calibration_error(BAD_PROBS, BAD_LABELS, mask=MASK, **options)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-7, err_msg=str(options))
        assert expected > 0.005
    for classwise in (False, True):
        np.testing.assert_array_equal(
            maximum_calibration_error(PROBS, LABELS, classwise=classwise),
            expected_calibration_error(PROBS, LABELS, norm="max", classwise=classwise),
        )


def test_the_ece_of_guo_by_hand():
    """Three predictions in two bins of fifteen: 2/3 |1/2 − 0.96| + 1/3 |0 − 0.6|."""
    probs = np.array([[0.98, 0.02], [0.06, 0.94], [0.4, 0.6]], np.float32)
    np.testing.assert_allclose(expected_calibration_error(probs, np.array([0, 0, 0])), 2 / 3 * 0.46 + 0.2, rtol=1e-6)
    np.testing.assert_allclose(maximum_calibration_error(probs, np.array([0, 0, 0])), 0.6, rtol=1e-6)


def test_one_class_missing_and_constant_scores():
    constant = np.broadcast_to(np.float32([0.5, 0.25, 0.25, 0.0]), (N, K))
    first = np.zeros(N, int)
    np.testing.assert_allclose(expected_calibration_error(constant, first), 0.5, rtol=1e-6)
    np.testing.assert_allclose(expected_calibration_error(constant, first, classwise=True), 1 / 4, rtol=1e-6)
    certain = np.eye(K, dtype=np.float32)[first]
    for norm in ("l1", "l2", "max"):
        assert float(expected_calibration_error(certain, first, norm=norm)) == 0.0
        assert float(expected_calibration_error(certain, first + 1, norm=norm)) == 1.0
        assert float(calibration_noise_floor(certain, norm=norm)) == 0.0


def simulate(num, runs, num_classes=4):
    """Predictions of a calibrated simulator, [num, K], and `runs` sets of labels drawn from them."""
    rng = np.random.default_rng(3)
    probs = rng.dirichlet(np.full(num_classes, 1.5), num).astype(np.float32)
    levels = probs.astype(np.float64).cumsum(-1)[:, :-1]
    return probs, (rng.uniform(size=(runs, num, 1)) > levels).sum(-1)


@pytest.mark.parametrize("num", [500, slow(8000)])
def test_the_error_of_a_calibrated_simulator_is_its_noise_floor(num):
    """It falls as N^−½, and its mean over 300 draws of labels is what `calibration_noise_floor` says."""
    probs, labels = simulate(num, 300)
    found = jax.jit(
        lambda labels: jax.lax.map(lambda y: tuple(reliability(probs, y, of=of) for of in ("top", "classes")), labels)
    )(labels)
    for each, classwise in zip(found, (False, True), strict=True):
        for norm in ("l1", "l2", "max"):
            error = np.asarray(each.error(norm), np.float64)
            if classwise:
                error = (
                    error.max(-1) if norm == "max" else error.mean(-1) if norm == "l1" else (error**2).mean(-1) ** 0.5
                )
            floor = float(calibration_noise_floor(probs, norm=norm, classwise=classwise))
            mean, noise = error.mean(), error.std(ddof=1) / np.sqrt(len(error))
            if norm == "l2":  # of the squares, exactly
                squares = error**2
                assert abs(squares.mean() - floor**2) < 5 * squares.std(ddof=1) / np.sqrt(len(error))
            elif norm == "l1":
                # A Normal stands for sums of a few indicators: within 2 % at 500, a bin of 15 holding about 33.
                assert abs(mean - floor) < 5 * noise + 0.02 * floor
            elif num == 8000:
                assert abs(mean - floor) < 5 * noise + 0.1 * floor
            print(f"{num} {norm:3} classwise={classwise}: error {mean:.5f} ± {noise:.5f}, noise floor {floor:.5f}")


def test_the_floor_falls_as_the_root_of_the_number():
    probs, _ = simulate(500, 1)
    many = np.tile(probs, (16, 1))
    for norm in ("l1", "l2", "max"):
        np.testing.assert_allclose(
            calibration_noise_floor(many, norm=norm),
            np.float64(calibration_noise_floor(probs, norm=norm)) / 4,
            rtol=1e-5,
        )


def test_the_floor_of_a_maximum_is_the_mean_of_maxima_of_normals():
    probs, _ = simulate(8000, 1)
    found = reliability(probs, np.zeros(8000, int))
    scale = np.nan_to_num(np.asarray(found.standard_error, np.float64))
    draws = np.abs(np.random.default_rng(4).normal(size=(200_000, B)) * scale).max(-1)
    assert abs(float(found.noise_floor("max")) - draws.mean()) < 5 * draws.std() / np.sqrt(200_000)
    one = reliability(np.full((100, 2), 0.5, np.float32), np.zeros(100, int))
    np.testing.assert_allclose(one.noise_floor("max"), np.sqrt(2 / np.pi) * 0.05, rtol=1e-5)
    np.testing.assert_allclose(one.noise_floor("l1"), np.sqrt(2 / np.pi) * 0.05, rtol=1e-6)


def test_debiased_errors_have_less_bias():
    """Of the calibrated simulator of 500 the true error is 0: the squares' mean is 0, and ℓ1 loses most of its bias."""
    probs, labels = simulate(500, 300)
    found = jax.jit(lambda labels: jax.lax.map(lambda y: reliability(probs, y), labels))(labels)
    noise = lambda each: each.std(ddof=1) / np.sqrt(len(each))
    squares = np.asarray(debiased_square(found), np.float64)
    assert abs(squares.mean()) < 5 * noise(squares)
    plain, debiased = (np.asarray(found.error("l1", debias=d), np.float64).mean() for d in (False, True))
    assert 0 < debiased < 0.7 * plain


def debiased_square(found):
    """The debiased square before its root, from the public numbers."""
    n, a, gap = np.asarray(found.count), np.asarray(found.accuracy), np.asarray(found.accuracy - found.confidence)
    terms = np.where(n > 1, gap**2 - a * (1 - a) / np.maximum(n - 1, 1), 0)
    return (n / n.sum(-1, keepdims=True) * np.where(n > 0, terms, 0)).sum(-1)


def test_the_folded_normal_is_that_of_scipy():
    mean, scale = (a.ravel() for a in np.meshgrid(np.linspace(-3, 3, 13), [0.01, 0.3, 2.0]))
    expected = scipy.stats.foldnorm.mean(np.abs(mean) / scale, scale=scale)
    found = jax.jit(distance)
    np.testing.assert_allclose(found(*np.float32([mean, scale])), expected, rtol=2e-6)
    np.testing.assert_array_equal(found(np.float32(mean), np.zeros(39, np.float32)), np.abs(np.float32(mean)))


def test_reliability_is_printed_with_its_noise_floor():
    for of in ("top", "classes"):
        found = reliability(PROBS, LABELS, of=of)
        classwise = of == "classes"
        error = expected_calibration_error(PROBS, LABELS, classwise=classwise)
        floor = calibration_noise_floor(PROBS, classwise=classwise)
        assert str(found) == (
            f"expected calibration error {error:.4f}, {floor:.4f} if calibrated (1,500 examples in 15 bins)"
        )
    shown = []
    jax.jit(lambda r: shown.append(str(r)))(found)
    assert shown[0].startswith("Reliability(")


BAD = {
    "norm": (lambda: expected_calibration_error(PROBS, LABELS, norm="l3"), "expected `norm` to be 'l1', 'l2' or 'max'"),
    "a maximum without bias": (
        lambda: expected_calibration_error(PROBS, LABELS, norm="max", debias=True), "a maximum has no debiased form"),
    "floor": (lambda: calibration_noise_floor(PROBS, norm="L1"), "expected `norm` to be"),
    "of the norm": (lambda: reliability(PROBS, LABELS).error("l0"), "Reliability.error: expected `norm`"),
    "binning": (lambda: reliability(PROBS, LABELS, binning="equal"), "'width', 'mass' or edges, got 'equal'"),
    "edges": (lambda: reliability(PROBS, LABELS, binning=np.array([0.0, 0.7, 0.3])), "edges that do not decrease"),
    "edges' shape": (lambda: reliability(PROBS, LABELS, binning=np.zeros((3, 2))), "expected edges [B + 1]"),
    "no bins": (lambda: reliability(PROBS, LABELS, num_bins=0), "num_bins of at least 1, got 0"),
    "of": (lambda: reliability(PROBS, LABELS, of="all"), "expected `of` to be 'top', 'classes' or a class below 4"),
    "class": (lambda: reliability(PROBS, LABELS, of=4), "a class below 4, got 4"),
    "merge": (
        lambda: reliability(PROBS, LABELS).merge(reliability(PROBS, LABELS, num_bins=5)), "the same edges in both"),
    "merge mass": (
        lambda: reliability(PROBS, LABELS).merge(reliability(PROBS, LABELS, binning="mass")), "binning=first.edges"),
    "logits": (lambda: calibration_noise_floor(5 * PROBS), "expected probabilities in [0, 1]"),
    "one class": (lambda: expected_calibration_error(PROBS[:, :1], LABELS), "probs [..., K] with K >= 2"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_error_says_what_to_do(name):
    call, message = BAD[name]
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        call()
    assert message in str(raised.value)


def test_a_second_call_compiles_nothing():
    expected_calibration_error(PROBS, LABELS)
    before = bins_file.sums_in_bins._cache_size()
    expected_calibration_error(np.roll(PROBS, 1, 0), LABELS)
    assert bins_file.sums_in_bins._cache_size() == before


def test_nothing_left_under_a_trace_is_nan():
    traced = jax.jit(lambda mask: expected_calibration_error(PROBS, LABELS, mask=mask))
    assert np.isnan(traced(np.zeros(N, bool)))


@pytest.mark.slow
def test_bins_take_any_probabilities_and_labels():
    """Ties, constant and certain predictions, one class missing, one example: the error of the definition."""
    hypothesis = pytest.importorskip("hypothesis")
    numbers = pytest.importorskip("hypothesis.extra.numpy")
    st = hypothesis.strategies

    @st.composite
    def data(draw):
        size = draw(st.sampled_from([1, 9]))
        raw = draw(numbers.arrays(np.float64, (size, 3), elements=st.integers(0, 4).map(float)))
        raw[raw.sum(-1) == 0, 0] = 1.0
        labels = draw(numbers.arrays(np.int32, size, elements=st.integers(0, 2)))
        mask = draw(numbers.arrays(bool, size))
        mask[draw(st.integers(0, size - 1))] = True
        return (raw / raw.sum(-1, keepdims=True)).astype(np.float32), labels, mask

    @hypothesis.settings(max_examples=30, deadline=None, derandomize=True, database=None)
    @hypothesis.given(data(), st.sampled_from([("width", "top"), ("mass", "classes")]))
    def check(found, form):
        (probs, labels, mask), (binning, of) = found, form
        rows = bins_of(probs[mask], labels[mask], of, binning, 4)
        result = reliability(probs, labels, of=of, binning=binning, num_bins=4, mask=mask)
        np.testing.assert_array_equal(np.reshape(result.count, (-1, 4)), [[len(p) for p, _ in row] for row in rows])
        for norm in ("l1", "l2", "max"):
            np.testing.assert_allclose(
                np.ravel(result.error(norm)), [error_of([row], norm) for row in rows], rtol=1e-5, atol=3e-7
            )

    check()
