"""The main path against closed forms: a linear network with a Normal likelihood and prior."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import bdl

N, D, SCALE, PRIOR = 60, 4, 0.5, 0.8
rng = np.random.default_rng(0)
X = rng.normal(size=(N, D)) @ np.array([[1, 0.6, 0, 0], [0, 1, 0.4, 0], [0, 0, 1, 0.2], [0, 0, 0, 1]])
Y = X @ np.array([1.0, -0.5, 0.3, 0.0])[:, None] + SCALE * rng.normal(size=(N, 1))

# The exact posterior, in float64: precision P, mean, and log evidence.
P = X.T @ X / SCALE**2 + np.eye(D) / PRIOR**2
MEAN = np.linalg.solve(P, X.T @ Y / SCALE**2)[:, 0]
COVARIANCE = SCALE**2 * np.eye(N) + PRIOR**2 * X @ X.T
EVIDENCE = -0.5 * (
    Y[:, 0] @ np.linalg.solve(COVARIANCE, Y[:, 0]) + np.linalg.slogdet(COVARIANCE)[1] + N * np.log(2 * np.pi)
)

network = bdl.network(lambda params, x: x @ params["w"], {"w": jnp.zeros((D, 1))})
model = bdl.Model(network, bdl.likelihoods.Normal(scale=SCALE), bdl.priors.normal(scale=PRIOR))
data = (jnp.asarray(X, jnp.float32), jnp.asarray(Y, jnp.float32))


def optimum():
    """The best mean-field posterior: the exact mean, and variances 1 / Pᵢᵢ."""
    family = bdl.families.NormalFamily(
        jnp.asarray(MEAN, jnp.float32)[:, None], jnp.asarray(-0.5 * np.log(np.diag(P)), jnp.float32)[:, None]
    )
    return bdl.posteriors.Factorised({"w": family})


def test_the_elbo_misses_the_evidence_by_what_mean_field_cannot_say():
    gap = 0.5 * (np.log(np.diag(P)).sum() - np.linalg.slogdet(P)[1])
    assert gap > 0.3  # the test is not about a diagonal P
    one = lambda k: bdl.elbo(k, optimum(), model, data, num_data=N)
    terms = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), 4000))
    assert terms.is_bound
    values = np.asarray(terms.elbo, np.float64)
    assert abs(values.mean() - (EVIDENCE - gap)) < 5 * values.std() / np.sqrt(len(values))


def test_shared_and_local_noise_estimate_the_same_elbo():
    values = {}
    for noise in ("local", "shared"):
        one = lambda k, noise=noise: bdl.elbo(k, optimum(), model, data, num_data=N, noise=noise).elbo
        values[noise] = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(2), 2000)), np.float64)
    error = np.hypot(*(v.std() / np.sqrt(len(v)) for v in values.values()))
    assert abs(values["local"].mean() - values["shared"].mean()) < 5 * error


def test_minibatches_with_one_shared_draw_average_to_the_full_batch():
    key = jax.random.key(3)
    estimate = jax.jit(lambda batch: bdl.elbo(key, optimum(), model, batch, num_data=N, noise="shared").elbo)
    parts = [estimate((data[0][i : i + 20], data[1][i : i + 20])) for i in range(0, N, 20)]
    np.testing.assert_allclose(np.mean(parts), estimate(data), rtol=1e-5)


@pytest.mark.parametrize("noise", ["local", "shared"])
def test_fit_finds_the_optimum(noise):
    posterior = bdl.variational(network.params, bdl.families.normal(scale=0.1))
    schedule = optax.cosine_decay_schedule(0.03, 3000)
    algorithm = bdl.inference.vi(optax.adam(schedule), noise=noise, num_samples=4)
    fitted = bdl.fit(jax.random.key(4), algorithm, posterior, model, data, num_steps=3000, progress=False)
    family = fitted.posterior.tree["w"]
    best = 1 / np.sqrt(np.diag(P))
    np.testing.assert_allclose(family.loc[:, 0], MEAN, atol=0.1 * best.min())
    np.testing.assert_allclose(family.scale[:, 0], best, rtol=0.05)


def test_predict_gives_the_analytic_moments():
    x = data[0][:10]
    prediction = bdl.predict(jax.random.key(5), optimum(), model, x, num_samples=20_000)
    x64 = np.asarray(x, np.float64)
    mean, epistemic = x64 @ MEAN, (x64**2) @ (1 / np.diag(P))
    assert np.all(np.abs(prediction.mean[:, 0] - mean) < 5 * np.sqrt(epistemic / 20_000))
    assert np.all(np.abs(prediction.epistemic[:, 0] - epistemic) < 5 * epistemic * np.sqrt(2 / 20_000))
    np.testing.assert_allclose(prediction.aleatoric, SCALE**2, rtol=1e-6)
    np.testing.assert_allclose(prediction.variance, prediction.aleatoric + prediction.epistemic, rtol=1e-6)
    np.testing.assert_allclose(prediction.standard_error[:, 0], np.sqrt(epistemic / 20_000), rtol=0.1)
    log_density = bdl.log_predictive(jax.random.key(5), optimum(), model, (x, data[1][:10]), num_samples=20_000)
    exact = dist.Normal(mean, np.sqrt(epistemic + SCALE**2)).log_prob(np.asarray(data[1][:10, 0]))
    np.testing.assert_allclose(log_density, exact, atol=0.03)


def masks(rate, rows):
    """All masks of a layer, with their probabilities."""
    for kept in itertools.product([0, 1], repeat=rows):
        yield np.array(kept), np.prod([1 - rate if k else rate for k in kept])


@pytest.mark.parametrize("prior", [dist.Normal(0.0, 0.7), dist.Laplace(0.1, 0.5), dist.StudentT(3.0, 0.0, 1.0)])
def test_dropouts_quasi_kl_and_its_gradient_are_the_sum_over_all_masks(prior):
    rate, kernel = 0.25, jnp.asarray(rng.normal(size=(3, 2)), jnp.float32)

    def enumerated(m):
        total = 0.0
        for kept, probability in masks(rate, 3):
            w = m * jnp.asarray(kept, jnp.float32)[:, None] / (1 - rate)
            total = total + probability * (np.log(probability) - prior.log_prob(w).sum())
        return total

    def ours(m):
        posterior = bdl.variational({"w": m}, bdl.families.bernoulli_dropout(rate))
        return bdl.kl(jax.random.key(6), posterior, bdl.priors.as_prior(prior))

    np.testing.assert_allclose(ours(kernel), enumerated(kernel), rtol=1e-5)
    np.testing.assert_allclose(
        jax.jit(jax.grad(ours))(kernel), jax.jit(jax.grad(enumerated))(kernel), rtol=1e-4, atol=1e-5
    )


def test_dropouts_kl_under_a_normal_prior_is_weight_decay():
    # l² ‖m‖² / (2 (1 − rate)) up to a constant, for Normal(0, 1 / l).
    kernel, rate, length = jnp.asarray(rng.normal(size=(5, 3)), jnp.float32), 0.2, 2.0
    prior = bdl.priors.normal(scale=1 / length)
    kl = lambda m: bdl.kl(jax.random.key(7), bdl.variational({"w": m}, bdl.families.bernoulli_dropout(rate)), prior)
    np.testing.assert_allclose(jax.jit(jax.grad(kl))(kernel), length**2 * kernel / (1 - rate), rtol=1e-5)


def test_the_prediction_of_a_dropout_layer_has_its_closed_form():
    rate, count = 0.3, 20_000
    m = jnp.asarray(rng.normal(size=(6, 2)), jnp.float32)
    layer = bdl.network(lambda p, x: x @ p["w"], {"w": m})
    dropout = bdl.Model(layer, bdl.likelihoods.Normal(scale=0.1))
    posterior = bdl.variational({"w": m}, bdl.families.bernoulli_dropout(rate))
    x = jnp.asarray(rng.normal(size=(5, 6)), jnp.float32)
    for noise in ("shared", "local"):
        found = bdl.predict(jax.random.key(8), posterior, dropout, x, num_samples=count, noise=noise)
        # Var(x W) = Σᵢ xᵢ² mᵢ² rate / (1 − rate)
        variance = np.asarray((x**2) @ (m**2)) * rate / (1 - rate)
        assert np.all(np.abs(found.mean - x @ m) < 5 * np.sqrt(variance / count))
        assert np.all(np.abs(found.epistemic - variance) < 5 * variance * np.sqrt(2 / count) + 1e-4)
