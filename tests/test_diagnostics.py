"""Diagnostics against ArviZ, scipy, and what is known in closed form of a linear model."""

import sys
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats

import bdl
import bdl.diagnostics

KEY = jax.random.key(0)
N, D, SCALE, PRIOR = 24, 3, 0.5, 0.8
S = 2_500  # 3 √S is whole: ArviZ rounds the length of the tail up before 1.0, and down since
rng = np.random.default_rng(0)
X = rng.normal(size=(N, D)) @ (np.eye(D) + np.diag([0.9, -0.7], 1))
Y = X @ np.array([1.0, -0.5, 0.3]) + SCALE * rng.normal(size=N)
X32, Y32 = jnp.asarray(X, jnp.float32), jnp.asarray(Y[:, None], jnp.float32)
# The posterior in float64: precision, mean and covariance; and the log evidence.
PRECISION = X.T @ X / SCALE**2 + np.eye(D) / PRIOR**2
COVARIANCE = np.linalg.inv(PRECISION)
MEAN = COVARIANCE @ X.T @ Y / SCALE**2
EVIDENCE = scipy.stats.multivariate_normal(np.zeros(N), SCALE**2 * np.eye(N) + PRIOR**2 * X @ X.T).logpdf(Y)

network = bdl.network(lambda params, x: x @ params["w"], {"w": jnp.zeros((D, 1))})
model = bdl.Model(network, bdl.likelihoods.Normal(scale=SCALE), bdl.priors.normal(scale=PRIOR))
data = (X32, Y32)


class Gaussian(eqx.Module):
    """A Normal over the weights with any covariance."""

    mean: jax.Array
    cholesky: jax.Array

    def sample(self, key):
        return {"w": (self.mean + self.cholesky @ jax.random.normal(key, self.mean.shape))[:, None]}

    def log_prob(self, params):
        z = jax.scipy.linalg.solve_triangular(self.cholesky, params["w"][:, 0] - self.mean, lower=True)
        return (-0.5 * z**2 - 0.5 * jnp.log(2 * jnp.pi) - jnp.log(jnp.diag(self.cholesky))).sum()


def gaussian(covariance):
    return Gaussian(jnp.asarray(MEAN, jnp.float32), jnp.asarray(np.linalg.cholesky(covariance), jnp.float32))


EXACT, WIDE = gaussian(COVARIANCE), gaussian(1.5 * COVARIANCE)


@pytest.fixture(scope="module")
def terms():
    """Log-likelihoods of the training data under draws of the exact posterior, [S, N]."""
    return bdl.diagnostics.pointwise_log_likelihood(KEY, EXACT, model, data, num_samples=S)


@pytest.fixture(scope="module")
def arviz():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it announces its next release
        return pytest.importorskip("arviz")


def exact_loo():
    """log p(yₙ | y₋ₙ), with each example taken out of the posterior."""
    found = []
    for x, y in zip(X, Y, strict=True):
        covariance = np.linalg.inv(PRECISION - np.outer(x, x) / SCALE**2)
        mean = covariance @ (X.T @ Y - x * y) / SCALE**2
        found.append(scipy.stats.norm(x @ mean, np.sqrt(x @ covariance @ x + SCALE**2)).logpdf(y))
    return np.array(found)


def test_pointwise_log_likelihoods_are_those_of_log_predictive(terms):
    expected = bdl.log_predictive(KEY, EXACT, model, data, num_samples=S)
    found = scipy.special.logsumexp(np.asarray(terms, np.float64), axis=0) - np.log(S)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    chunked = bdl.diagnostics.pointwise_log_likelihood(
        KEY, EXACT, model, data, num_samples=50, chunk_size=7, batch_size=10
    )
    np.testing.assert_allclose(chunked, np.asarray(terms)[:50], rtol=1e-5, atol=1e-5)


def is_before_1(arviz):
    return arviz.__version__.startswith("0.")


def psis_of_arviz(arviz, log_ratios):
    """Normalised log weights and k̂ of log ratios [S, N]."""
    if is_before_1(arviz):
        weights, k = arviz.psislw(np.asarray(log_ratios, np.float64).T)
        return weights.T, k
    from arviz_stats.base import array_stats

    weights, k = array_stats.psislw(-np.asarray(log_ratios, np.float64), axis=0)  # it takes log-likelihoods
    return scipy.special.log_softmax(weights.T, axis=0), k


