"""Hierarchical priors: numbers of a model with a prior of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
import scipy.stats

import bdl
from bdl import testing
from bdl._hyper import draw_hypers

key = jax.random.key(0)


def keys(seed, count):
    return jax.random.split(jax.random.key(seed), count)


def test_a_number_pays_for_its_divergence_from_the_hyper_prior():
    number = bdl.priors.hyper(dist.HalfCauchy(0.7), initial=1.5, scale=0.4)
    values, kl = jax.jit(jax.vmap(number.draw))(keys(1, 20_000))
    assert float(values.min()) > 0
    np.testing.assert_allclose(jnp.log(values).std(), 0.4, rtol=0.03)
    u = np.linspace(-6, 6, 40_001)
    q = scipy.stats.norm.pdf(u, np.log(1.5), 0.4)
    log_p = scipy.stats.halfcauchy.logpdf(np.exp(u), scale=0.7) + u
    exact = np.sum(q * (scipy.stats.norm.logpdf(u, np.log(1.5), 0.4) - log_p)) * (u[1] - u[0])
    assert abs(float(kl.mean()) - exact) < 5 * float(kl.std()) / np.sqrt(20_000)


def test_it_starts_at_the_median_and_shows_it():
    assert abs(float(bdl.priors.hyper(dist.HalfCauchy(2.0)).value) - 2.0) < 1e-5
    assert float(bdl.priors.hyper(dist.Gamma(2.0, 1.0), initial=0.5).value) == pytest.approx(0.5)
    prior = bdl.priors.fan_in(gain=bdl.priors.hyper(dist.HalfNormal(1.0), initial=0.5))
    np.testing.assert_allclose(prior.distribution("w", jnp.zeros((8, 3))).scale, 0.25, rtol=1e-5)
    with pytest.raises(ValueError, match="support"):
        bdl.priors.hyper(dist.HalfCauchy(1.0), initial=-1.0)
    with pytest.raises(ValueError, match="Positive"):
        bdl.priors.iid(dist.Normal, loc=0.0, scale=bdl.priors.hyper(dist.Normal(0.0, 1.0), initial=-1.0))


def linear_data(weights, rows, noise, seed=2):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, len(weights)))
    y = x @ weights[:, None] + noise * rng.normal(size=(rows, 1))
    return jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)


def fit(prior, data, likelihood=None, num_steps=600):
    network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.zeros((data[0].shape[1], 1))})
    model = bdl.Model(network, likelihood or bdl.likelihoods.Normal(scale=0.3), prior)
    posterior = bdl.variational(network.params, bdl.families.normal(scale=0.05))
    algorithm = bdl.inference.vi(optax.adam(optax.cosine_decay_schedule(0.03, num_steps)))
    return bdl.fit(key, algorithm, posterior, model, data, num_steps=num_steps, batch_size=len(data[0]), progress=False)


def test_the_scale_of_weights_is_found_with_its_uncertainty():
    weights = 0.4 * np.random.default_rng(3).normal(size=50)
    number = bdl.priors.hyper(dist.HalfCauchy(1.0))
    fitted = fit(bdl.priors.iid(dist.Normal, loc=0.0, scale=number), linear_data(weights, 400, 0.3))
    found = fitted.model.prior.stored.arguments["scale"]
    rms = float(np.sqrt(np.mean(weights**2)))
    # p(scale | weights) has a relative standard deviation of about 1 / √(2 · 50).
    assert abs(np.log(float(found.value) / rms)) < 0.1
    assert 0.07 < float(jnp.exp(found.log_scale)) < 0.14


@pytest.mark.slow
def test_a_horseshoe_shrinks_what_is_nothing_and_leaves_what_is_something():
    weights = np.zeros(40)
    weights[:4] = [2.0, -1.5, 1.0, 2.5]
    data = linear_data(weights, 60, 0.3)
    params = {"w": jnp.zeros((40, 1))}
    sparse = fit(bdl.priors.horseshoe(params, scale=0.1), data, num_steps=1500).posterior.tree["w"]
    plain = fit(bdl.priors.normal(scale=1.0), data).posterior.tree["w"]
    error = lambda f: float(jnp.abs(f.loc[4:, 0]).mean())
    assert error(sparse) < 0.6 * error(plain)
    np.testing.assert_allclose(sparse.loc[:4, 0], weights[:4], atol=0.25)


@pytest.mark.slow
def test_noise_of_a_likelihood_can_have_a_prior_too():
    data = linear_data(np.array([1.0, -1.0]), 200, 0.5)
    likelihood = bdl.likelihoods.Normal(scale=bdl.priors.hyper(dist.HalfCauchy(1.0)))
    fitted = fit(bdl.priors.normal(), data, likelihood)
    number = fitted.model.likelihood.log_scale
    assert abs(float(number.value) - 0.5) < 0.08
    prediction = bdl.predict(key, fitted.posterior, fitted.model, data[0][:3], num_samples=2000)
    # E[scale²] of a log-normal.
    expected = float(number.value**2 * jnp.exp(2 * jnp.exp(2 * number.log_scale)))
    np.testing.assert_allclose(prediction.aleatoric, expected, rtol=0.02)
    assert bool(np.isfinite(bdl.log_predictive(key, fitted.posterior, fitted.model, data, num_samples=16)).all())


def test_what_has_no_density_cannot_have_a_hyper_prior():
    params = {"w": jnp.ones((3, 2))}
    prior = bdl.priors.iid(dist.Normal, loc=0.0, scale=bdl.priors.hyper(dist.HalfCauchy(1.0)))
    for initialiser in (bdl.families.point, bdl.families.bernoulli_dropout(0.1)):
        with pytest.raises(ValueError, match="without bound"):
            bdl.kl(key, bdl.variational(params, initialiser), prior)


def test_hierarchical_priors_are_priors(tmp_path):
    params = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
    number = bdl.priors.hyper(dist.HalfCauchy(1.0))
    prior = bdl.priors.by_path(
        {"w": bdl.priors.horseshoe(params, paths="w"), "b": bdl.priors.iid(dist.Normal, loc=0.0, scale=number)}
    )
    testing.check_prior(prior, params)
    network = bdl.network(lambda p, x: x @ p["w"] + p["b"], params)
    model = bdl.Model(network, bdl.likelihoods.Normal(), prior)
    posterior = bdl.variational(params, bdl.families.normal())
    bdl.save(tmp_path / "file.npz", posterior, model)
    _, loaded = bdl.load(tmp_path / "file.npz", like=(posterior, model))
    assert jax.tree.structure(loaded) == jax.tree.structure(model)
    drawn, kl = draw_hypers(key, model.prior)
    assert bool(np.isfinite(drawn.log_prob(params)))
    assert kl.shape == ()
    learned = jax.tree.leaves(bdl.partition(model)[0])
    assert len(learned) == 2 * (2 + 1)  # loc and log_scale of two scales of the horseshoe and of one of the bias
