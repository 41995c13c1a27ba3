"""Conformal methods: what each promises, over a thousand simulated splits, and its numbers by hand."""

import functools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bdl import conformal
from bdl.conformal._checks import check_alpha, rank
from tests.arrays import normals
from tests.slow import slow

SPLITS, N, K, ALPHA = 1_000, 24, 5, 0.1
EXACT = math.ceil((1 - ALPHA) * (N + 1)) / (N + 1)  # 23 / 25
FALSE_ALARM = 1e-4  # of each statement about a simulation, whose seed is fixed

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def assert_covers(hits, exactly=None, at_least=None):
    """Whether hits [SPLITS] agree with a probability, by the binomial distribution."""
    count, total = int(np.sum(hits)), np.size(hits)
    low, high = (exactly, exactly) if exactly is not None else (at_least, 1.0)
    assert count >= stats.binom.ppf(FALSE_ALARM / 2, total, low), (count / total, low)
    assert count <= stats.binom.ppf(1 - FALSE_ALARM / 2, total, high), (count / total, high)


def simulated_classes(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [SPLITS, N + 1, K] of a model that is wrong, and labels; the last example of a split is new."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.normal(size=(SPLITS, N + 1, K))
    truth = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    labels = (truth.cumsum(-1) > rng.uniform(size=(SPLITS, N + 1, 1))).argmax(-1)
    wrong = np.exp(2 * logits + np.linspace(0, 1, K))
    return (wrong / wrong.sum(-1, keepdims=True)).astype(np.float32), labels.astype(np.int32)


PROBS, LABELS = simulated_classes(0)
NEW = PROBS[:, -1], LABELS[:, -1]


def test_ranks_are_exact():
    for alpha in (0.1, 0.05, 0.3, 0.7, 1 / 3, 0.01, 0.9):
        exact = Fraction(alpha).limit_denominator(1000)
        for n in (*range(1, 300), 999_999, 2**20):
            assert rank(check_alpha("", alpha), n) == math.ceil((1 - exact) * (n + 1)), (alpha, n)
    assert int(jax.jit(lambda n: rank(check_alpha("", 0.1), n))(9)) == 9
    assert int(jax.jit(lambda n: rank(check_alpha("", 0.1), n))(999_999_999)) == 900_000_000


def test_split_by_hand_and_in_the_whole_space():
    scores = np.random.default_rng(0).permutation(np.arange(1.0, 20.0)).astype(np.float32)
    assert conformal.split(scores, alpha=0.1) == 18  # of 19: ⌈0.9 · 20⌉
    assert conformal.split(scores, alpha=0.05) == 19
    assert conformal.split(scores, alpha=0.0499) == np.inf  # n < 1/α − 1
    assert conformal.split(scores[:9], alpha=0.1) == scores[:9].max()
    assert conformal.split(scores[:8], alpha=0.1) == np.inf
    mask = scores < 10
    masked = conformal.split(np.where(mask, scores, np.nan), alpha=0.3, mask=mask)
    assert masked == conformal.split(scores[mask], alpha=0.3) == 7
    assert jax.jit(lambda s, m: conformal.split(s, alpha=0.3, mask=m))(scores, mask) == 7


def test_with_an_infinite_threshold_all_is_in_the_set():
    few = np.zeros(8)
    for low, high in (
        conformal.interval(few, few, alpha=0.1)(np.ones(2)),
        conformal.normalised(few, few + 1, few, alpha=0.1)(np.ones(2), np.ones(2)),
        conformal.cqr(few, few, few, alpha=0.1)(np.ones(2), np.ones(2)),
        conformal.jackknife_plus(few, np.ones((8, 2)), alpha=0.1),
    ):
        assert np.all(low == -np.inf)
        assert np.all(high == np.inf)
    probs, labels = PROBS[0, :8], LABELS[0, :8]
    keys = jax.random.split(jax.random.key(0))
    assert np.all(conformal.lac(probs, labels, alpha=0.1)(probs))
    assert np.all(conformal.aps(keys[0], probs, labels, alpha=0.1)(keys[1], probs))


def test_split_covers_exactly_with_one_new_point_and_as_beta_binomial_with_several():
    many = 20
    scores = np.random.default_rng(1).exponential(size=(SPLITS, N + many)).astype(np.float32)
    thresholds = np.asarray(jax.vmap(functools.partial(conformal.split, alpha=ALPHA))(scores[:, :N]))
    hits = scores[:, N:] <= thresholds[:, None]
    assert_covers(hits[:, 0], exactly=EXACT)
    k = math.ceil((1 - ALPHA) * (N + 1))
    law = stats.betabinom(many, k, N + 1 - k)
    count = np.bincount(hits.sum(1), minlength=many + 1)
    cut = [0, 15, 16, 17, 18, 19, 20]  # the first bin is 0 to 14
    observed, expected = (np.add.reduceat(a, cut) for a in (count, SPLITS * law.pmf(np.arange(many + 1))))
    assert expected.min() > 5
    assert stats.chisquare(observed, expected).pvalue > FALSE_ALARM


def test_intervals_cover_exactly():
    rng = np.random.default_rng(2)
    x = rng.uniform(-1, 1, (SPLITS, N + 1))
    y = np.sin(3 * x) + (0.1 + np.abs(x)) * rng.normal(size=x.shape)
    mean, scale, y = x.astype(np.float32), (0.2 + x**2).astype(np.float32), y.astype(np.float32)
    old, new = np.s_[:, :N], np.s_[:, N]

    @jax.jit
    @jax.vmap
    def fit(mean, scale, y):
        return (
            conformal.interval(mean, y, alpha=ALPHA),
            conformal.normalised(mean, scale, y, alpha=ALPHA),
            conformal.cqr(mean - scale, mean + 2 * scale, y, alpha=ALPHA),
        )

    one, in_units, quantiles = fit(mean[old], scale[old], y[old])
    apply = lambda calibrated, *args: jax.vmap(lambda c, a: c(*a))(calibrated, args)
    mu, sigma = mean[new], scale[new]
    ends = apply(one, mu), apply(in_units, mu, sigma), apply(quantiles, mu - sigma, mu + 2 * sigma)
    for low, high in map(np.asarray, ends):
        assert_covers((low <= y[new]) & (y[new] <= high), exactly=EXACT)
    error = np.abs(y - mean)[0, :N]
    k = math.ceil((1 - ALPHA) * (N + 1)) - 1
    np.testing.assert_allclose(one.threshold[0], np.sort(error)[k], rtol=1e-6)
    np.testing.assert_allclose(in_units.threshold[0], np.sort(error / scale[0, :N])[k], rtol=1e-6)
    outside = np.maximum(mean - scale - y, y - mean - 2 * scale)[0, :N]
    np.testing.assert_allclose(quantiles.threshold[0], np.sort(outside)[k], rtol=1e-5)


def test_masked_intervals_and_sets_are_those_of_what_is_kept():
    x, y, keep = np.asarray(normals(0, 40)), np.asarray(normals(1, 40)), np.arange(40) % 3 > 0
    hole = np.where(keep, y, np.nan)
    for fit, args in ((conformal.interval, (x,)), (conformal.normalised, (x, x**2 + 1)), (conformal.cqr, (x - 1, x))):
        whole = fit(*(a[keep] for a in args), y[keep], alpha=0.2)
        masked = fit(*(np.where(keep, a, np.nan) for a in args), hole, alpha=0.2, mask=keep)
        np.testing.assert_allclose(masked.threshold, whole.threshold, rtol=1e-6)
    probs, labels = PROBS.reshape(-1, K)[:40], LABELS.ravel()[:40]
    masked = conformal.lac(probs, np.where(keep, labels, 255), alpha=0.2, mask=keep)
    assert masked.threshold == conformal.lac(probs[keep], labels[keep], alpha=0.2).threshold


def test_class_scores_by_hand():
    probs = np.array([[0.25, 0.5, 0.125, 0.125], [0.7, 0.1, 0.1, 0.1]], np.float32)
    np.testing.assert_allclose(conformal.lac_score(probs), 1 - probs)
    cumulated = np.array([[0.75, 0.5, 0.875, 1.0], [0.7, 0.8, 0.9, 1.0]])
    np.testing.assert_allclose(conformal.aps_score(None, probs), cumulated, rtol=1e-6)
    penalty = 0.5 * np.array([[0, 0, 1, 2], [0, 0, 1, 2]])
    found = conformal.raps_score(None, probs, penalty=0.5, free_classes=2)
    np.testing.assert_allclose(found, cumulated + penalty, rtol=1e-6)
    random = np.asarray(conformal.aps_score(jax.random.key(1), probs))
    u = (random - cumulated + probs) / probs
    np.testing.assert_allclose(u, np.broadcast_to(u[:, :1], u.shape), atol=1e-5)  # one u for each example
    assert np.all((u > 0) & (u < 1))
    assert u[0, 0] != u[1, 0]


@pytest.mark.parametrize("randomised", [True, slow(False)])
def test_sets_of_classes_keep_their_promise(randomised):
    fits = {
        "lac": lambda key, p, y: conformal.lac(p, y, alpha=ALPHA),
        "aps": lambda key, p, y: conformal.aps(key, p, y, alpha=ALPHA, randomised=randomised),
        "raps": lambda key, p, y: conformal.raps(
            key, p, y, alpha=ALPHA, penalty=0.1, free_classes=2, randomised=randomised
        ),
    }

    @jax.jit
    @jax.vmap
    def run(key, probs, labels, new_probs):
        key, new_key = jax.random.split(key)
        found = {name: fit(key, probs, labels) for name, fit in fits.items()}
        return {name: sets(new_probs) if name == "lac" else sets(new_key, new_probs) for name, sets in found.items()}

    sets = run(jax.random.split(jax.random.key(3), SPLITS), PROBS[:, :N], LABELS[:, :N], NEW[0])
    for name, inside in sets.items():
        hits = np.asarray(inside)[np.arange(SPLITS), NEW[1]]
        exact = randomised or name == "lac"
        assert_covers(hits, exactly=EXACT if exact else None, at_least=1 - ALPHA)
    size = {name: np.sum(inside, -1) for name, inside in sets.items()}
    assert size["lac"].mean() < size["aps"].mean()
    assert np.std(size["raps"]) < np.std(size["aps"])  # the penalty makes sets more alike


def test_each_class_is_covered_under_another_share_of_classes():
    """Classes as frequent as 1 : … : 5 at calibration, all alike for the new ones."""
    rng = np.random.default_rng(4)
    n, classes = 150, 3
    labels = rng.choice(classes, size=(SPLITS, n), p=np.arange(1, 4) / 6)
    scores = (rng.exponential(size=(SPLITS, n)) * (1 + labels)).astype(np.float32)
    fit = functools.partial(conformal.by_class, num_classes=classes, alpha=ALPHA)
    thresholds = np.asarray(jax.vmap(fit)(scores, labels.astype(np.int32)))
    new = rng.exponential(size=(SPLITS, classes)) * (1 + np.arange(classes))
    for k in range(classes):
        own, hits = (labels == k).sum(1), new[:, k] <= thresholds[:, k]
        assert_covers(hits, at_least=1 - ALPHA)
        assert hits.mean() < 1 - ALPHA + 1 / own.min() + 0.04
        own_scores = np.sort(np.append(scores[0][labels[0] == k], np.inf))
        assert thresholds[0, k] == own_scores[min(rank(check_alpha("", ALPHA), own[0]), own[0] + 1) - 1]
    assert np.mean(new[:, 2] <= np.asarray(jax.vmap(functools.partial(conformal.split, alpha=ALPHA))(scores))) < 0.87


def test_sets_by_class_use_the_thresholds_of_each():
    probs, labels = PROBS.reshape(-1, K)[:600], LABELS.ravel()[:600]
    sets = conformal.lac(probs, labels, alpha=ALPHA, by_class=True)
    own = 1 - probs[np.arange(600), labels]
    expected = [np.sort(own[labels == k])[rank(check_alpha("", ALPHA), (labels == k).sum()) - 1] for k in range(K)]
    np.testing.assert_allclose(sets.threshold, expected, rtol=1e-6)
    np.testing.assert_array_equal(sets(probs), 1 - probs <= np.asarray(sets.threshold))


def test_weighted_is_split_with_equal_weights_and_the_quantile_by_hand():
    rng = np.random.default_rng(5)
    scores = rng.exponential(size=60).astype(np.float32)
    for n in (9, 29):
        for alpha in (0.1, 0.05, 1 / 3):
            found = conformal.weighted(scores[:n], np.full(n, 0.3), np.array([0.3]), alpha=alpha)
            assert found[0] == conformal.split(scores[:n], alpha=alpha), (n, alpha)
    weights, new = rng.exponential(size=60), np.array([0.0, 0.5, 3.0, 50.0])
    order = np.argsort(scores)
    mass = np.cumsum(weights[order])
    expected = []
    for w in new:
        reached = mass / (weights.sum() + w) >= 0.9
        expected.append(scores[order][reached.argmax()] if reached.any() else np.inf)
    found = conformal.weighted(scores, weights, new, alpha=0.1)
    np.testing.assert_array_equal(found, np.array(expected, np.float32))
    keep = np.arange(60) < 40
    hole = np.where(keep, scores, np.nan), np.where(keep, weights, np.nan)
    masked = conformal.weighted(*hole, new, alpha=0.1, mask=keep)
    np.testing.assert_array_equal(masked, conformal.weighted(scores[:40], weights[:40], new, alpha=0.1))


def test_weighted_covers_under_covariate_shift_where_split_does_not():
    rng = np.random.default_rng(6)
    n, shift = 100, 0.8
    x, new_x = rng.normal(size=(SPLITS, n)), rng.normal(size=SPLITS) + shift
    noise = lambda x: np.exp(0.5 * x) * rng.exponential(size=x.shape)
    ratio = lambda x: np.exp(shift * x - shift**2 / 2)  # of Normal(shift, 1) to Normal(0, 1)
    scores, new_scores = noise(x).astype(np.float32), noise(new_x)
    fit = jax.vmap(functools.partial(conformal.weighted, alpha=ALPHA))
    thresholds = np.asarray(fit(scores, ratio(x).astype(np.float32), ratio(new_x).astype(np.float32)))
    assert_covers(new_scores <= thresholds, at_least=1 - ALPHA)
    plain = np.asarray(jax.vmap(functools.partial(conformal.split, alpha=ALPHA))(scores))
    assert np.mean(new_scores <= plain) < 1 - ALPHA - 0.04


def by_hand(centres, residuals, alpha):
    """The ends of jackknife+ from its definition, centres [n] of one new example."""
    n = len(residuals)
    low, high = np.sort(centres - residuals), np.sort(centres + residuals)
    return low[math.floor(round(alpha * (n + 1), 9)) - 1], high[math.ceil(round((1 - alpha) * (n + 1), 9)) - 1]


def test_jackknife_plus_and_cv_plus_by_hand():
    residuals, models = np.abs(np.asarray(normals(2, 30))), np.asarray(normals(3, 30, 4))
    for alpha in (0.1, 0.25, 0.4):
        found = conformal.jackknife_plus(residuals, models, alpha=alpha)
        expected = np.transpose([by_hand(models[:, j], residuals, alpha) for j in range(4)])
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        folds = np.arange(30) % 5
        found = conformal.cv_plus(residuals, folds, models[:5], alpha=alpha)
        expected = np.transpose([by_hand(models[folds, j], residuals, alpha) for j in range(4)])
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_jackknife_plus_and_cv_plus_keep_their_promises():
    """Least squares of one slope, without an intercept: leaving out takes a closed form."""
    rng = np.random.default_rng(7)
    n, num_folds, alpha = 20, 5, 0.2
    x = rng.normal(size=(SPLITS, n + 1))
    y = x + (0.2 + x**2) * rng.normal(size=x.shape)
    old_x, old_y, new_x, new_y = x[:, :n], y[:, :n], x[:, n], y[:, n]
    products, squares = old_x * old_y, old_x**2
    folds = np.arange(n) % num_folds
    indicator = np.eye(num_folds)[folds]

    loo = (products.sum(1, keepdims=True) - products) / (squares.sum(1, keepdims=True) - squares)
    lofo = (products.sum(1, keepdims=True) - products @ indicator) / (
        squares.sum(1, keepdims=True) - squares @ indicator
    )
    single = lambda slopes: np.abs(old_y - slopes * old_x).astype(np.float32)
    at_new = lambda slopes: (slopes * new_x[:, None])[..., None].astype(np.float32)
    jackknife = jax.vmap(functools.partial(conformal.jackknife_plus, alpha=alpha))(single(loo), at_new(loo))
    cross = jax.vmap(lambda r, p: conformal.cv_plus(r, folds, p, alpha=alpha))(single(lofo[:, folds]), at_new(lofo))
    excess = min(2 * (1 - 1 / num_folds) / (n / num_folds + 1), (1 - num_folds / n) / (num_folds + 1))
    for (low, high), promised in ((jackknife, 1 - 2 * alpha), (cross, 1 - 2 * alpha - excess)):
        hits = (np.asarray(low)[:, 0] <= new_y) & (new_y <= np.asarray(high)[:, 0])
        assert_covers(hits, at_least=promised)
        assert hits.mean() < 0.9  # not by intervals that are needlessly wide: about 1 − α


@pytest.mark.parametrize("series", ["calm", "growing", "jumps", "never inside"])
def test_adaptive_keeps_its_bound_whatever_the_series(series):
    steps, rate = 600, 0.03
    rng = np.random.default_rng(8)
    scores = {
        "calm": rng.exponential(size=steps),
        "growing": np.exp(np.linspace(0, 5, steps)) * rng.exponential(size=steps),
        "jumps": np.where(np.arange(steps) // 100 % 2, 50.0, 1.0) * rng.exponential(size=steps),
        "never inside": 2.0 + np.arange(steps),  # above all that was seen: only ∞ covers it
    }[series].astype(np.float32)
    algorithm = conformal.adaptive(alpha=ALPHA, rate=rate)
    state, info = jax.lax.scan(algorithm.step, algorithm.init(np.linspace(0, 1, 30)), jnp.asarray(scores))
    missed = np.asarray(info.missed)
    for length in (50, 200, steps):
        assert abs(missed[:length].mean() - ALPHA) <= (max(ALPHA, 1 - ALPHA) + rate) / (rate * length)
    np.testing.assert_array_equal(missed, scores > np.asarray(info.threshold))
    np.testing.assert_allclose(np.diff(info.alpha), rate * (ALPHA - missed[:-1]), atol=1e-6)
    np.testing.assert_array_equal(state.scores, scores[-30:])


def test_adaptive_thresholds_are_those_of_split_and_of_the_ends():
    past = np.random.default_rng(9).exponential(size=19).astype(np.float32)
    at = lambda alpha: conformal.AdaptiveState(jnp.float32(alpha), jnp.asarray(past)).threshold
    assert at(0.25) == conformal.split(past, alpha=0.25)
    assert at(0.0) == at(-0.1) == np.inf
    assert at(1.0) == at(1.1) == -np.inf


def test_risk_control_keeps_the_expected_loss():
    rng = np.random.default_rng(10)
    n, pixels, alpha = 40, 25, 0.2
    labels = rng.uniform(size=(SPLITS, n + 1, pixels)) < rng.uniform(0.1, 0.9, (SPLITS, n + 1, 1))
    scores = 1 / (1 + np.exp(-(2 * labels - 1 + 1.5 * rng.normal(size=labels.shape))))
    scores, labels = scores.astype(np.float32), labels.astype(np.int32)
    thresholds = np.linspace(1, 0, 101, dtype=np.float32)

    @jax.jit
    @jax.vmap
    def run(scores, labels):
        losses = conformal.false_negative_rate(scores, labels, thresholds)
        found = conformal.risk_control(losses[:-1], thresholds, alpha=alpha)
        return losses, found, jnp.max(jnp.where(thresholds == found, losses[-1], 0.0))

    losses, found, new = map(np.asarray, run(scores, labels))
    error = new.std() / math.sqrt(SPLITS)
    assert new.mean() <= alpha + 4 * error
    assert new.mean() >= alpha - 2 / (n + 1) - 0.01 - 4 * error  # 0.01: the steps of the thresholds
    positive = labels[0, 0] == 1
    missed = [(scores[0, 0][positive] < t).mean() for t in thresholds]
    np.testing.assert_allclose(losses[0, 0], missed, atol=1e-6)
    safe = (losses[0, :n].astype(np.float64).sum(0) + 1) / (n + 1) <= alpha
    assert found[0] == thresholds[safe.argmax()]


def test_false_negative_rate_under_a_mask_and_without_positives():
    scores, labels = np.array([[0.9, 0.6, 0.2], [0.5, 0.5, 0.5]]), np.array([[1, 1, 1], [0, 0, 0]])
    mask = np.array([[True, True, False], [True, True, True]])
    hole = np.where(mask, scores, np.nan), np.where(mask, labels, 255)
    found = conformal.false_negative_rate(*hole, np.array([0.8, 0.1]), mask=mask)
    np.testing.assert_allclose(found, [[0.5, 0.0], [0.0, 0.0]])


c = conformal
BAD = {
    "alpha": (lambda: c.split(np.ones(3), alpha=1.0), "alpha between 0 and 1"),
    "alpha in percent": (lambda: c.interval(np.ones(3), np.ones(3), alpha=10), "alpha between 0 and 1"),
    "NaN": (lambda: c.split(np.array([1.0, np.nan]), alpha=0.1), "got NaN"),
    "nothing": (lambda: c.split(np.zeros(0), alpha=0.1), "no example"),
    "nothing kept": (lambda: c.split(np.ones(3), alpha=0.1, mask=np.zeros(3, bool)), "no example"),
    "shapes": (lambda: c.interval(np.ones((3, 1)), np.ones(3), alpha=0.1), "mean of the shape"),
    "scale": (lambda: c.normalised(np.ones(3), -np.ones(3), np.ones(3), alpha=0.1), "scale above 0"),
    "new scale": (lambda: c.NormalisedInterval(jnp.ones(()))(np.ones(2), np.zeros(2)), "scale above 0"),
    "logits": (lambda: c.lac(np.log(PROBS[0]), LABELS[0], alpha=0.1), "If these are logits"),
    "labels": (lambda: c.lac(PROBS[0], LABELS[0] + 9, alpha=0.1), "expected labels in"),
    "new logits": (lambda: c.lac(PROBS[0], LABELS[0], alpha=0.1)(np.log(PROBS[0])), "If these are logits"),
    "no classes": (lambda: c.lac_score(np.ones(1)), "K >= 2"),
    "penalty": (lambda: c.raps(None, PROBS[0], LABELS[0], alpha=0.1, penalty=-1.0), "penalty and free_classes"),
    "group shapes": (lambda: c.by_class(np.ones(3), np.ones(2, int), num_classes=2, alpha=0.1), "one shape"),
    "group": (lambda: c.by_class(np.ones(2), np.array([0, 2]), num_classes=2, alpha=0.1), "labels in"),
    "weights": (lambda: c.weighted(np.ones(2), np.array([1, -1]), np.ones(1), alpha=0.1), "not negative"),
    "new weights": (lambda: c.weighted(np.ones(2), np.ones(2), np.array([np.nan]), alpha=0.1), "new_weights"),
    "no weight": (lambda: c.weighted(np.ones(2), np.zeros(2), np.ones(1), alpha=0.1), "all weights are 0"),
    "weight shapes": (lambda: c.weighted(np.ones(2), np.ones(3), np.ones(1), alpha=0.1), "a weight for each"),
    "models": (lambda: c.jackknife_plus(np.ones(3), np.ones((2, 1)), alpha=0.1), "a model for each"),
    "one model": (lambda: c.jackknife_plus(np.ones(3), np.ones(3), alpha=0.1), "models, m"),
    "residuals": (lambda: c.jackknife_plus(-np.ones(3), np.ones((3, 1)), alpha=0.1), "residuals of 0 or more"),
    "folds": (lambda: c.cv_plus(np.ones(3), np.array([0, 1, 2]), np.ones((2, 1)), alpha=0.1), "labels in"),
    "fold shapes": (lambda: c.cv_plus(np.ones(3), np.array([0, 1]), np.ones((2, 1)), alpha=0.1), "a fold for"),
    "rate": (lambda: c.adaptive(alpha=0.1, rate=0.0), "rate above 0"),
    "score": (lambda: c.adaptive(alpha=0.1).step(None, np.nan), "one score"),
    "losses": (lambda: c.risk_control(2 * np.ones((9, 2)), np.ones(2), alpha=0.5), "losses in"),
    "losses grow": (lambda: c.risk_control(np.tile([0.0, 1.0], (9, 1)), np.ones(2), alpha=0.5), "do not grow along"),
    "too few": (lambda: c.risk_control(np.zeros((8, 2)), np.ones(2), alpha=0.1), "smallest alpha is 0.1111"),
    "not safe": (lambda: c.risk_control(np.ones((99, 2)), np.ones(2), alpha=0.1), "no threshold has"),
    "threshold shapes": (lambda: c.risk_control(np.zeros((8, 2)), np.ones(3), alpha=0.1), "thresholds .T."),
    "pixel labels": (lambda: c.false_negative_rate(np.ones((2, 3)), np.full((2, 3), 2), np.ones(1)), "of 0 and 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told(case):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call()


def test_a_missing_key_is_told():
    with pytest.raises(TypeError, match="one random key"):
        conformal.aps(None, PROBS[0], LABELS[0], alpha=0.1)