@pytest.mark.usefixtures("strict_dtypes")
def test_psis_is_that_of_arviz(arviz):
    tails = np.random.default_rng(1)
    log_ratios = np.concatenate(
        [
            tails.normal(size=(900, 4)) * np.array([0.1, 0.5, 1.0, 3.0]),
            tails.exponential(size=(900, 3)) * np.array([0.2, 0.5, 0.9]),  # Pareto weights with these k
            -tails.exponential(size=(900, 1)),  # bounded
        ],
        1,
    ).astype(np.float32)
    found = jax.jit(bdl.diagnostics.psis)(log_ratios)
    weights, k = psis_of_arviz(arviz, log_ratios)
    np.testing.assert_allclose(found.k_hat, k, atol=2e-4)
    np.testing.assert_allclose(np.exp(found.log_weights), np.exp(weights), rtol=5e-4)
    assert np.ptp(k) > 1  # the tails are not all alike
    assert found.threshold == pytest.approx(1 - 1 / np.log10(900))
    moved = bdl.diagnostics.psis(log_ratios[:, 2] + 100)
    np.testing.assert_allclose(moved.k_hat, found.k_hat[2], atol=2e-3)


def test_the_shape_of_a_known_tail_is_found():
    """Pareto weights with k = 0.3 and 0.8; the error of k̂ from a tail of M is about (1 + k) / √M."""
    count = 20_000
    shapes = np.array([0.3, 0.8])
    log_ratios = np.random.default_rng(2).exponential(size=(count, 2)) * shapes
    found = bdl.diagnostics.psis(log_ratios)
    tail = 3 * np.sqrt(count)
    assert np.all(np.abs(found.k_hat - shapes) < 5 * (1 + shapes) / np.sqrt(tail))


def test_psis_of_ratios_without_a_tail_has_no_nan():
    ratios = np.zeros((50, 4), np.float32)
    ratios[:, 1] = np.arange(50) * 30.0  # all but three weights vanish
    ratios[:, 2] = np.arange(50) % 2  # half of them tie at the top
    ratios[:, 3] = 1e-6 * np.arange(50)
    found = bdl.diagnostics.psis(ratios)
    assert found.k_hat.tolist() == [-np.inf, np.inf, -np.inf, -np.inf]
    np.testing.assert_allclose(np.exp(found.log_weights).sum(0), 1, rtol=1e-5)
    np.testing.assert_allclose(np.exp(found.log_weights[:, 0]), 1 / 50, rtol=1e-5)
    assert found.log_weights[-1, 1] == pytest.approx(0, abs=1e-6)
    broken = jnp.asarray(ratios).at[3, 2].set(jnp.nan)
    k_hat = jax.jit(bdl.diagnostics.psis)(broken).k_hat
    assert np.isnan(k_hat).tolist() == [False, False, True, False]


@pytest.mark.usefixtures("strict_dtypes")
def test_loo_is_that_of_arviz(arviz, terms):
    found = bdl.diagnostics.loo(terms)
    posterior = {"w": np.zeros((1, S))}
    groups = {"posterior": posterior, "log_likelihood": {"y": np.asarray(terms, np.float64)[None]}}
    old = is_before_1(arviz)
    expected = arviz.loo(arviz.from_dict(**groups) if old else arviz.from_dict(groups), pointwise=True, reff=1.0)
    ours = [found.pointwise, found.k_hat]
    theirs = [expected.loo_i, expected.pareto_k] if old else [expected.elpd_i, expected.pareto_k]
    np.testing.assert_allclose(ours[0], theirs[0], atol=2e-5)
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-3)
    assert float(found.estimate) == pytest.approx(float(expected.elpd_loo if old else expected.elpd), abs=1e-4)
    assert float(found.p_loo) == pytest.approx(float(expected.p_loo if old else expected.p), abs=1e-4)
    # Before 1.0 ArviZ divides the variance by N, since then, as we do, by N − 1.
    error = float(expected.se) * (np.sqrt(N / (N - 1)) if old else 1)
    assert float(found.standard_error) == pytest.approx(error, rel=1e-4)


