"""Likelihoods: log-densities against SciPy, stable gradients, learned numbers, clear errors."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

from bdl import likelihoods
from bdl._learned import learned, partition

RNG = np.random.default_rng(0)
MEAN, TARGETS = RNG.normal(size=(2, 7, 2)).astype(np.float32)
LOG_VARIANCE = RNG.normal(size=(7, 2)).astype(np.float32)


def test_normal_is_scipys(strict_dtypes):
    targets = likelihoods.Normal(scale=0.3)(jnp.asarray(MEAN))
    np.testing.assert_allclose(targets.log_prob(TARGETS), stats.norm.logpdf(TARGETS, MEAN, 0.3), rtol=1e-4)
    np.testing.assert_array_equal(targets.mean, MEAN)
    np.testing.assert_allclose(targets.variance, np.full((7, 2), 0.09), rtol=1e-5)


def test_normal_takes_a_scale_for_each_column():
    targets = likelihoods.Normal(scale=[0.3, 2.0])(jnp.asarray(MEAN))
    np.testing.assert_allclose(targets.log_prob(TARGETS), stats.norm.logpdf(TARGETS, MEAN, [0.3, 2.0]), rtol=1e-4)


def test_normal_scale_is_fixed_unless_learned():
    assert jax.tree.leaves(partition(likelihoods.Normal(scale=0.3))[0]) == []
    (free,) = jax.tree.leaves(partition(likelihoods.Normal(scale=learned(0.3)))[0])
    np.testing.assert_allclose(jnp.exp(free), 0.3, rtol=1e-6)

    def log_prob(scale):
        return likelihoods.Normal(learned(scale))(jnp.asarray(MEAN)).log_prob(TARGETS).sum()

    exact = np.sum((TARGETS - MEAN) ** 2 / 0.3**3 - 1 / 0.3)
    np.testing.assert_allclose(jax.jit(jax.grad(log_prob))(0.3), exact, rtol=1e-4)


def test_one_trace_for_many_scales():
    traces = []

    @jax.jit
    def variance(likelihood):
        traces.append(None)
        return likelihood(jnp.zeros((1, 1))).variance

    found = [float(variance(likelihoods.Normal(scale))[0, 0]) for scale in (0.1, 1, 2.0, np.float64(3.0))]
    np.testing.assert_allclose(found, [0.01, 1.0, 4.0, 9.0], rtol=1e-5)
    assert len(traces) == 1


@pytest.mark.parametrize("form", ["columns", "pair"])
def test_heteroscedastic_normal_is_scipys(form, strict_dtypes):
    outputs = jnp.concatenate([MEAN, LOG_VARIANCE], axis=-1) if form == "columns" else (MEAN, LOG_VARIANCE)
    targets = likelihoods.HeteroscedasticNormal()(outputs)
    exact = stats.norm.logpdf(TARGETS, MEAN, np.exp(0.5 * LOG_VARIANCE))
    np.testing.assert_allclose(targets.log_prob(TARGETS), exact, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(targets.mean, MEAN)
    np.testing.assert_allclose(targets.variance, np.exp(LOG_VARIANCE), rtol=1e-5)


@pytest.mark.parametrize("s", [-1e9, -1e4, -20.0, 0.0, 20.0, 1e4, 1e9])
def test_heteroscedastic_gradients_are_finite_and_pull_back(s):
    """Gradient of the loss with respect to s is ½ − ½ exp(−s) (y − m)², also where s is clipped to ±30."""

    def loss(outputs):
        return -likelihoods.HeteroscedasticNormal()(outputs).log_prob(jnp.ones((1, 1))).sum()

    value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.array([[0.0, s]]))
    clipped = np.clip(s, -30.0, 30.0)
    np.testing.assert_allclose(value, 0.5 * np.exp(-clipped) + 0.5 * clipped + 0.5 * np.log(2 * np.pi), rtol=1e-4)
    np.testing.assert_allclose(gradient[0, 1], 0.5 - 0.5 * np.exp(-clipped), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(gradient[0, 0], -np.exp(-clipped), rtol=1e-4)


def test_categorical_is_the_softmax():
    logits, labels = RNG.normal(size=(6, 3, 4)).astype(np.float32), RNG.integers(0, 4, (6, 3))
    targets = likelihoods.Categorical()(jnp.asarray(logits))
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(targets.probs, probs, rtol=1e-5)
    exact = np.log(np.take_along_axis(probs, labels[..., None], -1)[..., 0])
    np.testing.assert_allclose(targets.log_prob(labels), exact, rtol=1e-4, atol=1e-6)
    gradient = jax.jit(jax.grad(lambda o: likelihoods.Categorical()(o).log_prob(0).sum()))(
        jnp.array([[-20.0, 20.0, 1e4]])
    )
    assert bool(np.isfinite(gradient).all())


def test_functions_are_likelihoods():
    plain = likelihoods.as_likelihood(lambda outputs: dist.Poisson(jnp.exp(outputs)))
    keyed = likelihoods.as_likelihood(lambda outputs, *, key: dist.Normal(outputs + jax.random.normal(key), 1.0))
    np.testing.assert_array_equal(plain(jnp.zeros(3)).mean, np.ones(3))
    assert float(keyed(jnp.zeros(1), key=jax.random.key(0)).mean[0]) == float(jax.random.normal(jax.random.key(0)))
    for likelihood in (plain, keyed, likelihoods.Normal(), likelihoods.Categorical()):
        assert isinstance(likelihood, likelihoods.Likelihood)
        assert likelihoods.as_likelihood(likelihood) is likelihood


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: likelihoods.Normal(scale=0.0), ValueError, "`scale` must be positive, got 0.0"),
        (lambda: likelihoods.Normal(scale=learned(-1.0)), ValueError, "`scale` must be positive, got -1.0"),
        (lambda: likelihoods.Normal(scale=[1.0, np.nan]), ValueError, "`scale` must be positive"),
        (lambda: likelihoods.HeteroscedasticNormal()(jnp.zeros((5, 3))), ValueError, r"shape \(5, 3\). Give its last"),
        (lambda: likelihoods.HeteroscedasticNormal()(jnp.zeros(4)), ValueError, r"shape \(4,\)"),
        (lambda: likelihoods.HeteroscedasticNormal()((MEAN, MEAN[:, :1])), ValueError, r"\(7, 2\), \(7, 1\)"),
        (lambda: likelihoods.Categorical()(jnp.zeros((5, 1))), ValueError, "K >= 2 classes"),
        (lambda: likelihoods.as_likelihood(likelihoods.Normal), TypeError, "Pass `bdl.likelihoods.Normal()`"),
        (lambda: likelihoods.as_likelihood("normal"), TypeError, "expected a likelihood"),
    ],
)
def test_errors_name_what_is_wrong(make, error, message):
    with pytest.raises(error, match=message.replace("()`", r"\(\)`")):
        make()
