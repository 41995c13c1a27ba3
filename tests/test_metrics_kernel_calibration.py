"""The kernel calibration error against all of its pairs, and its test by simulation."""

import jax
import numpy as np
import pytest
import scipy.stats

from bdl.metrics import _kernel_calibration as kernel_file
from bdl.metrics._kernel_calibration import kernel_calibration_error, kernel_calibration_test

pytestmark = pytest.mark.usefixtures("strict_dtypes")

KEY = jax.random.key(0)
N, K = 700, 4
RNG = np.random.default_rng(0)
PROBS = RNG.dirichlet(np.full(K, 0.7), N).astype(np.float32)
LABELS = RNG.integers(0, K, N)
MASK = RNG.uniform(size=N) < 0.6
BAD_PROBS, BAD_LABELS = np.where(MASK[:, None], PROBS, np.nan), np.where(MASK, LABELS, 99)


def simulate(num, runs, num_classes=4):
    """Predictions of a calibrated simulator, [num, K], and `runs` sets of labels drawn from them."""
    rng = np.random.default_rng(3)
    probs = rng.dirichlet(np.full(num_classes, 1.5), num).astype(np.float32)
    levels = probs.astype(np.float64).cumsum(-1)[:, :-1]
    return probs, (rng.uniform(size=(runs, num, 1)) > levels).sum(-1)


def pairs_of(probs, labels, bandwidth=None, size=None):
    """Sums over pairs in float64, one by one."""
    probs = probs.astype(np.float64)
    residual, num = np.eye(probs.shape[-1])[labels] - probs, len(probs)
    apart = np.linalg.norm(probs[:, None] - probs[None], axis=-1)
    if bandwidth is None:
        bandwidth = np.median(apart[np.triu_indices(num, 1)])
    h = np.exp(-apart / bandwidth) * (residual @ residual.T)
    block = np.arange(num) // (size or num)
    chosen = np.triu(block[:, None] == block[None], 1)
    return h[chosen].mean()


@pytest.mark.parametrize("size", [None, 2, 64])
def test_the_kernel_error_is_the_mean_over_pairs(size):
    """All pairs, in several tiles and in blocks; masked it is that of the others alone, which form the blocks."""
    probs, labels, mask = BAD_PROBS, BAD_LABELS, MASK
    for bandwidth in (None, 0.3):
        expected = pairs_of(PROBS[mask], LABELS[mask], bandwidth, size)
        found = kernel_calibration_error(probs, labels, block_size=size, bandwidth=bandwidth, mask=mask)
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-7)
    found = kernel_calibration_error(PROBS, LABELS, block_size=size)
    np.testing.assert_allclose(found, pairs_of(PROBS, LABELS, None, size), rtol=2e-5, atol=2e-7)


def test_the_kernel_error_by_hand():
    """Two examples: exp(−d / ν) ⟨r, r'⟩, and equal predictions, whose median distance is 0."""
    probs, labels = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32), np.array([1, 0])
    expected = np.exp(-np.hypot(0.7, 0.7) / 0.5) * np.dot([-0.9, 0.9], [0.8, -0.8])
    np.testing.assert_allclose(kernel_calibration_error(probs, labels, bandwidth=0.5), expected, rtol=2e-6)
    same = np.broadcast_to(np.float32([0.75, 0.25]), (2, 2))
    np.testing.assert_allclose(kernel_calibration_error(same, labels), np.dot([-0.75, 0.75], [0.25, -0.25]), rtol=2e-6)