def test_loo_is_the_exact_leave_one_out(terms):
    found, expected = bdl.diagnostics.loo(terms), exact_loo()
    weights = np.exp(bdl.diagnostics.psis(-terms).log_weights, dtype=np.float64)
    ratio = np.exp(np.asarray(terms) - np.asarray(found.pointwise))
    error = np.sqrt((weights**2 * (ratio - 1) ** 2).sum(0))
    assert np.all(np.abs(found.pointwise - expected) < 5 * error)
    assert error.max() < 0.05
    seen = np.asarray(bdl.log_predictive(KEY, EXACT, model, data, num_samples=S)).sum()
    assert float(found.p_loo) == pytest.approx(seen - float(found.estimate), abs=1e-3)
    assert 1 < found.p_loo < D + 1
    assert np.all(found.k_hat < found.threshold)


def test_loo_of_an_approximation_is_corrected_by_its_ratios():
    judged = bdl.diagnostics.evidence(KEY, WIDE, model, data, num_samples=S)
    own = bdl.diagnostics.pointwise_log_likelihood(KEY, WIDE, model, data, num_samples=S)
    corrected = bdl.diagnostics.loo(own, log_ratios=judged.log_ratios)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whether a k̂ is above the threshold is chance here
        taken_as_exact = bdl.diagnostics.loo(own)
    assert abs(corrected.estimate - exact_loo().sum()) < 0.1
    assert abs(taken_as_exact.estimate - exact_loo().sum()) > 0.3


def test_loo_warns_of_examples_that_decide_the_fit():
    y = Y32.at[0].set(30.0)
    own = bdl.diagnostics.pointwise_log_likelihood(KEY, EXACT, model, (X32, y), num_samples=S)
    with pytest.warns(RuntimeWarning, match="for 1 of 24 examples"):
        assert bdl.diagnostics.loo(own).k_hat.argmax() == 0


def test_held_out_densities_and_their_differences():
    first, second = (np.random.default_rng(i).normal(-1.0, 1.0, 50) for i in (3, 4))
    second = 0.9 * first + 0.1 * second - 0.2
    elpds = {name: bdl.diagnostics.elpd(a) for name, a in (("second", second), ("first", first))}
    assert float(elpds["first"].estimate) == pytest.approx(first.sum(), rel=1e-5)
    assert float(elpds["first"].standard_error) == pytest.approx(np.sqrt(50) * first.std(ddof=1), rel=1e-5)
    table = bdl.diagnostics.compare(elpds)
    assert table.names == ("first", "second")
    np.testing.assert_allclose(table.difference, [0, (second - first).sum()], rtol=1e-5)
    np.testing.assert_allclose(table.standard_error, [0, np.sqrt(50) * (second - first).std(ddof=1)], rtol=1e-4)


def test_the_evidence_of_a_linear_model_is_exact():
    exact = bdl.diagnostics.evidence(KEY, EXACT, model, data, num_samples=S)
    # Where q is the posterior every draw says the evidence.
    np.testing.assert_allclose(exact.elbo + exact.log_ratios, EVIDENCE, atol=1e-4)
    np.testing.assert_allclose([exact.elbo, exact.iw_bound, exact.log_evidence], EVIDENCE, atol=1e-4)
    assert exact.k_hat == -np.inf
    assert exact.standard_error < 1e-5

    found = bdl.diagnostics.evidence(KEY, WIDE, model, data, num_samples=S)
    gap = 0.5 * D * (1.5 - 1 - np.log(1.5))  # KL(q || posterior)
    spread = float(found.log_ratios.std()) / np.sqrt(S)
    assert spread < 0.2 * gap
    assert abs(found.elbo - (EVIDENCE - gap)) < 5 * spread
    assert abs(found.log_evidence - EVIDENCE) < 5 * found.standard_error
    assert 0 < found.standard_error < 0.05
    assert found.elbo < found.iw_bound
    assert found.k_hat < found.threshold
    batched = bdl.diagnostics.evidence(KEY, WIDE, model, data, num_samples=S, batch_size=10)
    np.testing.assert_allclose(batched.log_ratios, found.log_ratios, atol=1e-4)
    np.testing.assert_allclose(batched.log_evidence, found.log_evidence, atol=1e-4)

    # A Normal of 0.2 times the variance: k = 1 − 0.2, from the heaviest of three equal directions.
    narrow = bdl.diagnostics.evidence(KEY, gaussian(0.2 * COVARIANCE), model, data, num_samples=S)
    assert narrow.k_hat > narrow.threshold


