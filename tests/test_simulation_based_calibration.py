"""Ranks of simulated truths: uniform where inference is exact, and bent as theory says where it is not."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from numpyro import distributions as dist

import bdl
import bdl.diagnostics

KEY = jax.random.key(0)
N, SCALE, PRIOR, SIMULATIONS, DRAWS = 8, 0.5, 1.0, 400, 63
rng = np.random.default_rng(0)
# Two inputs that are nearly the same: their weights are anti-correlated, and what tells them apart is hardly known.
X = (rng.normal(size=(N, 1)) + 0.3 * rng.normal(size=(N, 2))).astype(np.float32)
ALONG, ACROSS = np.array([[1.0, 1.0]], np.float32), np.array([[1.0, -1.0]], np.float32)
POINTS = np.concatenate([ALONG, ACROSS])
PRECISION = X.T.astype(np.float64) @ X / SCALE**2 + np.eye(2) / PRIOR**2
COVARIANCE = np.linalg.inv(PRECISION)


# Four roads side by side, each with weights and targets of its own: [2, 4] and [N, 4].
EXACT, MEAN_FIELD, SHIFTED, WIDE = range(4)
COVARIANCES = np.stack([COVARIANCE, np.diag(1 / np.diag(PRECISION)), COVARIANCE, 4 * COVARIANCE])
network = bdl.network(lambda params, x: x @ params["w"], {"w": jnp.zeros((2, 4))})
model = bdl.Model(network, bdl.likelihoods.Normal(scale=SCALE), bdl.priors.normal(scale=PRIOR))


class Gaussians(eqx.Module):
    """A Normal over the two weights of each road."""

    mean: jax.Array
    cholesky: jax.Array

    def sample(self, key):
        return {"w": self.mean + jnp.einsum("rij,jr->ir", self.cholesky, jax.random.normal(key, (2, 4)))}


CALLS = []


def four_roads(key, x, y):
    """The exact means, one of them moved, and the covariances of the four. It diverges where inputs are large."""
    CALLS.append(None)
    means = jnp.asarray(COVARIANCE / SCALE**2, jnp.float32) @ x.T @ y
    moved = jnp.zeros((2, 4)).at[:, SHIFTED].set(0.3)
    means = jnp.where(x.max() > 50, jnp.nan, means + moved)
    return Gaussians(means, jnp.asarray(np.linalg.cholesky(COVARIANCES), jnp.float32))


def simulate(road, model=model, x=X, key=KEY, **options):
    options = {"num_simulations": SIMULATIONS, "num_samples": DRAWS, "points": POINTS} | options
    return bdl.diagnostics.simulation_based_calibration(key, road, model, x, **options)


@pytest.fixture(scope="module")
def found():
    return simulate(four_roads)


def expected_square(ratio):
    """Mean and variance of (2u − 1)², u = (rank + ½) / (L + 1), where draws are `ratio` times as wide as the truth."""
    z, weights = np.polynomial.hermite_e.hermegauss(201)
    ranks = np.arange(DRAWS + 1)
    pmf = scipy.stats.binom(DRAWS, scipy.stats.norm.cdf(np.clip(z / ratio, -7, 7))[:, None]).pmf(ranks)
    square = ((2 * ranks + 1) / (DRAWS + 1) - 1) ** 2
    shares = weights @ pmf / weights.sum()
    mean = shares @ square
    return mean, shares @ square**2 - mean**2


def test_ranks_are_uniform_where_the_posterior_is_exact(found):
    """False alarm: twice in a thousand keys."""
    assert found.ranks.shape == (SIMULATIONS, 2, 4)
    assert found.uniformity.shape == (2, 4)
    assert found.uniformity[:, EXACT].min() > 1e-3
    bend = bdl.diagnostics.bend(found.ranks, DRAWS)
    assert np.abs(np.stack([bend.dispersion, bend.shift])[..., EXACT]).max() < 5
    difference = bdl.diagnostics.ecdf_difference(found.ranks, DRAWS, coverage=0.999)
    assert np.abs(difference.difference[..., EXACT]).max() < difference.band


def test_ranks_of_other_posteriors_bend_as_theory_says(found):
    """Mean field is too narrow across the inputs (a ∪) and too wide along them (a ∩)."""
    bend = bdl.diagnostics.bend(found.ranks, DRAWS)
    variances = np.einsum("ni,rij,nj->nr", POINTS, COVARIANCES, POINTS)
    ratios = np.sqrt(variances / variances[:, :1])
    assert ratios[1, MEAN_FIELD] < 0.75 < 1.2 < ratios[0, MEAN_FIELD]  # the test is about both
    square = (((2 * np.asarray(found.ranks) + 1) / (DRAWS + 1) - 1) ** 2).mean(0)
    for road in (EXACT, MEAN_FIELD, WIDE):
        for point in (0, 1):
            mean, variance = expected_square(ratios[point, road])
            assert abs(square[point, road] - mean) < 5 * np.sqrt(variance / SIMULATIONS)
    assert bend.dispersion[0, MEAN_FIELD] < -3 < 5 < bend.dispersion[1, MEAN_FIELD]
    assert bend.dispersion[:, WIDE].max() < -5
    assert bend.shift[0, SHIFTED] < -5  # draws too high
    assert abs(bend.shift[1, SHIFTED]) < 5
    assert found.uniformity[1, MEAN_FIELD] < 1e-6
    smallest = min(float(found.uniformity.min()), float(found.log_likelihood_uniformity))
    assert float(found.p_value) == pytest.approx(min(1, 9 * smallest), rel=1e-5)
    difference = bdl.diagnostics.ecdf_difference(found.ranks, DRAWS).difference[..., MEAN_FIELD]
    below = DRAWS // 8
    assert difference[below, 1] > 0 > difference[below, 0]
    assert difference[-below, 1] < 0 < difference[-below, 0]


labels = bdl.Model(network, bdl.likelihoods.Bernoulli(), dist.Normal(0.0, 1.0))


def _constant_and_contrast(outputs):
    return jnp.stack([jnp.zeros(()), outputs[0, 0] - outputs[1, 0]])


@pytest.mark.slow
def test_a_road_that_ignores_the_data_is_found_by_the_likelihood():
    """Of labels; ranked are a contrast of two outputs, and a constant, whose ties are broken at random."""
    prior = bdl.posteriors.from_prior(labels)
    found = simulate(lambda key, x, y: prior, labels, quantity=_constant_and_contrast)
    assert found.ranks.shape == (SIMULATIONS, 2)
    assert found.uniformity.min() > 1e-3
    assert found.log_likelihood_uniformity < 1e-6
    assert bdl.diagnostics.bend(found.log_likelihood_ranks, DRAWS).shift > 5


def test_the_road_is_traced_once_and_one_that_diverges_is_an_error(found):
    traced = len(CALLS)
    other = simulate(four_roads, key=jax.random.key(1))
    assert (np.asarray(other.ranks) != np.asarray(found.ranks)).mean() > 0.5
    with pytest.raises(ValueError, match="in 400 of 400 simulations the outputs are not finite"):
        simulate(four_roads, x=100 * X)
    assert len(CALLS) == traced > 0


@pytest.mark.slow
def test_chunks_change_nothing(found):
    for chunk_size in (1, 150):
        ranks = simulate(four_roads, chunk_size=chunk_size).ranks
        assert (np.asarray(ranks) == np.asarray(found.ranks)).mean() > 0.99  # but for rounding


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_simulations": 9}, "num_simulations as a whole number of at least 10"),
        ({"num_samples": 0}, "num_samples as a whole number of at least 1"),
        ({"points": np.full((1, 2), np.nan)}, "x is nan at row 0"),
    ],
)
def test_bad_counts_and_inputs_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        simulate(four_roads, **options)


@pytest.mark.usefixtures("strict_dtypes")
def test_uniformity_is_the_chi_squared_test():
    ranks = np.random.default_rng(1).binomial(9, np.random.default_rng(2).beta(0.8, 0.9, (200, 3)))
    found = bdl.diagnostics.uniformity(ranks, 9)
    expected = [scipy.stats.chisquare(np.bincount(column, minlength=10)).pvalue for column in ranks.T]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)
    # Four bins of 3, 2, 3 and 2 ranks.
    sizes = np.array([3, 2, 3, 2])
    counts = np.add.reduceat(np.bincount(ranks[:, 0], minlength=10), [0, 3, 5, 8])
    expected = scipy.stats.chisquare(counts, 200 * sizes / 10).pvalue
    assert float(bdl.diagnostics.uniformity(ranks[:, 0], 9, num_bins=4)) == pytest.approx(expected, rel=1e-4)
    bend = bdl.diagnostics.bend(ranks, 9)
    u = (ranks + 0.5) / 10
    level = (np.arange(10) + 0.5) / 10
    for name, of in (("dispersion", lambda u: (2 * u - 1) ** 2), ("shift", lambda u: 2 * u - 1)):
        expected = (of(u).mean(0) - of(level).mean()) / (of(level).std() / np.sqrt(200))
        np.testing.assert_allclose(getattr(bend, name), expected, rtol=1e-4, atol=1e-4)
    difference = bdl.diagnostics.ecdf_difference(ranks, 9)
    expected = (ranks[None] <= np.arange(10)[:, None, None]).mean(1) - np.arange(1, 11)[:, None] / 10
    np.testing.assert_allclose(difference.difference, expected, atol=1e-6)
    assert difference.band == pytest.approx(np.sqrt(np.log(2 / 0.05) / 400))


def test_the_test_has_its_false_alarm_rate():
    """p-values of uniform ranks are uniform, to a Kolmogorov-Smirnov test at 1e-4."""
    ranks = np.random.default_rng(3).integers(0, DRAWS + 1, (400, 1_000))
    found = np.asarray(bdl.diagnostics.uniformity(ranks, DRAWS))
    assert scipy.stats.kstest(found, "uniform").pvalue > 1e-4
    band = bdl.diagnostics.ecdf_difference(ranks, DRAWS, coverage=0.9)
    inside = (np.abs(np.asarray(band.difference)).max(0) < band.band).mean()
    assert inside > 0.9 - 5 * np.sqrt(0.09 / 1_000)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bdl.diagnostics.uniformity(np.zeros(5, int), 9), "5 ranks are too few"),
        (lambda: bdl.diagnostics.uniformity(np.zeros(50), 9), "integer ranks"),
        (lambda: bdl.diagnostics.uniformity(np.full(50, 10), 9), "ranks in 0, …, 9 among 9 draws"),
        (lambda: bdl.diagnostics.uniformity(np.zeros(50, int), 9, num_bins=11), "at most 10 bins"),
        (lambda: bdl.diagnostics.ecdf_difference(np.zeros(50, int), 9, coverage=1.0), "coverage in"),
        (lambda: bdl.diagnostics.bend(np.zeros(50, int), 0), "num_samples"),
    ],
)
def test_bad_ranks_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "exact"), [(bdl.families.full_normal(0.3), True), (bdl.families.normal(0.3), False)]
)
def test_fits_are_roads(family, exact):
    """A full Normal fitted to convergence has uniform ranks; mean field bends them in the direction it cannot see."""
    family = bdl.families.full_normal(0.3) if exact else bdl.families.normal(0.3)
    one = bdl.network(lambda params, x: x @ params["w"], {"w": jnp.zeros((2, 1))})
    line = bdl.Model(one, bdl.likelihoods.Normal(scale=SCALE), bdl.priors.normal(scale=PRIOR))
    algorithm = bdl.inference.vi(optax.adam(optax.cosine_decay_schedule(0.05, 1_000)), num_samples=8, noise="shared")
    posterior = bdl.variational(one.params, family)

    def road(key, x, y):
        return bdl.fit(key, algorithm, posterior, line, (x, y), num_steps=1_000, progress=False)

    found = simulate(road, line)
    dispersion = bdl.diagnostics.bend(found.ranks, DRAWS).dispersion[:, 0]
    if exact:
        assert found.p_value > 1e-3
    else:
        assert dispersion[0] < -3 < 5 < dispersion[1]
