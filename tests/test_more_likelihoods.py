"""Likelihoods beyond the first three, masks, weights and censoring: against SciPy, by hand, and at extreme outputs."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from scipy import stats

import bdl
from bdl import likelihoods
from bdl.likelihoods._censored import _LOG_SURVIVAL, log_survival
from tests.slow import slow

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
LOC, Y = RNG.normal(size=(2, 6, 2)).astype(np.float32)
S = RNG.normal(size=(6, 2)).astype(np.float32)
HEADS = np.concatenate([LOC, S], axis=-1)
COUNTS = RNG.poisson(3.0, size=(6, 2))
LOWER = RNG.normal(size=(6, 1)).astype(np.float32)


def linear(p, x):
    return x @ p["w"]


def model_of(likelihood, columns=2):
    return bdl.Model(bdl.network(linear, {"w": jnp.zeros((3, columns))}), likelihood)


@functools.partial(jax.jit, static_argnames="training")
def log_likelihood(likelihood, outputs, y, training=False):
    return model_of(likelihood).log_likelihood(jax.random.clone(KEY), outputs, y, training=training)


@jax.jit
def log_prob(likelihood, outputs, y):
    return likelihood(outputs).log_prob(y)


B = np.exp(0.5 * S)
MEAN = np.exp(LOC)
ELEMENTWISE = {
    "Laplace": (likelihoods.Laplace(0.3), LOC, Y, stats.laplace.logpdf(Y, LOC, 0.3)),
    "HeteroscedasticLaplace": (likelihoods.HeteroscedasticLaplace(), HEADS, Y, stats.laplace.logpdf(Y, LOC, B)),
    "StudentT": (likelihoods.StudentT(df=3.0, scale=0.3), LOC, Y, stats.t.logpdf(Y, 3.0, LOC, 0.3)),
    "HeteroscedasticStudentT": (likelihoods.HeteroscedasticStudentT(3.0), HEADS, Y, stats.t.logpdf(Y, 3.0, LOC, B)),
    "Bernoulli": (likelihoods.Bernoulli(), LOC, COUNTS % 2, stats.bernoulli.logpmf(COUNTS % 2, 1 / (1 + np.exp(-LOC)))),
    "Poisson": (likelihoods.Poisson(), LOC, COUNTS, stats.poisson.logpmf(COUNTS, MEAN)),
    "NegativeBinomial": (
        likelihoods.NegativeBinomial(2.0),
        LOC,
        COUNTS,
        stats.nbinom.logpmf(COUNTS, 2.0, 2.0 / (2.0 + MEAN)),
    ),
    "NegativeBinomial, two heads": (
        likelihoods.NegativeBinomial(None),
        HEADS,
        COUNTS,
        stats.nbinom.logpmf(COUNTS, np.exp(S), np.exp(S) / (np.exp(S) + MEAN)),
    ),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_log_probabilities_are_scipys(name):
    likelihood, outputs, y, exact = ELEMENTWISE[name]
    np.testing.assert_allclose(log_prob(likelihood, outputs, y), exact, rtol=2e-4, atol=1e-5)
    # Summed over an example's axes, and differentiable in all outputs at ±20.
    np.testing.assert_allclose(log_likelihood(likelihood, outputs, y), exact.sum(1), rtol=2e-4, atol=1e-5)
    total = jax.jit(jax.value_and_grad(lambda f: log_likelihood(likelihood, f, y).sum()))
    for extreme in (-20.0, 20.0):
        value, gradient = total(jnp.full_like(outputs, extreme))
        assert bool(np.isfinite(value)), extreme
        assert bool(np.isfinite(gradient).all()), extreme


@pytest.mark.parametrize("concentration", [1e-3, 1.0, 19.0, 21.0, 1e3, 1e6, 1e8])
def test_negative_binomials_keep_their_digits(concentration):
    # numpyro's own is wrong by 1.5 nats at a concentration of 1e8.
    y, mean = np.array([0, 2, 50]), 3.0
    found = likelihoods.NegativeBinomial(concentration)(jnp.full(3, np.log(mean))).log_prob(y)
    exact = stats.nbinom.logpmf(y, concentration, concentration / (concentration + mean))
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=2e-5)


def test_learned_degrees_of_freedom_and_concentrations_have_gradients():
    for likelihood, y in (
        (likelihoods.StudentT(df=bdl.learned(4.0), scale=bdl.learned(0.5)), Y),
        (likelihoods.Laplace(bdl.learned(0.5)), Y),
        (likelihoods.NegativeBinomial(bdl.learned(2.0)), COUNTS),
        (likelihoods.Ordinal(3), COUNTS[:, 0] % 3),
        (likelihoods.MultivariateNormal(bdl.learned(np.eye(2))), Y),
    ):
        outputs = LOC[:, :1] if isinstance(likelihood, likelihoods.Ordinal) else LOC
        free, _ = bdl.partition(likelihood)
        gradient = jax.jit(jax.grad(lambda node, f, y: log_likelihood(node, f, y).sum()))(likelihood, outputs, y)
        leaves = jax.tree.leaves(bdl.partition(gradient)[0])
        assert len(leaves) == len(jax.tree.leaves(free))
        assert leaves, likelihood
        for leaf in leaves:
            assert bool(np.isfinite(leaf).all())
            assert float(np.abs(leaf).max()) > 0


# Kendall and Gal's attenuation


def test_attenuated_loss_and_its_gradient_are_equation_8():
    """Loss ½ exp(−s) (y − m)² + ½ s, by hand at y − m = 2 and s = log 4.

    ∂/∂m = −exp(−s)(y − m), ∂/∂s = ½ − ½ exp(−s)(y − m)².
    """
    likelihood = likelihoods.HeteroscedasticNormal()
    loss = lambda o, y: -log_likelihood(likelihood, o, y).sum()
    outputs, y = jnp.array([[1.0, np.log(4.0)]]), jnp.array([[3.0]])
    constant = 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(loss(outputs, y) - constant, 0.5 * 4 / 4 + 0.5 * np.log(4.0), rtol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(outputs, y), [[-0.5, 0.0]], atol=1e-6)
    heads = jnp.asarray(HEADS)
    gradient = jax.jit(jax.grad(loss))(heads, jnp.asarray(Y))
    residual = Y - LOC
    np.testing.assert_allclose(gradient[:, :2], -np.exp(-S) * residual, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradient[:, 2:], 0.5 - 0.5 * np.exp(-S) * residual**2, rtol=1e-4, atol=1e-5)


def test_beta_weighs_training_and_nothing_else():
    plain, weighted = (likelihoods.HeteroscedasticNormal(beta) for beta in (0.0, 0.5))
    exact = stats.norm.logpdf(Y, LOC, B)
    np.testing.assert_allclose(log_likelihood(weighted, HEADS, Y), exact.sum(1), rtol=1e-4)
    np.testing.assert_allclose(log_likelihood(weighted, HEADS, Y, training=True), (exact * B).sum(1), rtol=1e-4)
    # beta = 1: the mean's gradient is that of the squared error; the weight itself has none.
    one = likelihoods.HeteroscedasticNormal(beta=1.0)
    gradient = jax.jit(jax.grad(lambda o: log_likelihood(one, o, Y, training=True).sum()))(jnp.asarray(HEADS))
    np.testing.assert_allclose(gradient[:, :2], Y - LOC, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradient[:, 2:], B**2 * (-0.5 + 0.5 * (Y - LOC) ** 2 / B**2), rtol=1e-4, atol=1e-4)
    data = (jnp.ones((6, 3)), Y)
    posterior = bdl.variational({"w": jnp.zeros((3, 4))}, bdl.families.normal(0.1))
    for likelihood, bound in ((plain, True), (weighted, False), (likelihoods.masked(weighted, np.nan), False)):
        model = model_of(likelihood, 4)
        assert jax.eval_shape(lambda m=model: bdl.elbo(KEY, posterior, m, data, num_data=6)).is_bound is bound
    with pytest.raises(ValueError, match="reweighted"):
        bdl.objectives.iw_bound(KEY, posterior, model, data, num_data=6, num_samples=2)


def test_one_trace_for_many_betas():
    traces = []

    @jax.jit
    def run(likelihood):
        traces.append(None)
        return likelihood.training_weight(likelihood(jnp.ones((1, 2))), None)

    found = [float(run(likelihoods.HeteroscedasticNormal(beta))[0, 0]) for beta in (0.25, 0.5, 1)]
    np.testing.assert_allclose(found, np.exp([0.25, 0.5, 1.0]), rtol=1e-5)
    assert len(traces) == 1


def test_fixed_scale_ignores_the_log_variance():
    likelihood = likelihoods.HeteroscedasticNormal(fixed_scale=0.3)
    np.testing.assert_allclose(log_prob(likelihood, HEADS, Y), stats.norm.logpdf(Y, LOC, 0.3), rtol=1e-4)
    gradient = jax.jit(jax.grad(lambda o: log_likelihood(likelihood, o, Y).sum()))(jnp.asarray(HEADS))
    assert float(np.abs(gradient[:, 2:]).max()) == 0
    assert float(np.abs(gradient[:, :2]).min()) > 0


# Classes


def softmax(f):
    f = f - f.max(-1, keepdims=True)
    return np.exp(f) / np.exp(f).sum(-1, keepdims=True)


@pytest.mark.parametrize("rank", [slow(0), 2])
def test_noisy_logits_are_the_mean_of_the_softmaxes_of_independent_noise(rank):
    """Fault guarded against: one noise for all classes (which the softmax does not see), and means of logarithms."""
    rng, draws = np.random.default_rng(1), 1_000_000
    logits, s = np.array([1.0, 0.0, -1.0]), np.array([1.5, 0.5, 0.0])
    factors = rng.normal(size=(3, rank))
    noise = np.exp(0.5 * s) * rng.normal(size=(draws, 3)) + rng.normal(size=(draws, rank)) @ factors.T
    probs = softmax((logits + noise) / 1.5)
    outputs = [jnp.asarray(a, jnp.float32)[None] for a in (logits, s, factors)]
    flat = jnp.concatenate([o.ravel() for o in outputs])[None]
    likelihood = likelihoods.HeteroscedasticCategorical(100_000, temperature=1.5, rank=rank)
    draw = jax.jit(lambda outputs, key: likelihood(outputs, key=key))
    targets = draw(flat, KEY)
    log_probs = jax.jit(jax.vmap(targets.log_prob))(jnp.arange(3)[:, None])[:, 0]
    (found,), logits = jax.jit(lambda targets: (targets.probs, targets.logits))(targets)
    for k in range(3):
        p, error = probs[:, k].mean(), probs[:, k].std() * np.sqrt(1 / draws + 1e-5)
        assert abs(np.exp(float(log_probs[k])) - p) < 5 * error
        assert abs(found[k] - p) < 5 * error
    np.testing.assert_allclose(logits, np.log(found)[None], atol=1e-4)
    pair = tuple(outputs) if rank else tuple(outputs[:2])
    np.testing.assert_allclose(draw(pair, jax.random.clone(KEY)).noisy, targets.noisy, rtol=1e-5, atol=2e-6)
    # The covariance of the noise is that of the model: diagonal where the rank is 0.
    found = np.cov(np.asarray(targets.noisy[:, 0], np.float64).T * 1.5)
    np.testing.assert_allclose(found, np.diag(np.exp(s)) + factors @ factors.T, atol=0.08)


def test_noise_belongs_to_the_row_and_the_key():
    likelihood = likelihoods.HeteroscedasticCategorical(10)
    outputs = jnp.zeros((4, 5, 6))
    draw = jax.jit(lambda o, key: likelihood(o, key=key).noisy)
    noise = draw(outputs, KEY)
    assert noise.shape == (10, 4, 5, 3)
    np.testing.assert_array_equal(draw(outputs[:2], jax.random.clone(KEY)), noise[:, :2])
    assert len(np.unique(np.asarray(noise))) > 0.95 * noise.size


@pytest.mark.parametrize("s", [-20.0, 20.0, -1e6, 1e6])
def test_noisy_logits_have_finite_gradients(s):
    likelihood = likelihoods.HeteroscedasticCategorical(5)
    outputs = jnp.tile(jnp.array([20.0, -20.0, 0.0, s, s, s]), (3, 1))
    loss = jax.jit(jax.value_and_grad(lambda o: log_likelihood(likelihood, o, jnp.arange(3)).sum()))
    value, gradient = loss(outputs)
    assert bool(np.isfinite(value) & np.isfinite(gradient).all())


def test_ordinal_probabilities_are_differences_of_logistic_functions():
    cutpoints = np.array([-1.0, 0.5, 0.6])
    likelihood = likelihoods.Ordinal(4, cutpoints=cutpoints)
    np.testing.assert_allclose(likelihood.cutpoints, cutpoints, rtol=1e-5)
    f = np.linspace(-4, 4, 9)[:, None]
    below = np.concatenate([np.zeros((9, 1)), stats.logistic.cdf(cutpoints - f), np.ones((9, 1))], axis=-1)
    np.testing.assert_allclose(likelihood(jnp.asarray(f, jnp.float32)).probs, np.diff(below), rtol=1e-4, atol=1e-6)
    # Far out, where differences of float32 are 0: log P(y = 1 | f = 60) is log(σ(−59.5) − σ(−61)).
    far = likelihood(jnp.array([[60.0]])).log_prob(jnp.array([1]))
    np.testing.assert_allclose(far, stats.logistic.logcdf(-59.5) + np.log1p(-np.exp(-1.5)), rtol=1e-5)
    assert jax.tree.leaves(bdl.partition(likelihood)[0]) == []
    assert likelihoods.Ordinal(2)(jnp.zeros((5, 7, 1))).batch_shape == (5, 7)


# Several targets


def test_full_covariances_are_what_the_columns_say():
    likelihood = likelihoods.HeteroscedasticMultivariateNormal()
    columns = RNG.normal(size=(6, 9)).astype(np.float32)
    y = RNG.normal(size=(6, 3)).astype(np.float32)
    found = likelihood(jnp.asarray(columns)).log_prob(jnp.asarray(y))
    for row, target, value in zip(columns.astype(float), y, found, strict=True):
        unit = np.eye(3)
        unit[1, 0], unit[2, 0], unit[2, 1] = row[6:]
        factor = np.diag(np.exp(0.5 * row[3:6])) @ unit
        exact = stats.multivariate_normal.logpdf(target, row[:3], factor @ factor.T)
        np.testing.assert_allclose(value, exact, rtol=1e-4)


def test_low_rank_covariances_are_what_the_columns_say():
    likelihood = likelihoods.HeteroscedasticMultivariateNormal("low_rank", rank=2)
    columns = RNG.normal(size=(6, 12)).astype(np.float32)
    y = RNG.normal(size=(6, 3)).astype(np.float32)
    targets = likelihood(jnp.asarray(columns))
    for i, (row, target) in enumerate(zip(columns.astype(float), y, strict=True)):
        factors = row[6:].reshape(3, 2)
        exact = stats.multivariate_normal.logpdf(target, row[:3], np.diag(np.exp(row[3:6])) + factors @ factors.T)
        np.testing.assert_allclose(targets.log_prob(jnp.asarray(y))[i], exact, rtol=1e-4)
        np.testing.assert_allclose(
            targets.covariance_matrix[i], np.diag(np.exp(row[3:6])) + factors @ factors.T, rtol=1e-4
        )


@pytest.mark.parametrize("s", [-20.0, 20.0])
@pytest.mark.parametrize("form", ["full", "low_rank"])
def test_covariances_have_finite_gradients(form, s):
    likelihood = likelihoods.HeteroscedasticMultivariateNormal(form, rank=1 if form == "low_rank" else None)
    outputs = jnp.tile(jnp.array([1.0, 0.0, -1.0, s, s, s, 0.5, 0.5, 0.5]), (6, 1))
    value, gradient = jax.jit(jax.value_and_grad(lambda o: log_likelihood(likelihood, o, np.ones((6, 3))).sum()))(
        outputs
    )
    assert bool(np.isfinite(value) & np.isfinite(gradient).all())


def test_one_covariance_for_all():
    covariance = np.array([[2.0, 0.6], [0.6, 1.0]])
    likelihood = likelihoods.MultivariateNormal(covariance)
    exact = [stats.multivariate_normal.logpdf(y, m, covariance) for y, m in zip(Y, LOC, strict=True)]
    np.testing.assert_allclose(log_likelihood(likelihood, LOC, Y), exact, rtol=1e-4)
    assert jax.tree.leaves(bdl.partition(likelihood)[0]) == []


# Masks


@pytest.mark.parametrize("form", ["void", "pair"])
def test_what_was_not_observed_adds_exactly_nothing(form):
    logits = jnp.asarray(RNG.normal(size=(3, 4, 5)).astype(np.float32))
    observed = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]], bool)
    labels = np.where(observed, 2, 255)
    plain = likelihoods.Categorical()
    masked, y = (
        (likelihoods.masked(plain, 255), labels)
        if form == "void"
        else (
            likelihoods.masked(plain),
            (labels, observed),
        )
    )
    model_of(masked).check_targets(logits, y)
    value, gradient = jax.jit(jax.value_and_grad(lambda o: log_likelihood(masked, o, y).sum()))(logits)
    exact = jax.nn.log_softmax(logits)[..., 2]
    np.testing.assert_allclose(value, exact[observed].sum(), rtol=1e-5)
    np.testing.assert_array_equal(gradient[~observed], 0.0)
    assert float(np.abs(gradient[observed]).min()) > 0
    np.testing.assert_array_equal(masked(logits).probs, plain(logits).probs)


def test_nan_is_void_for_real_targets_and_whole_vectors():
    y = np.array(Y)
    y[1, 0] = y[4, 1] = np.nan
    masked = likelihoods.masked(likelihoods.HeteroscedasticNormal(), void=np.nan)
    exact = np.where(np.isnan(y), 0.0, stats.norm.logpdf(Y, LOC, B)).sum(1)
    np.testing.assert_allclose(log_likelihood(masked, HEADS, y), exact, rtol=1e-4)
    gradient = jax.jit(jax.grad(lambda o: log_likelihood(masked, o, y).sum()))(jnp.asarray(HEADS))
    assert bool(np.isfinite(gradient).all())
    assert float(gradient[1, 0]) == float(gradient[1, 2]) == 0
    joint = likelihoods.masked(likelihoods.MultivariateNormal(np.eye(2)), void=float("nan"))
    values = log_likelihood(joint, LOC, y)
    exact = np.where(np.isnan(y).any(1), 0.0, stats.norm.logpdf(Y, LOC, 1.0).sum(1))
    np.testing.assert_allclose(values, exact, rtol=1e-4)
    assert jax.tree.structure(joint) == jax.tree.structure(
        likelihoods.masked(likelihoods.MultivariateNormal(np.eye(2)), void=np.float32("nan"))
    )


@pytest.mark.parametrize("form", ["pair", slow("void")])
def test_masks_go_through_fit_in_batches_and_through_log_predictive(form):
    x = RNG.normal(size=(40, 5, 3)).astype(np.float32)
    length = RNG.integers(1, 6, 40)
    observed = np.arange(5) < length[:, None]
    y = np.where(observed[..., None], x @ np.array([[1.0], [-1.0], [0.5]], np.float32), 1e6).astype(np.float32)
    network = bdl.network(linear, {"w": jnp.zeros((3, 1))})
    posterior = bdl.variational(network.params, bdl.families.point)
    algorithm = bdl.inference.map(optax.adam(0.05))
    masked = likelihoods.masked(likelihoods.Normal(scale=0.5), void=np.nan if form == "void" else None)
    targets = np.where(observed[..., None], y, np.nan) if form == "void" else (y, observed[..., None])
    fitted = bdl.fit(
        KEY, algorithm, posterior, bdl.Model(network, masked), (x, targets), num_steps=300, batch_size=10,
        validation=(x[:4], jax.tree.map(lambda a: a[:4], targets)), progress=False,
    )  # fmt: skip
    score = bdl.log_predictive(KEY, fitted.posterior, fitted.model, (x, targets))
    np.testing.assert_allclose(score / length, -0.5 * np.log(2 * np.pi) - np.log(0.5), atol=0.05)
    np.testing.assert_allclose(fitted.posterior.tree["w"].ravel(), [1.0, -1.0, 0.5], atol=0.05)


# Weights and censoring


def test_class_weights_weigh_training_only():
    weighted = likelihoods.class_weighted(likelihoods.Categorical(), [1.0, 1.0, 4.0])
    logits, labels = jnp.asarray(RNG.normal(size=(6, 3)).astype(np.float32)), np.array([0, 1, 2, 2, 1, 0])
    exact = np.asarray(jax.nn.log_softmax(logits))[np.arange(6), labels]
    np.testing.assert_allclose(log_likelihood(weighted, logits, labels), exact, rtol=1e-5)
    weights = np.array([0.5, 0.5, 2.0])[labels]
    np.testing.assert_allclose(log_likelihood(weighted, logits, labels, training=True), weights * exact, rtol=1e-5)
    masked = likelihoods.masked(weighted, void=-1)
    found = log_likelihood(masked, logits, np.where(labels == 1, -1, labels), training=True)
    np.testing.assert_allclose(found, np.where(labels == 1, 0, weights * exact), rtol=1e-5)
    binary = likelihoods.class_weighted(likelihoods.Bernoulli(), [1.0, 3.0])
    found = log_likelihood(binary, jnp.zeros((2, 1)), np.array([[0], [1]]), training=True)
    np.testing.assert_allclose(found, np.log(0.5) * np.array([0.5, 1.5]), rtol=1e-5)
    assert jax.tree.leaves(bdl.partition(weighted)[0]) == []


TAILS = {
    dist.Normal: (dist.Normal(0.5, 2.0), stats.norm(0.5, 2.0)),
    dist.Laplace: (dist.Laplace(0.5, 2.0), stats.laplace(0.5, 2.0)),
    dist.Logistic: (dist.Logistic(0.5, 2.0), stats.logistic(0.5, 2.0)),
    dist.Exponential: (dist.Exponential(0.5), stats.expon(scale=2.0)),
    dist.LogNormal: (dist.LogNormal(0.5, 2.0), stats.lognorm(2.0, scale=np.exp(0.5))),
    dist.Weibull: (dist.Weibull(2.0, 1.5), stats.weibull_min(1.5, scale=2.0)),
}


@pytest.mark.parametrize("kind", _LOG_SURVIVAL)
def test_log_survival_functions_are_scipys(kind):
    ours, theirs = TAILS[kind]
    y = np.array([0.01, 0.5, 3.0, 16.4, 16.6, 40.0, 500.0])
    found = jax.jit(lambda y: log_survival(ours, y))(jnp.asarray(y, jnp.float32))
    np.testing.assert_allclose(found, theirs.logsf(y), rtol=3e-5, atol=1e-6)
    gradient = jax.jit(jax.vmap(jax.grad(lambda v: log_survival(ours, v))))(jnp.asarray(y, jnp.float32))
    hazard = -np.exp(theirs.logpdf(y) - theirs.logsf(y))  # d log S / dy = −p / S
    np.testing.assert_allclose(gradient, hazard, rtol=2e-4)


def test_censored_observations_say_that_the_target_is_larger():
    likelihood = likelihoods.censored(likelihoods.HeteroscedasticNormal())
    is_censored = np.arange(12).reshape(6, 2) % 3 == 0
    model_of(likelihood).check_targets(jnp.asarray(HEADS), (Y, is_censored))
    found = log_likelihood(likelihood, HEADS, (Y, is_censored))
    exact = np.where(is_censored, stats.norm.logsf(Y, LOC, B), stats.norm.logpdf(Y, LOC, B)).sum(1)
    np.testing.assert_allclose(found, exact, rtol=1e-4)
    gradient = jax.jit(jax.grad(lambda o: log_likelihood(likelihood, o, (Y, is_censored)).sum()))
    for extreme in (-20.0, 20.0):
        assert bool(np.isfinite(gradient(jnp.full((6, 4), extreme))).all())
    both = likelihoods.masked(likelihood)
    observed = np.arange(12).reshape(6, 2) % 2 == 0
    elements = np.where(is_censored, stats.norm.logsf(Y, LOC, B), stats.norm.logpdf(Y, LOC, B))
    found = log_likelihood(both, HEADS, ((np.where(observed, Y, np.nan), is_censored), observed))
    np.testing.assert_allclose(found, np.where(observed, elements, 0).sum(1), rtol=1e-4)
    # Censoring at a constant, by maximum likelihood: the mean of what is behind it is found again.
    y = 1.0 + np.random.default_rng(2).normal(size=(5000, 1)).astype(np.float32)
    flags, seen = y > 1.5, np.minimum(y, 1.5)
    loss = lambda f: (
        -log_likelihood(likelihoods.censored(likelihoods.Normal(1.0)), f * jnp.ones((5000, 1)), (seen, flags)).mean()
    )
    mean, gradient = jnp.zeros(()), jax.jit(jax.grad(loss))
    for _ in range(20):
        mean -= gradient(mean)
    assert abs(float(mean) - 1.0) < 5 * 1.3 / np.sqrt(5000)


# Errors


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: likelihoods.HeteroscedasticNormal(beta=2.0), ValueError, "`beta` in [0, 1], got 2.0"),
        (lambda: likelihoods.HeteroscedasticNormal(beta=0.5, fixed_scale=1.0), ValueError, "Leave one of them out"),
        (lambda: likelihoods.HeteroscedasticNormal(fixed_scale=0.0), ValueError, "`fixed_scale` must be positive"),
        (
            lambda: likelihoods.HeteroscedasticNormal()(jnp.array([[0.0, jnp.nan]])),
            ValueError,
            "the log variance is nan at [0, 0]. The network's outputs are not finite",
        ),
        (lambda: likelihoods.HeteroscedasticLaplace()(jnp.zeros((5, 3))), ValueError, "Give its last layer 2 units"),
        (lambda: likelihoods.HeteroscedasticStudentT()(jnp.zeros((5, 3))), ValueError, "StudentT splits"),
        (lambda: likelihoods.StudentT(df=0.0), ValueError, "`df` must be positive"),
        (lambda: likelihoods.NegativeBinomial(None)(jnp.zeros((5, 3))), ValueError, "log concentration"),
        (lambda: likelihoods.HeteroscedasticCategorical(0), ValueError, "`num_samples` as a whole number >= 1"),
        (lambda: likelihoods.HeteroscedasticCategorical(temperature=0.0), ValueError, "must be positive"),
        (lambda: likelihoods.HeteroscedasticCategorical()(jnp.zeros((5, 6))), ValueError, "needs a `key`"),
        (
            lambda: likelihoods.HeteroscedasticCategorical()(jnp.zeros((5, 7)), key=jax.random.key(0)),
            ValueError,
            "have shape (5, 7). Give its last layer 2 units",
        ),
        (
            lambda: likelihoods.HeteroscedasticCategorical(rank=1)((LOC, S), key=jax.random.key(0)),
            ValueError,
            "as a triple or side by side in 3 K columns",
        ),
        (lambda: likelihoods.Ordinal(1), ValueError, "at least 2, got 1"),
        (lambda: likelihoods.Ordinal(3, cutpoints=[1.0, 0.0]), ValueError, "2 increasing `cutpoints`"),
        (lambda: likelihoods.Ordinal(3)(jnp.zeros((5, 3))), ValueError, "Give its last layer one unit"),
        (lambda: likelihoods.MultivariateNormal([[1.0, 2.0], [2.0, 1.0]]), ValueError, "positive definite"),
        (lambda: likelihoods.MultivariateNormal(np.eye(2))(jnp.zeros((5, 3))), ValueError, "have shape (5, 3)"),
        (lambda: likelihoods.HeteroscedasticMultivariateNormal("diagonal"), ValueError, 'expected `covariance` "full"'),
        (lambda: likelihoods.HeteroscedasticMultivariateNormal("low_rank"), ValueError, "`rank` of at least 1"),
        (lambda: likelihoods.HeteroscedasticMultivariateNormal()(jnp.zeros((5, 4))), ValueError, "K (K + 3) / 2 col"),
        (lambda: likelihoods.class_weighted(likelihoods.Categorical(), [1.0, 0.0]), ValueError, "a positive weight"),
        (
            lambda: likelihoods.class_weighted(likelihoods.masked(likelihoods.Categorical(), 255), [1.0, 2.0]),
            ValueError,
            "Weigh inside of the mask",
        ),
    ],
)  # fmt: skip
def test_errors_of_likelihoods_name_the_edit(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()


NORMAL, CLASSES = likelihoods.Normal(), likelihoods.Categorical()
FLAGS = np.ones((6, 2), bool)


@pytest.mark.parametrize(
    ("likelihood", "y", "error", "message"),
    [
        (NORMAL, (Y, FLAGS), ValueError, "takes the targets as one array, got 2 of them"),
        (likelihoods.masked(NORMAL), Y, ValueError, "takes the targets as a pair (y, observed), got ndarray"),
        (likelihoods.masked(NORMAL), (Y, FLAGS, FLAGS), ValueError, "a pair (y, observed), got 3 of them"),
        (likelihoods.masked(NORMAL), (Y, FLAGS.astype(int)), ValueError, "Pass the pair (y, observed.astype(bool))"),
        (likelihoods.masked(NORMAL), (Y, FLAGS[:, 0]), ValueError, "observed has shape (6,), expected (6, 2)"),
        (likelihoods.masked(NORMAL), (Y, FLAGS[:, 0]), ValueError, "Pass np.repeat(observed[..., None], 2, axis=-1)."),
        (likelihoods.masked(NORMAL), (Y[:, :1], FLAGS), ValueError, "the targets have shape (6, 1)"),
        (likelihoods.masked(NORMAL), (Y, np.arange(6)[:, None] != [[3, 3]]), ValueError, "at row 3, and of 1 of 6"),
        (likelihoods.masked(NORMAL, void=np.nan), Y * np.nan, ValueError, "of 6 of 6 examples"),
        (likelihoods.masked(NORMAL, void=-1.0), Y * np.nan, ValueError, "the targets is nan at row 0"),
        (likelihoods.masked(NORMAL, void=-1.0), (Y, FLAGS), ValueError, "For a pair (y, observed) leave void out"),
        (likelihoods.masked(CLASSES, void=9), np.array([0, 1, 2, 0, 0, 0]), ValueError, "2 at row 2, outside of"),
        (likelihoods.censored(NORMAL), Y, ValueError, "takes the targets as a pair (y, is_censored)"),
        (likelihoods.censored(likelihoods.StudentT()), (Y, FLAGS), TypeError, "StudentT has no log survival function"),
        (likelihoods.class_weighted(CLASSES, [1.0, 2.0]), np.array([0, 1, 0, 0, 0, 5]), ValueError, "5 at row 5"),
        (likelihoods.class_weighted(CLASSES, [1.0, 2.0, 3.0]), np.zeros(6, int), ValueError, "3 weights, but"),
        (likelihoods.class_weighted(NORMAL, [1.0, 2.0]), Y, ValueError, "the likelihood has no classes"),
        (likelihoods.Bernoulli(), Y, TypeError, "Pass y.astype(int)"),
        (CLASSES, FLAGS[:, 0], TypeError, "the targets are bool. Pass y.astype(int)"),
        (likelihoods.Bernoulli(), COUNTS, ValueError, "the values this likelihood can take"),
        (likelihoods.Poisson(), -COUNTS - 1, ValueError, "the values this likelihood can take"),
        (likelihoods.HeteroscedasticNormal(), Y, ValueError, "but the likelihood of the outputs has (6, 1)"),
    ],
)  # fmt: skip
def test_errors_of_targets_name_the_edit(likelihood, y, error, message):
    """`fit` says them before it starts, `log_predictive` before it scores."""
    model, x = model_of(likelihood), jnp.ones((6, 3))
    posterior = bdl.variational({"w": jnp.zeros((3, 2))}, bdl.families.point)
    with pytest.raises(error, match=re.escape(message)):
        bdl.fit(KEY, ALGORITHM, posterior, model, (x, y), num_steps=1, progress=False)
    with pytest.raises(error, match=re.escape(message)):
        bdl.log_predictive(KEY, posterior, model, (x, y))


ALGORITHM = bdl.inference.map(optax.adam(1e-3))