@pytest.mark.slow
def test_the_bandwidth_of_many_is_the_median_of_evenly_spaced_ones():
    probs = simulate(2501, 1)[0]
    some = probs[np.arange(1000) * 2501 // 1000].astype(np.float64)
    apart = np.linalg.norm(some[:, None] - some[None], axis=-1)[np.triu_indices(1000, 1)]
    found = jax.jit(kernel_file._median_distance)(probs, np.ones(2501, np.float32))
    np.testing.assert_allclose(found, np.median(apart), rtol=1e-5)


@pytest.mark.slow
def test_the_kernel_error_is_without_bias_and_its_test_exact():
    """Of 400 sets of labels of a calibrated predictor: a mean of 0, and uniform p-values; of a bad one, small ones."""
    probs, labels = simulate(60, 400)
    keys = jax.random.split(KEY, 400)
    test = jax.jit(jax.vmap(lambda key, y: kernel_calibration_test(key, probs, y, num_draws=99)))
    error = jax.jit(jax.vmap(lambda y: kernel_calibration_error(probs, y)))
    found = np.asarray(error(labels), np.float64)
    assert abs(found.mean()) < 5 * found.std(ddof=1) / np.sqrt(400)
    assert (found < 0).mean() > 0.3
    p = np.asarray(test(keys, labels), np.float64)
    assert round(p.min(), 6) >= 0.01
    assert p.max() <= 1.0
    # Under calibration 100 p is uniform on 1, …, 100.
    assert scipy.stats.chisquare(np.bincount((100 * p - 0.5).astype(int) // 10, minlength=10)).pvalue > 1e-4
    always = np.broadcast_to(probs.argmax(-1), (400, 60))  # right more often than it says
    assert np.median(test(keys, always)) <= 0.05


@pytest.mark.slow
def test_the_test_masked_and_of_certain_predictions():
    found = [
        kernel_calibration_test(KEY, probs[:50], labels[:50], num_draws=70, mask=MASK[:50])
        for probs, labels in ((PROBS, LABELS), (BAD_PROBS, BAD_LABELS))
    ]
    assert found[0] == found[1]
    assert 1 / 72 < found[0] <= 1
    sure = np.eye(K, dtype=np.float32)[LABELS[:50]]
    assert float(kernel_calibration_test(KEY, sure, LABELS[:50], num_draws=70)) == 1.0  # nothing can be seen


@pytest.mark.slow
@pytest.mark.parametrize(("num", "size", "limit"), [(5_000, 5_000, 30e6), (100_000, 64, 60e6)])
def test_the_kernel_error_is_bounded_in_memory(num, size, limit):
    """All pairs of 5,000, whose matrix would take 100 MB, and blocks of 64 of 100,000 examples."""
    of = jax.ShapeDtypeStruct
    shapes = of((num, K), "float32"), of((num,), "int32"), of((num,), "float32"), of((), "float32")
    compiled = kernel_file._error.lower(*shapes, size).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < limit


BAD = {
    "one example": (lambda: kernel_calibration_error(PROBS[:1], LABELS[:1]), "at least two examples"),
    "one left": (
        lambda: kernel_calibration_error(PROBS, LABELS, mask=np.arange(N) == 3), "at least two examples that count"),
    "too many": (
        lambda: kernel_calibration_error(np.full((30_000, 2), 0.5, np.float32), np.zeros(30_000, int)),
        "Pass block_size=64"),
    "blocks of one": (lambda: kernel_calibration_error(PROBS, LABELS, block_size=1), "block_size of at least 2, got 1"),
    "bandwidth": (lambda: kernel_calibration_error(PROBS, LABELS, bandwidth=0.0), "one bandwidth above 0, got 0.0"),
    "no draws": (lambda: kernel_calibration_test(KEY, PROBS, LABELS, num_draws=0), "num_draws of at least 1, got 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_error_says_what_to_do(name):
    call, message = BAD[name]
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        call()
    assert message in str(raised.value)


def test_the_key_comes_first():
    with pytest.raises(TypeError, match="expected one random key as the first argument"):
        kernel_calibration_test(PROBS, PROBS, LABELS)


def test_a_second_call_compiles_nothing():
    kernel_calibration_error(PROBS, LABELS)
    before = kernel_file._error._cache_size()
    kernel_calibration_error(PROBS, np.roll(LABELS, 1))
    assert kernel_file._error._cache_size() == before


def test_fewer_than_two_left_under_a_trace_are_nan():
    traced = jax.jit(lambda mask: kernel_calibration_error(PROBS, LABELS, mask=mask))
    assert np.isnan(traced(np.zeros(N, bool)))
    assert np.isnan(traced(np.arange(N) == 3))
