"""Proper scores: against independent oracles, under jit, masked, in batches; clear errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import sklearn.metrics

from bdl.metrics import _brier as brier_file
from bdl.metrics import _crps as crps_file
from bdl.metrics import _energy_score as energy_file
from bdl.metrics._brier import brier
from bdl.metrics._crps import crps, crps_mixture, crps_normal
from bdl.metrics._energy_score import energy_score
from bdl.metrics._errors import mae, rmse
from bdl.metrics._intervals import coverage, interval_width, sharpness
from bdl.metrics._log_likelihood import log_likelihood, normal_log_likelihood
from bdl.metrics._quantile_scores import interval_score, pinball

pytestmark = pytest.mark.usefixtures("strict_dtypes")

N, K, S, D = 103, 4, 7, 3
RNG = np.random.default_rng(0)
PROBS = RNG.dirichlet(np.full(K, 0.5), N).astype(np.float32)
LABELS = RNG.integers(0, K, N)
MEAN, TARGETS = (RNG.normal(size=N).astype(np.float32) for _ in range(2))
SCALE = RNG.uniform(0.2, 2.0, N).astype(np.float32)
MEANS = RNG.normal(size=(S, N)).astype(np.float32)
SCALES = RNG.uniform(0.2, 2.0, (S, N)).astype(np.float32)
SHARES = RNG.dirichlet(np.ones(S)).astype(np.float32)
COUNTS, COUNT = RNG.poisson(2.0, (S, N)).astype(np.float32), RNG.poisson(2.0, N).astype(np.float32)  # with ties
VECTORS, VECTOR = (RNG.normal(size=(*s, N, D)).astype(np.float32) for s in ((S,), ()))
LOWER, UPPER = MEAN - 0.5 * SCALE, MEAN + SCALE
MASK = RNG.uniform(size=N) < 0.7


def wide(*arrays):
    return tuple(np.asarray(array, np.float64) for array in arrays)


def crps_of_cdf(cdf, y):
    """∫ (F(x) − [y ≤ x])² dx by quadrature, of one distribution that is within 15 of 0."""
    below = scipy.integrate.quad(lambda x: cdf(x) ** 2, -15, y, epsabs=1e-9, limit=200)[0]
    return below + scipy.integrate.quad(lambda x: (1 - cdf(x)) ** 2, y, 15, epsabs=1e-9, limit=200)[0]


def crps_by_quadrature(mean, scale, y):
    mean, scale, y = wide(mean, scale, y)
    ndtr = scipy.special.ndtr
    return np.array([crps_of_cdf(lambda x, m=m, s=s: ndtr((x - m) / s), t) for m, s, t in zip(mean, scale, y)])  # noqa: B905


def mixture_by_quadrature(shares, means, scales, y):
    shares, means, scales, y = wide(shares, means, scales, y)
    ndtr = scipy.special.ndtr
    return np.array(
        [crps_of_cdf(lambda x, n=n: shares @ ndtr((x - means[:, n]) / scales[:, n]), y[n]) for n in range(len(y))]
    )


def energy_of_pairs(draws, y, fair):
    draws, y = wide(draws, y)
    num = len(draws)
    among = np.linalg.norm(draws[:, None] - draws[None], axis=-1).sum((0, 1))
    return np.linalg.norm(draws - y, axis=-1).mean(0) - 0.5 * among / (num * (num - fair))


def pinball_by_hand(q, y, level):
    q, y = wide(q, y)
    return np.where(y >= q, level * (y - q), (1 - level) * (q - y))


# Name: the score with its policy; the arrays, examples along the axis that is given; the oracle, one number each.
CASES = {
    "log_likelihood": (log_likelihood, (PROBS, LABELS), (0, 0),
                       lambda p, y: np.log(wide(p)[0][np.arange(len(y)), y])),
    "brier": (brier, (PROBS, LABELS), (0, 0), lambda p, y: ((wide(p)[0] - np.eye(K)[y]) ** 2).sum(-1)),
    "normal_log_likelihood": (normal_log_likelihood, (MEAN, SCALE, TARGETS), (0, 0, 0),
                              lambda m, s, y: scipy.stats.norm.logpdf(*wide(y, m, s))),
    "crps_normal": (crps_normal, (MEAN, SCALE, TARGETS), (0, 0, 0), crps_by_quadrature),
    "crps_mixture": (functools.partial(crps_mixture, weights=SHARES), (MEANS, SCALES, TARGETS), (1, 1, 0),
                     functools.partial(mixture_by_quadrature, SHARES)),
    "crps, fair": (crps, (MEANS, TARGETS), (1, 0), lambda x, y: energy_of_pairs(x[..., None], y[..., None], True)),
    "crps, ties": (functools.partial(crps, fair=False), (COUNTS, COUNT), (1, 0),
                   lambda x, y: energy_of_pairs(x[..., None], y[..., None], False)),
    "energy_score, fair": (energy_score, (VECTORS, VECTOR), (1, 0), lambda x, y: energy_of_pairs(x, y, True)),
    "energy_score": (functools.partial(energy_score, fair=False), (VECTORS, VECTOR), (1, 0),
                     lambda x, y: energy_of_pairs(x, y, False)),
    "pinball": (functools.partial(pinball, level=0.9), (MEAN, TARGETS), (0, 0),
                lambda q, y: pinball_by_hand(q, y, 0.9)),
    # The interval score is 2/α times the pinball losses of the two ends.
    "interval_score": (functools.partial(interval_score, level=0.8), (LOWER, UPPER, TARGETS), (0, 0, 0),
                       lambda low, up, y: 10 * (pinball_by_hand(low, y, 0.1) + pinball_by_hand(up, y, 0.9))),
    "mae": (mae, (MEAN, TARGETS), (0, 0), lambda m, y: np.abs(np.subtract(*wide(m, y)))),
    "coverage": (coverage, (LOWER, UPPER, TARGETS), (0, 0, 0), lambda low, up, y: (low <= y) & (y <= up)),
    "interval_width": (interval_width, (LOWER, UPPER), (0, 0), lambda low, up: np.subtract(*wide(up, low))),
}  # fmt: skip


def spoiled(array, axis, mask):
    """What counts as it is; elsewhere NaN, or a label that is none."""
    where = np.expand_dims(mask, [i for i in range(array.ndim) if i != axis])
    return np.where(where, array, -7 if np.issubdtype(array.dtype, np.integer) else np.nan).astype(array.dtype)


@pytest.mark.parametrize("name", CASES)
def test_score_is_its_oracle_for_each_example_masked_and_in_uneven_batches(name):
    score, arrays, axes, oracle = CASES[name]
    expected = np.asarray(oracle(*arrays), np.float64)
    each = score(*arrays, average=False)
    assert each.shape == (N,)
    assert each.dtype == np.float32
    np.testing.assert_allclose(each, expected, rtol=2e-6, atol=2e-6)

    bad = [spoiled(*pair, MASK) for pair in zip(arrays, axes, strict=True)]
    np.testing.assert_allclose(
        score(*bad, mask=MASK, average=False), np.where(MASK, expected, 0.0), rtol=2e-6, atol=2e-6
    )

    traced = jax.jit(lambda mask, *arrays: score(*arrays, mask=mask))
    np.testing.assert_allclose(traced(MASK, *bad), expected[MASK].mean(), rtol=2e-6)
    batch = np.repeat(np.arange(4), [40, 1, 50, 12])
    kept = [MASK & (batch == b) for b in range(4)]
    kept = [mask for mask in kept if mask.any()]
    means, counts = [float(traced(mask, *bad)) for mask in kept], [mask.sum() for mask in kept]
    assert traced._cache_size() == 1
    np.testing.assert_allclose(np.average(means, weights=counts), expected[MASK].mean(), rtol=2e-6)


def test_scores_are_those_of_scikit_learn():
    np.testing.assert_allclose(-log_likelihood(PROBS, LABELS), sklearn.metrics.log_loss(LABELS, PROBS), rtol=2e-6)
    two, of_two = np.stack([PROBS[:, 0], 1 - PROBS[:, 0]], -1), (LABELS > 0).astype(int)
    np.testing.assert_allclose(
        brier(two, of_two), 2 * sklearn.metrics.brier_score_loss(of_two, two[:, 1]), rtol=2e-6
    )  # fmt: skip
    np.testing.assert_allclose(
        pinball(MEAN, TARGETS, 0.3), sklearn.metrics.mean_pinball_loss(TARGETS, MEAN, alpha=0.3), rtol=2e-6
    )  # fmt: skip
    np.testing.assert_allclose(mae(MEAN, TARGETS), sklearn.metrics.mean_absolute_error(TARGETS, MEAN), rtol=2e-6)
    root = sklearn.metrics.root_mean_squared_error
    np.testing.assert_allclose(rmse(MEAN, TARGETS), root(TARGETS, MEAN), rtol=2e-6)
    bad = spoiled(MEAN, 0, MASK)
    np.testing.assert_allclose(rmse(bad, TARGETS, mask=MASK), root(TARGETS[MASK], MEAN[MASK]), rtol=2e-6)
    np.testing.assert_allclose(sharpness(SCALE), np.sqrt((wide(SCALE)[0] ** 2).mean()), rtol=2e-6)
    bad = spoiled(SCALE, 0, MASK)
    np.testing.assert_allclose(sharpness(bad, mask=MASK), np.sqrt((wide(SCALE)[0][MASK] ** 2).mean()), rtol=2e-6)


def test_images_are_examples_pixel_by_pixel():
    shape = (2, 3, 5)
    probs, labels, mask = PROBS[:30].reshape(*shape, K), LABELS[:30].reshape(shape), MASK[:30].reshape(shape)
    expected = CASES["brier"][3](PROBS[:30], LABELS[:30])
    each = brier(probs, labels, mask=mask, average=False)
    np.testing.assert_allclose(each, np.where(mask, expected.reshape(shape), 0), rtol=2e-6, atol=2e-6)
    vectors, vector = VECTORS[:, :30].reshape(S, *shape, D), VECTOR[:30].reshape(*shape, D)
    np.testing.assert_allclose(
        energy_score(vectors, vector, mask=mask), energy_of_pairs(VECTORS, VECTOR, True)[:30][MASK[:30]].mean(),
        rtol=2e-6,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_any_float_is_computed_in_float32(dtype):
    """Probabilities in 16 bits do not sum to one; the score is that of the numbers as they are."""
    given = PROBS.astype(jnp.dtype(dtype))
    as_float32 = given.astype(np.float32)
    found = brier(given, LABELS, average=False)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, CASES["brier"][3](as_float32, LABELS), rtol=2e-6, atol=2e-6)
    found = crps_normal(MEAN.astype(given.dtype), 1.0, TARGETS.astype(given.dtype))
    assert found.dtype == np.float32
    np.testing.assert_allclose(
        found, crps_normal(MEAN.astype(given.dtype).astype(np.float32), 1.0, TARGETS.astype(given.dtype)), rtol=1e-6
    )


def test_certainty_scores_exactly():
    """Probabilities of exactly 0 and 1, and one example."""
    probs, labels = np.eye(3, dtype=np.float32)[[0, 1]], np.array([0, 2])
    np.testing.assert_array_equal(log_likelihood(probs, labels, average=False), [0.0, -np.inf])
    np.testing.assert_array_equal(log_likelihood(probs, labels, mask=np.array([True, False])), 0.0)
    np.testing.assert_array_equal(log_likelihood(probs, labels), -np.inf)
    np.testing.assert_array_equal(brier(probs, labels, average=False), [0.0, 2.0])
    assert float(brier(np.array([0.25, 0.75], np.float32), np.array(1))) == 0.125  # one example without an axis


def test_scores_of_one_sample():
    draw, y = np.array([[1.0, 5.0]], np.float32), np.array([3.0, 3.5], np.float32)
    np.testing.assert_array_equal(crps(draw, y, fair=False, average=False), [2.0, 1.5])  # the absolute error
    np.testing.assert_array_equal(energy_score(draw[..., None], y[..., None], fair=False, average=False), [2.0, 1.5])
    np.testing.assert_allclose(crps_mixture(draw, 0.5, y), crps_normal(draw[0], 0.5, y), rtol=1e-6)
    for score, shape in ((crps, ()), (energy_score, (1,))):
        with pytest.raises(ValueError, match="at least 2 samples, got 1. Draw at least two, or pass fair=False"):
            score(draw.reshape(1, 2, *shape), y.reshape(2, *shape))
        with pytest.raises(ValueError, match="at least 2 samples"):
            jax.eval_shape(score, draw.reshape(1, 2, *shape), y.reshape(2, *shape))


def test_equal_components_are_one_normal():
    np.testing.assert_allclose(
        crps_mixture(np.tile(MEAN, (S, 1)), np.tile(SCALE, (S, 1)), TARGETS, average=False),
        crps_normal(MEAN, SCALE, TARGETS, average=False), rtol=3e-6, atol=1e-6,
    )  # fmt: skip


def test_numbers_far_from_zero_and_far_apart_keep_their_digits():
    """Nothing is a difference of large sums: float64 of the same float32 numbers, near a million, gives the same."""
    draws, y = (1e6 + 10 * MEANS).astype(np.float32), (1e6 + 10 * TARGETS).astype(np.float32)
    np.testing.assert_allclose(
        crps(draws, y, average=False), energy_of_pairs(draws[..., None], y[..., None], True), rtol=1e-5, atol=1e-5
    )
    shifted = (draws - 1e6).astype(np.float32), (y - 1e6).astype(np.float32)
    np.testing.assert_allclose(
        crps_mixture(draws, SCALES, y, average=False), crps_mixture(shifted[0], SCALES, shifted[1], average=False),
        rtol=1e-5, atol=1e-5,
    )  # fmt: skip
    z = np.array([-1e6, -50.0, 0.0, 50.0, 1e6] + [0.0] * (N - 5), np.float32)
    expected = np.abs(z) - 1 / np.sqrt(np.pi) + np.where(z == 0, np.sqrt(2 / np.pi), 0)
    np.testing.assert_allclose(crps_normal(0.0, 1.0, z, average=False), expected, rtol=1e-6)
    np.testing.assert_allclose(crps_normal(0.0, 1e-3, 1e-3 * z, average=False), 1e-3 * expected, rtol=1e-6)


def test_gradients_are_finite_with_ties_and_where_masked():
    """So that a score can be a loss: the distance of a sample from itself has a gradient of 0, not NaN."""
    twice = np.concatenate([VECTORS[:2], VECTORS[:2]])
    assert np.isfinite(jax.jit(jax.grad(lambda x: energy_score(x, VECTOR, mask=MASK)))(twice)).all()
    bad = [spoiled(*pair, MASK) for pair in ((MEAN, 0), (SCALE, 0), (TARGETS, 0))]
    for score in (crps_normal, normal_log_likelihood):
        gradient = jax.jit(jax.grad(lambda m, s, y, score=score: score(m, s, y, mask=MASK), (0, 1)))(*bad)
        assert all(np.isfinite(g).all() and (np.asarray(g)[~MASK] == 0).all() for g in gradient)
        step = 1e-2
        moved = [np.float64(score(bad[0] + sign * np.float32(step), *bad[1:], mask=MASK)) for sign in (-1, 1)]
        np.testing.assert_allclose(np.sum(gradient[0]), (moved[1] - moved[0]) / (2 * step), rtol=1e-3, atol=1e-5)


def test_a_second_call_compiles_nothing():
    calls = (
        (brier_file._brier, lambda shift: brier(np.roll(PROBS, shift, 0), LABELS)),
        (crps_file._crps, lambda shift: crps(np.roll(MEANS, shift, 0), TARGETS)),
        (energy_file._energy_score, lambda shift: energy_score(np.roll(VECTORS, shift, 0), VECTOR)),
    )
    for compiled, call in calls:
        call(0)
        before = compiled._cache_size()
        call(1)
        assert compiled._cache_size() == before


def test_the_energy_score_does_not_hold_all_pairs():
    """Of 200 samples the pairs of all examples would be 200² · 50 · 3 numbers; the samples are 200 · 50 · 3."""
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((200, 50, 3), (50, 3), (50,))]
    compiled = energy_file._energy_score.lower(*shapes, True, True).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * 4 * 200 * 50 * 3


BAD = {
    "no probabilities": (lambda: brier(2 * PROBS, LABELS), "expected probabilities in [0, 1]"),
    "two infinities": (lambda: brier(np.add(PROBS, [np.inf, -np.inf, 0, 0]), LABELS), "expected finite probs"),
    "labels outside": (lambda: log_likelihood(PROBS, LABELS + 1), "expected labels in 0, …, 3, got 4"),
    "nothing counts": (lambda: brier(PROBS, LABELS, mask=np.zeros(N, bool)), "no example that the mask keeps"),
    "no example": (lambda: mae(MEAN[:0], TARGETS[:0]), "there is no example"),
    "shapes": (lambda: crps_normal(MEAN[:, None], 1.0, TARGETS), "expected mean of the shape (103,) of targets"),
    "a scale of 0": (lambda: crps_normal(MEAN, 0.0, TARGETS), "expected scale above 0, got 0"),
    "log scales": (lambda: normal_log_likelihood(MEAN, np.log(SCALE), TARGETS), "expected scale above 0, got -1"),
    "a NaN": (lambda: rmse(np.full(N, np.nan, np.float32), TARGETS), "expected finite predictions, got nan"),
    "sample axis": (lambda: crps(MEANS.T, TARGETS), "expected samples [S, ...] and targets [...]"),
    "events": (lambda: energy_score(VECTORS, VECTOR[..., 0]), "samples [S, ..., D] and targets [..., D]"),
    "a sample of NaN": (lambda: crps(np.full((S, N), np.nan, np.float32), TARGETS), "expected finite samples"),
    "scales": (lambda: crps_mixture(MEANS, SCALES[0], TARGETS), "expected scales of the shape (7, 103) of means"),
    "a mixture's scale": (lambda: crps_mixture(MEANS, -SCALES, TARGETS), "expected scales above 0"),
    "weights": (lambda: crps_mixture(MEANS, 1.0, TARGETS, weights=2 * SHARES), "Pass weights / weights.sum()"),
    "number of weights": (lambda: crps_mixture(MEANS, 1.0, TARGETS, weights=SHARES[1:]), "expected weights [7]"),
    "percent": (lambda: pinball(MEAN, TARGETS, 95), "expected a level between 0 and 1, got 95. 95 % is 0.95"),
    "several levels": (lambda: pinball(MEAN, TARGETS, np.array([0.1, 0.9])), "expected one level, got shape (2,)"),
    "crossed ends": (lambda: interval_score(UPPER, LOWER, TARGETS), "expected lower <= upper"),
    "a level of 1": (lambda: interval_score(LOWER, UPPER, TARGETS, level=1.0), "expected a level between 0 and 1"),
    "spread of nothing": (lambda: sharpness(np.zeros(N, np.float32)), "expected scale above 0, got 0"),
    "a mask of numbers": (lambda: mae(MEAN, TARGETS, mask=np.ones(N)), "expected a mask of bool"),
    "a mask's shape": (lambda: crps_normal(MEAN, SCALE, TARGETS, mask=MASK[1:]), "expected mask of the targets' shape"),
}


@pytest.mark.parametrize("name", BAD)
def test_error_says_what_to_do(name):
    call, message = BAD[name]
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        call()
    assert message in str(raised.value)


def test_nothing_left_under_a_trace_is_nan():
    assert np.isnan(jax.jit(lambda mask: mae(MEAN, TARGETS, mask=mask))(np.zeros(N, bool)))


@pytest.mark.slow
def test_scores_take_any_numbers_ties_and_masks():
    """Constant predictions, ties, certain probabilities, one class only, one example: the oracle's."""
    hypothesis = pytest.importorskip("hypothesis")
    numbers = pytest.importorskip("hypothesis.extra.numpy")
    st = hypothesis.strategies

    @st.composite
    def data(draw):
        size = draw(st.sampled_from([1, 6]))
        array = lambda *shape: draw(numbers.arrays(np.float32, shape, elements=st.integers(-3, 3).map(float)))
        raw = draw(numbers.arrays(np.float64, (size, 3), elements=st.sampled_from([0.0, 0.5, 1.0])))
        raw[raw.sum(-1) == 0, 0] = 1.0
        mask = draw(numbers.arrays(bool, size))
        mask[draw(st.integers(0, size - 1))] = True
        labels = draw(numbers.arrays(np.int32, size, elements=st.integers(0, 2)))
        return (raw / raw.sum(-1, keepdims=True)).astype(np.float32), labels, array(3, size), array(size), mask

    @hypothesis.settings(max_examples=30, deadline=None, derandomize=True, database=None)
    @hypothesis.given(data())
    def check(found):
        probs, labels, draws, y, mask = found
        with np.errstate(divide="ignore"):
            logs = np.log(wide(probs)[0][np.arange(len(y)), labels])
        for score, arrays, expected in (
            (log_likelihood, (probs, labels), logs),
            (brier, (probs, labels), ((wide(probs)[0] - np.eye(3)[labels]) ** 2).sum(-1)),
            (crps, (draws, y), energy_of_pairs(draws[..., None], y[..., None], True)),
        ):
            np.testing.assert_allclose(score(*arrays, mask=mask), expected[mask].mean(), rtol=2e-6, atol=2e-6)

    check()