@pytest.mark.slow
def test_the_evidence_of_families_is_their_elbo():
    posterior = bdl.variational(network.params, bdl.families.normal(scale=0.3))
    found = bdl.diagnostics.evidence(KEY, posterior, model, data, num_samples=1_000)
    elbo = bdl.elbo(KEY, posterior, model, data, num_data=N, num_samples=1_000, noise="shared")
    spread = float(found.log_ratios.std()) * np.sqrt(2 / 1_000)
    assert abs(found.elbo - elbo.elbo) < 5 * spread


@pytest.mark.slow
def test_the_evidence_of_many_examples_keeps_its_digits():
    """Log-likelihoods add up to millions, and their differences between draws are a few nats."""
    count = 200_000
    x = np.ones((count, 1), np.float32)
    y = np.random.default_rng(5).normal(0.3, 1.0, (count, 1)).astype(np.float32)
    one = bdl.network(lambda params, x: x * params["w"], {"w": jnp.zeros((1, 1))})
    constant = bdl.Model(one, bdl.likelihoods.Normal(scale=1.0), bdl.priors.normal(scale=1.0))
    precision = count + 1
    family = bdl.families.NormalFamily(
        jnp.full((1, 1), y.sum(dtype=np.float64) / precision, jnp.float32), jnp.full((1, 1), -0.5 * np.log(precision))
    )
    posterior = bdl.posteriors.Factorised({"w": family})
    found = bdl.diagnostics.evidence(KEY, posterior, constant, (x, y), num_samples=30)
    # All ratios are the same: what is left is float32's error in 200,000 log-likelihoods.
    assert np.abs(found.log_ratios).max() < 0.05
    y64 = y.astype(np.float64)
    evidence = -0.5 * ((y64**2).sum() - y64.sum() ** 2 / precision + np.log(precision) + count * np.log(2 * np.pi))
    assert float(found.log_evidence) == pytest.approx(evidence, rel=1e-6)


@pytest.mark.usefixtures("strict_dtypes")
def test_stacking_finds_the_best_mixture():
    densities = np.random.default_rng(6).normal(-1.5, 1.0, (5, 200))
    densities[1] = densities[0] - 0.3  # never better than network 0
    densities[4] = 0.5 * (densities[2] + densities[3])

    def objective(weights):
        return scipy.special.logsumexp(densities, b=weights[:, None], axis=0).mean()

    best = scipy.optimize.minimize(
        lambda w: -objective(w), np.full(5, 0.2), bounds=[(0, 1)] * 5,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1}, tol=1e-12,
    )  # fmt: skip
    weights = np.asarray(bdl.diagnostics.stack(densities), np.float64)
    assert weights.sum() == pytest.approx(1, abs=1e-6)
    assert weights.min() >= 0
    assert objective(weights / weights.sum()) == pytest.approx(-best.fun, abs=2e-6)
    np.testing.assert_allclose(weights, best.x, atol=0.005)
    assert weights[1] < 1e-3
    same = bdl.diagnostics.stack(np.tile(densities[:1], (3, 1)))
    np.testing.assert_allclose(same, 1 / 3, rtol=1e-5)
    # Far from zero, and so far apart that one has no probability at all.
    far = bdl.diagnostics.stack(np.stack([densities[0] - 2_000, densities[0] - 1_000]))
    np.testing.assert_allclose(far, [0, 1], atol=1e-6)


