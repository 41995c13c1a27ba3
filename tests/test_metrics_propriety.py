"""Propriety by simulation: the truth scores best, by as much as theory says."""

import jax
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from bdl.metrics._brier import brier
from bdl.metrics._crps import crps, crps_normal
from bdl.metrics._energy_score import energy_score
from bdl.metrics._log_likelihood import log_likelihood
from bdl.metrics._quantile_scores import interval_score, pinball

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def exceeds(other, truth, divergence=None):
    """The mean of other − truth is above 0 by five standard errors, and within five of what theory says."""
    gap = np.asarray(other, np.float64) - np.asarray(truth, np.float64)
    error = gap.std(ddof=1) / np.sqrt(len(gap))
    assert gap.mean() > 5 * error
    if divergence is not None:
        assert abs(gap.mean() - divergence) < 5 * error


def test_log_and_brier_scores_are_strictly_proper():
    truth = np.array([0.5, 0.3, 0.2])
    labels = np.random.default_rng(1).choice(3, 20_000, p=truth)
    each = lambda score, q: score(np.broadcast_to(np.float32(q), (20_000, 3)), labels, average=False)
    for q in ([0.4, 0.35, 0.25], [0.5, 0.2, 0.3], [0.7, 0.2, 0.1], [1 / 3, 1 / 3, 1 / 3]):
        loss = -np.asarray(each(log_likelihood, q)), -np.asarray(each(log_likelihood, truth))
        exceeds(*loss, np.sum(truth * np.log(truth / q)))
        exceeds(each(brier, q), each(brier, truth), np.sum((truth - q) ** 2))


NORMALS = ((0.3, 1.0), (0.0, 1.4), (0.0, 0.7), (-0.2, 1.2))


def between(mean, scale):
    """∫ (F − G)² dx of that Normal and the standard one."""
    cdf = scipy.stats.norm.cdf
    return scipy.integrate.quad(lambda x: (cdf(x, mean, scale) - cdf(x)) ** 2, -12, 12)[0]


def test_the_crps_is_strictly_proper_in_closed_form_and_of_samples():
    rng = np.random.default_rng(2)
    y = rng.normal(size=40_000).astype(np.float32)
    noise = rng.normal(size=(2, 10, 40_000)).astype(np.float32)
    truth = crps_normal(0.0, 1.0, y, average=False), crps(noise[0], y, average=False)
    for mean, scale in NORMALS:
        exceeds(crps_normal(mean, scale, y, average=False), truth[0], between(mean, scale))
        other = np.float32(mean) + np.float32(scale) * noise[1]
        exceeds(crps(other, y, average=False), truth[1], between(mean, scale))


def test_the_fair_score_of_few_samples_is_that_of_their_distribution():
    """Without bias for two samples, where the other form is too large by E|x − x'| / (2 S) = 1 / (2 √π)."""
    rng = np.random.default_rng(3)
    y, draws = (rng.normal(size=(*s, 40_000)).astype(np.float32) for s in ((), (2,)))
    found = [np.asarray(crps(draws, y, fair=fair, average=False), np.float64) for fair in (True, False)]
    # E CRPS of a standard Normal under itself is ½ E|x − x'| = 1/√π.
    for score, expected in zip(found, (1 / np.sqrt(np.pi), 1.5 / np.sqrt(np.pi)), strict=True):
        assert abs(score.mean() - expected) < 5 * score.std() / np.sqrt(score.size)


def test_the_energy_score_is_strictly_proper_also_for_dependence():
    rng = np.random.default_rng(4)
    num, lower = 20_000, np.linalg.cholesky([[1.0, 0.8], [0.8, 1.0]])
    y = (rng.normal(size=(num, 2)) @ lower.T).astype(np.float32)
    noise = rng.normal(size=(2, 8, num, 2))
    score = lambda draws: energy_score(draws.astype(np.float32), y, average=False)
    truth = score(noise[0] @ lower.T)
    exceeds(score(noise[1]), truth)  # the right margins, independent
    exceeds(score(noise[1] @ lower.T + [0.3, 0.0]), truth)
    exceeds(score(1.4 * noise[1] @ lower.T), truth)


def test_pinball_and_interval_scores_are_least_at_the_quantiles():
    """Consistency: among candidates the lowest mean score is at the quantile, here of Exponential(1), −log(1 − p)."""
    y = np.random.default_rng(5).exponential(size=20_000).astype(np.float32)
    candidates = np.arange(0.0, 5.0, 0.02, dtype=np.float32)
    found = jax.jit(jax.vmap(lambda q, level: pinball(q, y, level), (0, None)))
    for level in (0.1, 0.5, 0.9):
        best = candidates[np.argmin(found(candidates, level))]
        error = np.sqrt(level / (1 - level) / len(y))  # of the empirical quantile: √(p (1 − p) / N) / density
        assert abs(best + np.log1p(-level)) < 0.02 + 5 * error
    lower = jax.jit(jax.vmap(lambda q: interval_score(q, 6.0, y, level=0.8)))(candidates)
    upper = jax.jit(jax.vmap(lambda q: interval_score(0.0, q, y, level=0.8)))(candidates)
    assert abs(candidates[np.argmin(lower)] + np.log(0.9)) < 0.02 + 5 * np.sqrt(1 / 9 / len(y))
    assert abs(candidates[np.argmin(upper)] + np.log(0.1)) < 0.02 + 5 * np.sqrt(9 / len(y))


def test_the_crps_is_twice_the_mean_pinball_loss_over_levels():
    levels = (np.arange(4000) + 0.5) / 4000
    loss = jax.jit(jax.vmap(lambda q, level: pinball(q, 0.7, level)))
    found = loss(scipy.stats.norm.ppf(levels).astype(np.float32), levels.astype(np.float32))
    np.testing.assert_allclose(2 * np.mean(found), crps_normal(0.0, 1.0, np.array(0.7, np.float32)), rtol=1e-3)
