"""Calibration of regressions: the probability integral transform, and observed against expected quantile levels."""

import jax
import numpy as np
import pytest
import scipy.stats

from bdl.metrics._pit import pit, pit_normal, quantile_calibration, randomised_pit, regression_calibration_error

pytestmark = pytest.mark.usefixtures("strict_dtypes")

KEY = jax.random.key(0)


def test_pit_of_a_normal_and_of_samples():
    rng = np.random.default_rng(5)
    mean, y = (rng.normal(size=200).astype(np.float32) for _ in range(2))
    scale, mask = rng.uniform(0.2, 2.0, 200).astype(np.float32), rng.uniform(size=200) < 0.5
    expected = scipy.stats.norm.cdf(*(np.float64(a) for a in (y, mean, scale)))
    np.testing.assert_allclose(pit_normal(mean, scale, y), expected, rtol=5e-6, atol=1e-7)
    bad = np.where(mask, scale, np.nan)
    np.testing.assert_allclose(pit_normal(mean, bad, y, mask=mask), np.where(mask, expected, 0), rtol=5e-6, atol=1e-7)
    draws, y = rng.integers(0, 4, (5, 200)).astype(np.float32), rng.integers(0, 4, 200).astype(np.float32)
    ranks = [(sum(x < t for x in column), sum(x == t for x in column)) for column, t in zip(draws.T, y, strict=True)]
    below, equal = np.transpose(ranks)
    np.testing.assert_allclose(pit(draws, y), (below + 0.5 * equal + 0.5) / 6, rtol=1e-6)
    random = np.asarray(randomised_pit(KEY, draws, y))
    assert (random >= below / 6 - 1e-6).all()
    assert (random <= (below + equal + 1) / 6 + 1e-6).all()
    np.testing.assert_array_equal(
        randomised_pit(KEY, np.where(mask, draws, np.nan), y, mask=mask), np.where(mask, random, 0)
    )


def test_the_randomised_pit_of_counts_is_uniform():
    rng = np.random.default_rng(6)
    rate = rng.gamma(2.0, size=20_000)
    draws, y = rng.poisson(rate, (4, 20_000)).astype(np.float32), rng.poisson(rate).astype(np.float32)
    found = np.asarray(randomised_pit(KEY, draws, y), np.float64)
    assert scipy.stats.kstest(found, "uniform").pvalue > 1e-4
    assert scipy.stats.kstest(np.asarray(pit(draws, y), np.float64), "uniform").pvalue < 1e-4  # the middles are not


def test_quantile_calibration_against_counts_masked_and_in_batches():
    rng = np.random.default_rng(7)
    values, mask = rng.beta(2, 1, 300).astype(np.float32), rng.uniform(size=300) < 0.5
    levels = np.array([0.0, 0.1, values[3], 0.9, 1.0], np.float32)
    expected = [(values[mask] <= level).mean() for level in levels]
    found = quantile_calibration(np.where(mask, values, np.nan), levels, mask=mask)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    parts = [mask & (np.arange(300) % 3 == i) for i in (0, 1, 2)]
    each = [quantile_calibration(values, levels, mask=part) for part in parts]
    np.testing.assert_allclose(np.average(each, axis=0, weights=[p.sum() for p in parts]), expected, rtol=1e-6)
    grid = np.arange(1, 100) / 100
    shares = [(values[mask].astype(np.float64) <= np.float32(p)).mean() for p in grid]
    error = regression_calibration_error(values, mask=mask)
    np.testing.assert_allclose(error, np.mean((grid - shares) ** 2), rtol=1e-5)
    np.testing.assert_allclose(jax.jit(regression_calibration_error)(values, mask=mask), error, rtol=1e-6)


def test_the_regression_error_of_a_calibrated_predictor_is_what_is_said():
    values = np.random.default_rng(8).uniform(size=(2000, 50)).astype(np.float32)
    found = jax.jit(jax.vmap(lambda v: regression_calibration_error(v, num_levels=9)))(values)
    found = np.asarray(found, np.float64)
    assert abs(found.mean() - 11 / (6 * 10 * 50)) < 5 * found.std() / np.sqrt(2000)


BAD = {
    "no PIT": (lambda: quantile_calibration(np.array([0.5, 2.0]), np.array([0.5])), "expected PIT values from 0 to 1"),
    "percent": (lambda: quantile_calibration(np.array([0.5]), np.array([50.0])), "levels [Q] from 0 to 1"),
    "one level": (lambda: quantile_calibration(np.array([0.5]), 0.5), "levels [Q] from 0 to 1"),
    "no levels": (lambda: regression_calibration_error(np.array([0.5]), num_levels=0), "num_levels of at least 1"),
    "samples": (lambda: pit(np.zeros((5, 3)), np.zeros(4)), "expected samples [S, ...] and targets [...]"),
    "scale": (lambda: pit_normal(0.0, -1.0, np.zeros(3)), "expected scale above 0, got -1"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_error_says_what_to_do(name):
    call, message = BAD[name]
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        call()
    assert message in str(raised.value)


def test_the_key_comes_first():
    with pytest.raises(TypeError, match="expected one random key as the first argument"):
        randomised_pit(1, np.zeros((2, 3)), np.zeros(3))