@pytest.mark.usefixtures("strict_dtypes")
def test_a_mixture_of_networks_splits_its_uncertainty():
    weights = np.array([0.2, 0.5, 0.3])
    made = np.random.default_rng(7).uniform(0.5, 2.0, (3, 3, 4, 2)).astype(np.float32)
    kind = lambda mean, a, e: bdl.Prediction(mean, a + e, a, e, 0 * mean, jnp.int32(9))
    found = bdl.diagnostics.mix([kind(*(jnp.asarray(a) for a in one)) for one in made], weights)
    mean, aleatoric, epistemic = np.einsum("k,kq...->q...", weights, made.astype(np.float64))
    between = np.einsum("k,k...->...", weights, (made[:, 0].astype(np.float64) - mean) ** 2)
    for name, expected in (
        ("mean", mean), ("aleatoric", aleatoric), ("parametric", epistemic), ("structural", between),
        ("total", aleatoric + epistemic + between),
    ):  # fmt: skip
        np.testing.assert_allclose(getattr(found, name), expected, rtol=2e-5, err_msg=name)

    probs = np.random.default_rng(8).dirichlet(np.ones(3), size=(3, 4))
    entropy = scipy.stats.entropy(probs, axis=-1)
    probs32, entropy32, error = (np.asarray(a, np.float32) for a in (probs, entropy, np.zeros((4, 3))))
    classes = [
        bdl.ClassPrediction(p, h, np.float32(0.75) * h, np.float32(0.25) * h, error, jnp.int32(9))
        for p, h in zip(probs32, entropy32, strict=True)
    ]
    found = bdl.diagnostics.mix(classes, weights)
    mixed = np.einsum("k,knc->nc", weights, probs)
    np.testing.assert_allclose(found.mean, mixed, rtol=1e-5)
    np.testing.assert_allclose(found.structural, scipy.stats.entropy(mixed, axis=-1) - weights @ entropy, atol=1e-6)
    np.testing.assert_allclose(found.total, scipy.stats.entropy(mixed, axis=-1), rtol=1e-5)


def _mean_and_spread(y):
    return jnp.stack([y.mean(), jnp.std(y)])


def test_replicated_data_have_the_moments_of_the_posterior_predictive():
    found = bdl.diagnostics.posterior_predictive_check(KEY, EXACT, model, data, _mean_and_spread, num_samples=S)
    np.testing.assert_allclose(found.observed, [Y.mean(), Y.std()], rtol=1e-5)
    assert found.replicated.shape == (S, 2)
    # The mean of a replicate is Normal, with the variance of the mean output and σ² / N.
    centre = X.mean(0)
    variance = centre @ COVARIANCE @ centre + SCALE**2 / N
    means = np.asarray(found.replicated[:, 0], np.float64)
    assert abs(means.mean() - centre @ MEAN) < 5 * np.sqrt(variance / S)
    assert abs(means.var() / variance - 1) < 5 * np.sqrt(2 / S)
    expected = scipy.stats.norm(centre @ MEAN, np.sqrt(variance)).sf(Y.mean())
    assert abs(found.p_value[0] - expected) < 5 * np.sqrt(expected * (1 - expected) / S)
    assert 0.02 < found.p_value[1] < 0.98
    assert found.p_value[1] == pytest.approx((np.asarray(found.replicated[:, 1]) > Y.std()).mean(), abs=1e-3)
    # A model that knows of ten times the noise.
    loud = bdl.Model(network, bdl.likelihoods.Normal(scale=10 * SCALE), bdl.priors.normal(scale=PRIOR))
    wide = bdl.diagnostics.posterior_predictive_check(KEY, EXACT, loud, data, _mean_and_spread, num_samples=200)
    assert wide.p_value[1] == 1


def test_ties_of_a_statistic_count_half():
    bernoulli = bdl.Model(network, bdl.likelihoods.Bernoulli(), bdl.priors.normal(scale=PRIOR))
    x, y = X32[:2], jnp.array([[0], [1]])
    found = bdl.diagnostics.posterior_predictive_check(
        KEY, EXACT, bernoulli, (x, y), jnp.sum, num_samples=500, chunk_size=100
    )
    assert set(np.unique(found.replicated)) == {0, 1, 2}
    share = (np.asarray(found.replicated) > 1).mean() + 0.5 * (np.asarray(found.replicated) == 1).mean()
    assert float(found.p_value) == pytest.approx(share, abs=1e-6)


