"""Resampling that keeps time as it is, class weights, and probabilities for other class frequencies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.utils.class_weight import compute_class_weight

import bdl
from bdl import data

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
# Flares: quiet, B, C, M, X, in four blocks of time of which each has its own climate.
BLOCKS = np.repeat(np.arange(4), 1_000)
LABELS = np.concatenate(
    [RNG.choice(5, 1_000, p=p / p.sum()) for p in RNG.uniform(0.5, 1.5, (4, 5)) * [80, 10, 8, 3, 1]]
)
COUNTS = np.bincount(LABELS)


def table(rows):
    """Rows of each class in each block."""
    return np.array([np.bincount(LABELS[rows[BLOCKS[rows] == b]], minlength=5) for b in range(4)])


@pytest.mark.parametrize("ratio", [1, 3])
def test_undersampling_keeps_the_climatology_of_either_side(ratio):
    rows = data.undersample(KEY, LABELS, events=[3, 4], ratio=ratio)
    found, events = np.bincount(LABELS[rows]), COUNTS[3:].sum()
    np.testing.assert_array_equal(found[3:], COUNTS[3:])
    np.testing.assert_allclose(found[:3], ratio * events * COUNTS[:3] / COUNTS[:3].sum(), atol=0.5)
    assert len(np.unique(rows)) == len(rows)
    assert np.all(np.diff(rows) > 0)


def test_uniform_undersampling_evens_out_the_classes_of_either_side():
    rows = data.undersample(KEY, LABELS, events=[3, 4], form="uniform")
    x = COUNTS[4]  # the rarest: as many M as X, and together as many as the other three
    np.testing.assert_allclose(np.bincount(LABELS[rows]), [2 * x / 3] * 3 + [x, x], atol=0.5)
    every = data.undersample(KEY, LABELS)
    np.testing.assert_array_equal(np.bincount(LABELS[every]), [x] * 5)


def test_blocks_give_alike():
    rows = data.undersample(KEY, LABELS, events=[3, 4], within=BLOCKS)
    before, after = table(np.arange(len(LABELS))), table(rows)
    wanted = np.bincount(LABELS[rows])
    assert np.all(np.abs(after - before * wanted / COUNTS) < 1)
    plain = data.undersample(KEY, LABELS, events=[3, 4])
    assert np.abs(table(plain) - before * wanted / COUNTS).max() > 2  # which a plain draw does not

    rows = data.oversample(KEY, LABELS, events=[3, 4], within=BLOCKS)
    wanted = np.bincount(LABELS[rows])
    assert np.all(np.abs(table(rows) - before * wanted / COUNTS) < 1)


def test_oversampling_repeats_all_rows_of_a_class_alike():
    rows = data.oversample(KEY, LABELS, events=[3, 4])
    found, others = np.bincount(LABELS[rows]), COUNTS[:3].sum()
    np.testing.assert_array_equal(found[:3], COUNTS[:3])
    np.testing.assert_allclose(found[3:], others * COUNTS[3:] / COUNTS[3:].sum(), atol=0.5)
    often = np.bincount(rows, minlength=len(LABELS))
    for k in range(5):
        assert np.ptp(often[k == LABELS]) <= 1
    assert often.min() == 1
    evened = data.oversample(KEY, LABELS)
    np.testing.assert_array_equal(np.bincount(LABELS[evened]), [COUNTS.max()] * 5)


def test_nothing_is_drawn_from_the_other_side_of_a_split():
    train = np.flatnonzero(BLOCKS != 2)[::-1]
    for resample in (data.undersample, data.oversample):
        rows = resample(KEY, LABELS, events=[3, 4], rows=train, within=BLOCKS)
        assert np.isin(rows, train).all()
        assert not np.isin(rows, np.flatnonzero(BLOCKS == 2)).any()


def test_every_row_is_as_likely_as_another_of_its_class():
    labels = np.array([0] * 10 + [1] * 3)
    keys = [jax.random.wrap_key_data(np.array([0, i], np.uint32)) for i in range(400)]
    often = np.bincount(np.concatenate([data.undersample(key, labels) for key in keys]), minlength=13) / 400
    np.testing.assert_allclose(often, [0.3] * 10 + [1] * 3, atol=5 * np.sqrt(0.3 * 0.7 / 400))
    again = [data.undersample(KEY, labels) for _ in range(2)]
    np.testing.assert_array_equal(*again)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"events": [9]}, "some of the classes 0, 1, 2, 3, 4 that the rows have, not all, got .9."),
        ({"events": range(5)}, "not all"),
        ({"events": []}, "not all"),
        ({"ratio": 2}, "expected `events`, the classes of which there is one for 2 of the others"),
        ({"events": [4], "ratio": 0}, "a positive ratio, got 0"),
        ({"events": [4], "ratio": np.nan}, "a positive ratio, got nan"),
        ({"events": [4], "form": "inverse"}, "form as one of 'climatology', 'uniform', got 'inverse'"),
        ({"rows": [0, 0]}, "each once"),
        ({"rows": [4_000]}, "rows in 0, …, 3999"),
        ({"rows": np.ones(4_000, bool)}, "each once"),
        ({"within": [1]}, "a block for each of 4000 rows, got 1"),
        ({"rows": np.flatnonzero(LABELS == 0)}, "expected `events`"),
    ],
)
def test_what_is_wrong_with_a_resampling_is_said(options, message):
    for resample in (data.undersample, data.oversample):
        with pytest.raises(ValueError, match=f"^{resample.__name__}: .*{message}"):
            resample(KEY, LABELS, **options)


def test_class_weights_are_those_of_scikit_learn():
    expected = compute_class_weight("balanced", classes=np.arange(5), y=LABELS)
    np.testing.assert_allclose(data.class_weights(LABELS), expected, rtol=1e-6)
    weights = data.class_weights(LABELS, power=0.5)
    np.testing.assert_allclose((weights * COUNTS).sum() / COUNTS.sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(weights / weights[0], np.sqrt(COUNTS[0] / COUNTS), rtol=1e-6)
    np.testing.assert_array_equal(data.class_weights(LABELS, power=0.0), np.ones(5))
    voids = np.concatenate([LABELS, [255, 255]])
    np.testing.assert_array_equal(data.class_weights(voids, mask=voids != 255), data.class_weights(LABELS))
    likelihood = bdl.likelihoods.class_weighted(bdl.likelihoods.Categorical(), weights)
    np.testing.assert_allclose(likelihood.weights, weights / weights.mean(), rtol=1e-6)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([0, 2], {}, "no label is 1, so that its weight would be infinite"),
        ([0, 0], {}, "no label is 1"),
        ([0, 1], {"num_classes": 3}, "no label is 2"),
        ([0, 5], {"num_classes": 3}, "labels in 0, …, 2, got 5"),
        ([0, -1], {}, "labels in 0, …, 0, got -1"),
        ([0, 1], {"power": 2}, "a power from 0 to 1, got 2"),
        ([0, 1], {"mask": [True]}, "a mask of bool"),
        ([0, 1], {"mask": [False, False]}, "keeps 0"),
        ([0.0, 1.0], {}, "expected integer labels"),
    ],
)
def test_what_is_wrong_with_labels_is_said(labels, options, message):
    with pytest.raises(ValueError, match=f"class_weights: .*{message}"):
        data.class_weights(labels, **options)


def softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


OLD, NEW = np.array([0.5, 0.3, 0.2]), np.array([0.02, 0.18, 0.8])


def test_shifted_probabilities_are_those_of_the_formula(strict_dtypes):
    probs = softmax(RNG.normal(scale=2, size=(4, 5, 3)))
    joint = probs * NEW / OLD
    expected = joint / joint.sum(-1, keepdims=True)
    np.testing.assert_allclose(data.shift_prior(probs, OLD, NEW), expected, rtol=2e-6)
    each = softmax(RNG.normal(size=(4, 5, 3)))
    joint = probs * each / OLD
    np.testing.assert_allclose(data.shift_prior(probs, OLD, each), joint / joint.sum(-1, keepdims=True), rtol=2e-6)
    back = data.shift_prior(data.shift_prior(probs, OLD, NEW), NEW, OLD)
    np.testing.assert_allclose(back, probs, rtol=2e-6)
    np.testing.assert_allclose(jax.jit(data.shift_prior)(*map(jnp.asarray, (probs, OLD, NEW))), expected, rtol=2e-6)
    half = jnp.asarray(probs, jnp.bfloat16)
    assert data.shift_prior(half, OLD, NEW).dtype == jnp.float32
    # Elkan (2001), theorem 2, for two classes: p′ = b′ (p − p b) / (b − p b + b′ p − b b′)
    p, b, new = np.linspace(0, 1, 11), 0.5, 0.04
    elkan = new * (p - p * b) / (b - p * b + new * p - b * new)
    two = data.shift_prior(np.stack([1 - p, p], -1), [1 - b, b], [1 - new, new])
    np.testing.assert_allclose(two[:, 1], elkan, rtol=2e-6)


def mixture(prior, size, seed):
    """Exact posterior probabilities under OLD of one-dimensional Normals at −1, 0 and 2, drawn with `prior`."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, size, p=prior)
    x = rng.normal(size=size) + np.array([-1.0, 0.0, 2.0])[labels]
    return softmax(-0.5 * (x[:, None] - [-1.0, 0.0, 2.0]) ** 2 + np.log(OLD)), labels