def test_the_joint_log_likelihood_is_that_of_the_joint_predictive():
    """Of targets at repeated inputs, whose predictive is a Normal with covariance x Σ x' + σ² 1[same target]."""
    x = X[:4]
    repeats = np.random.default_rng(9).normal(x @ MEAN, 0.7, size=(3, 4)).T  # three targets for each of four inputs
    new = jnp.asarray(np.repeat(x, 3, 0), jnp.float32), jnp.asarray(repeats.reshape(-1, 1), jnp.float32)
    own = bdl.diagnostics.pointwise_log_likelihood(KEY, EXACT, model, new, num_samples=S)
    rows = np.array([[0, 3, 1], [7, 8, 6], [11, 2, 5]])  # three different targets of one input, two, or three
    found = bdl.diagnostics.joint_log_likelihood(own, rows, average=False)
    inputs, targets = np.repeat(x, 3, 0), repeats.ravel()
    expected = [
        scipy.stats.multivariate_normal(
            inputs[r] @ MEAN, inputs[r] @ COVARIANCE @ inputs[r].T + SCALE**2 * np.eye(3)
        ).logpdf(targets[r])
        for r in rows
    ]
    joint = np.asarray(own, np.float64)[:, rows].sum(-1)
    weights = np.exp(joint - np.asarray(found))
    error = np.abs(np.asarray(found) - np.array(expected))
    assert np.all(error < 5 * weights.std(0) / np.sqrt(len(own)))
    assert error.max() < 0.1
    mean = bdl.diagnostics.joint_log_likelihood(own, rows)
    assert float(mean) == pytest.approx(float(found.mean()), rel=1e-6)
    # One target is a marginal.
    single = bdl.diagnostics.joint_log_likelihood(own, np.arange(12)[:, None], average=False)
    np.testing.assert_allclose(single, scipy.special.logsumexp(own, axis=0) - np.log(len(own)), atol=1e-4)


@pytest.mark.slow
def test_the_joint_log_likelihood_tells_epistemic_from_aleatoric():
    """Two predictives with the same marginals: one that differs from draw to draw, one with as much noise."""
    scale = np.sqrt(SCALE**2 + 1)
    noisy = bdl.Model(network, bdl.likelihoods.Normal(scale=scale), bdl.priors.normal())
    x = jnp.asarray(np.eye(D), jnp.float32)  # outputs are the weights themselves: Normal(0, 1), independent
    truth = np.random.default_rng(10).normal(size=D)
    y = np.repeat(truth, 10) + SCALE * np.random.default_rng(11).normal(size=10 * D)
    new = jnp.repeat(x, 10, 0), jnp.asarray(y[:, None], jnp.float32)
    spread = bdl.variational(network.params, bdl.families.normal(scale=1.0))
    still = bdl.variational(network.params, bdl.families.point)
    rows = bdl.diagnostics.dyads(KEY, D, num_batches=100, batch_length=6, num_repeats=10)
    joint, marginal = {}, {}
    for name, posterior, used in (("epistemic", spread, model), ("aleatoric", still, noisy)):
        own = bdl.diagnostics.pointwise_log_likelihood(KEY, posterior, used, new, num_samples=4_000)
        joint[name] = bdl.diagnostics.joint_log_likelihood(own, rows)
        marginal[name] = bdl.diagnostics.joint_log_likelihood(own, np.arange(30)[:, None])
    assert abs(marginal["epistemic"] - marginal["aleatoric"]) < 0.05
    assert joint["epistemic"] > joint["aleatoric"] + 1


def test_dyads_repeat_two_anchors():
    rows = np.asarray(bdl.diagnostics.dyads(KEY, 5, num_batches=4_000, batch_length=8, num_repeats=3))
    assert rows.shape == (4_000, 8)
    inputs = rows // 3
    different = np.array([len(set(row)) for row in inputs])
    # All eight draws are of the same anchor with probability 2⁻⁷.
    assert set(different) == {1, 2}
    assert abs((different == 1).mean() - 2**-7) < 5 * np.sqrt(2**-7 / 4_000)
    pairs = {tuple(sorted(set(row))) for row in inputs[different == 2]}
    assert len(pairs) == 10
    counts = np.bincount(rows.ravel(), minlength=15)
    assert scipy.stats.chisquare(np.bincount(inputs[:, 0], minlength=5)).pvalue > 1e-4
    assert np.all(np.abs(counts / rows.size - 1 / 15) < 0.01)


def test_arviz_gets_the_draws_that_predict_makes(arviz):
    posterior = bdl.variational(network.params, bdl.families.normal(scale=0.3))
    found = bdl.diagnostics.to_arviz(KEY, posterior, model, data, num_samples=40)
    draws = bdl.predict(KEY, posterior, model, X32, num_samples=40, return_draws=True).draws
    weights = np.asarray(found["posterior"]["w"])
    assert weights.shape == (1, 40, D, 1)
    np.testing.assert_allclose(np.einsum("nd,sdk->snk", X32, weights[0]), draws, atol=1e-5)
    own = bdl.diagnostics.pointwise_log_likelihood(KEY, posterior, model, data, num_samples=40)
    np.testing.assert_array_equal(found["log_likelihood"]["y"][0], own)
    np.testing.assert_array_equal(found["observed_data"]["y"], Y32)
    np.testing.assert_array_equal(found["constant_data"]["x"], X32)
    assert found["posterior_predictive"]["y"].shape == (1, 40, N, 1)
    few = bdl.diagnostics.to_arviz(KEY, posterior, model, data, num_samples=40, weights=False)
    groups = few.children if hasattr(few, "children") else few.groups()
    assert set(groups) == {"log_likelihood", "posterior_predictive", "observed_data", "constant_data"}


def test_without_arviz_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(ImportError, match=r"pip install 'bdl\[arviz\]'"):
        bdl.diagnostics.to_arviz(KEY, EXACT, model, data, num_samples=2)


POINTS = bdl.variational(network.params, bdl.families.point)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bdl.diagnostics.psis(np.zeros(20)), "Take 21 draws"),
        (lambda: bdl.diagnostics.psis(np.full(30, np.nan)), "finite log_ratios, got nan"),
        (lambda: bdl.diagnostics.psis(np.zeros(30), relative_efficiency=0), "above 0"),
        (lambda: bdl.diagnostics.loo(np.zeros(30)), "one row for each draw"),
        (lambda: bdl.diagnostics.loo(np.zeros((30, 1))), "two or more"),
        (lambda: bdl.diagnostics.loo(np.full((30, 2), -np.inf)), "-inf says"),
        (lambda: bdl.diagnostics.loo(np.zeros((30, 2)), log_ratios=np.zeros(29)), "of the 30 draws"),
        (lambda: bdl.diagnostics.elpd(np.zeros((3, 2))), r"one number for each example, \[N\]"),
        (lambda: bdl.diagnostics.compare({}), "no model"),
        (
            lambda: bdl.diagnostics.compare(
                {"a": bdl.diagnostics.elpd(np.zeros(3)), "b": bdl.diagnostics.elpd(np.zeros(2))}
            ),
            "same examples",
        ),
        (lambda: bdl.diagnostics.evidence(KEY, POINTS, model, data, num_samples=30), "Point masses"),
        (lambda: bdl.diagnostics.evidence(KEY, EXACT, model, data, num_samples=10), "Take 21"),
        (lambda: bdl.diagnostics.stack(np.zeros(3)), "row for each network"),
        (lambda: bdl.diagnostics.mix([], np.ones(0)), "one kind"),
        (lambda: bdl.diagnostics.joint_log_likelihood(np.zeros((3, 2)), np.zeros((1, 2))), "integers"),
        (lambda: bdl.diagnostics.joint_log_likelihood(np.zeros((3, 2)), np.array([[0, 2]])), "0, …, 1"),
        (lambda: bdl.diagnostics.dyads(KEY, 1, num_batches=2), "at least 2 inputs"),
        (lambda: bdl.diagnostics.dyads(KEY, 3, num_batches=0), "num_batches"),
        (
            lambda: bdl.diagnostics.posterior_predictive_check(
                KEY, EXACT, model, (X32, (Y32, Y32 > 0)), jnp.mean, num_samples=2
            ),
            "that the likelihood draws, got tuple",
        ),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