def log_likelihood(probs, prior):
    return np.log((probs * prior / OLD).sum(-1)).mean()


def test_the_estimated_prior_is_the_maximum_of_the_likelihood(strict_dtypes):
    probs, _ = mixture(NEW, 3_000, 0)
    found = np.asarray(data.estimate_prior(probs, OLD), float)
    target = lambda z: -log_likelihood(probs, softmax(z))
    best = softmax(minimize(target, np.log(OLD), method="BFGS", options={"gtol": 1e-9}).x)
    np.testing.assert_allclose(found, best, atol=2e-4)
    np.testing.assert_allclose(found.sum(), 1, atol=1e-6)
    # The standard error of an observed frequency of 0.18 is 0.007, and classes overlap.
    np.testing.assert_allclose(found, NEW, atol=5 * 0.015)
    assert log_likelihood(probs, found) > log_likelihood(probs, NEW)
    unchanged = data.estimate_prior(mixture(OLD, 3_000, 1)[0], OLD)
    np.testing.assert_allclose(unchanged, OLD, atol=5 * 0.015)


def test_the_estimate_ignores_what_is_masked_and_works_under_jit():
    probs, _ = mixture(NEW, 500, 2)
    probs = probs.astype(np.float32)
    alone = data.estimate_prior(probs, OLD)
    with_void = np.concatenate([probs, np.full((500, 3), np.nan, np.float32)])
    mask = np.arange(1_000) < 500
    np.testing.assert_allclose(data.estimate_prior(with_void, OLD, mask=mask), alone, atol=2e-6)
    traced = jax.jit(lambda p, m: data.estimate_prior(p, OLD, mask=m))(with_void, mask)
    np.testing.assert_allclose(traced, alone, atol=2e-6)
    images = data.estimate_prior(probs.reshape(20, 25, 3), OLD)
    np.testing.assert_allclose(images, alone, atol=2e-6)
    with pytest.warns(RuntimeWarning, match="still change by .* after 2 steps"):
        data.estimate_prior(probs, OLD, num_steps=2)


def test_a_million_rows_are_summed_without_loss():
    """A plain running sum of float32 is off by 1e-5 and more; the answer is known, as rows are certain."""
    labels = np.random.default_rng(3).choice(2, 1_000_003, p=[0.999, 0.001])
    found = data.estimate_prior(np.eye(2, dtype=np.float32)[labels], [0.5, 0.5])
    np.testing.assert_allclose(found, np.bincount(labels) / len(labels), rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.shift_prior([[2.0, -1.0]], [0.5, 0.5], [0.5, 0.5]), "expected probs of at least 0"),
        (lambda: data.shift_prior([[0.5, np.nan]], [0.5, 0.5], [0.5, 0.5]), "expected probs"),
        (lambda: data.shift_prior([0.2, 0.8], [0.0, 1.0], [0.5, 0.5]), "positive old frequencies"),
        (lambda: data.shift_prior([0.2, 0.8], [0.3, 0.3], [0.5, 0.5]), "expected old of at least 0 that sum to 1"),
        (lambda: data.shift_prior([0.2, 0.8], [0.3, 0.7], [0.5, 0.6]), "expected new of at least 0 that sum to 1"),
        (lambda: data.shift_prior([0.2, 0.8], [0.3, 0.7], [0.5, 0.3, 0.2]), "expected new .2. or as probs"),
        (lambda: data.shift_prior([0.2, 0.8], [1.0], [1.0]), "K >= 2 classes, and old .K."),
        (lambda: data.shift_prior([0.0, 1.0], [0.5, 0.5], [1.0, 0.0]), "only has classes whose new frequency is 0"),
        (lambda: data.estimate_prior(np.zeros((0, 2)), [0.5, 0.5]), "at least one row"),
        (lambda: data.estimate_prior([[0.5, 0.5]], [0.5, 0.5], mask=[False]), "no row that the mask keeps"),
        (lambda: data.estimate_prior([[0.5, 0.5]], [0.5, 0.5], mask=[1]), "a mask of bool"),
    ],
)
def test_what_is_wrong_with_probabilities_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_what_is_impossible_is_nan_under_jit():
    found = jax.jit(data.shift_prior)(jnp.array([[0.0, 1.0], [0.5, 0.5]]), jnp.array([0.5, 0.5]), jnp.array([1.0, 0.0]))
    assert np.isnan(found[0]).all()
    np.testing.assert_array_equal(found[1], [1.0, 0.0])


def test_second_calls_trace_nothing():
    from bdl.data import _prior_shift

    probs = mixture(NEW, 50, 4)[0].astype(np.float32)
    calls = (lambda p: data.shift_prior(p, OLD, NEW), lambda p: data.estimate_prior(p, OLD))
    for call in calls:
        call(probs)
    sizes = [f._cache_size() for f in (_prior_shift._shift, _prior_shift._em)]
    for call in calls:
        call(probs[::-1])
    assert sizes == [f._cache_size() for f in (_prior_shift._shift, _prior_shift._em)]
