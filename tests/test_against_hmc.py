"""Fitted posteriors against the truth: the exact posterior of a linear model, and the benchmark against NUTS."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bdl

N, D, SCALE, PRIOR = 60, 4, 0.5, 0.8


@pytest.fixture(scope="module")
def hmc(load_benchmark):
    return load_benchmark("hmc")


def linear_model():
    """Data with correlated inputs, the model, and its exact posterior in float64: mean, covariance, log evidence."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, D)) @ (np.eye(D) + np.diag([0.9, -0.7, 0.8], 1))
    y = x @ np.array([1.0, -0.5, 0.3, 0.0]) + SCALE * rng.normal(size=N)
    covariance = np.linalg.inv(x.T @ x / SCALE**2 + np.eye(D) / PRIOR**2)
    mean = covariance @ x.T @ y / SCALE**2
    marginal = SCALE**2 * np.eye(N) + PRIOR**2 * x @ x.T
    evidence = -0.5 * (y @ np.linalg.solve(marginal, y) + np.linalg.slogdet(2 * np.pi * marginal)[1])

    network = bdl.network(lambda params, x: x @ params["w"], {"w": jnp.zeros((D, 1))})
    model = bdl.Model(network, bdl.likelihoods.Normal(SCALE), bdl.priors.normal(scale=PRIOR))
    data = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)[:, None]
    return network.params, model, data, mean, covariance, evidence


def test_full_normal_reaches_the_exact_posterior_of_a_linear_model():
    params, model, data, mean, covariance, evidence = linear_model()
    scales = np.sqrt(np.diag(covariance))
    correlation = covariance / np.outer(scales, scales)
    assert np.abs(np.tril(correlation, -1)).max() > 0.5  # mean field could not say this
    adam = optax.adam(optax.cosine_decay_schedule(0.03, 3000))
    # The gradient of this estimator has no variance where q is the exact posterior, so that the fit ends there.
    objective = functools.partial(bdl.elbo, sticking_the_landing=True)
    algorithm = bdl.inference.vi(adam, noise="shared", objective=objective)
    posterior = bdl.variational(params, bdl.families.full_normal(0.1))
    fitted = bdl.fit(jax.random.key(0), algorithm, posterior, model, data, num_steps=3000, progress=False)

    family = fitted.posterior.tree["w"]
    np.testing.assert_allclose(family.mean[:, 0], mean, atol=0.01 * scales.min())
    found = np.asarray(family.cholesky @ family.cholesky.T) / np.outer(scales, scales)
    np.testing.assert_allclose(found, correlation, atol=0.005)
    one = lambda key: (
        bdl.elbo(key, fitted.posterior, model, data, num_data=N, noise="shared", sticking_the_landing=True).elbo
    )
    values = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), 200)), np.float64)
    # Where q is exact, log p(y, w) − log q(w) is the evidence for every w.
    np.testing.assert_allclose(values, evidence, atol=0.02)
    assert abs(values.mean() - evidence) < 0.002


def test_scores_of_known_distributions(hmc):
    rng = np.random.default_rng(0)
    truth = np.array([1.0, -2.0]) + np.array([0.5, 3.0]) * rng.normal(size=(4000, 2))
    y = jnp.array([[1.3], [-2.0]])
    zeros = jnp.zeros((1, 1))
    problem = hmc.Problem("made up", zeros, zeros, zeros, y, unit=2.0, noise=0.7)
    m, s = truth.mean(0), truth.std(0)

    same = hmc.scores(truth, truth, problem)
    assert same["mean"] == same["wasserstein"] == 0
    assert same["spread"] == pytest.approx(1)
    # The predictive density is Normal(m, s² + noise²); the targets are 2 times as large in their own units.
    total = np.sqrt(s**2 + 0.7**2)
    expected = -0.5 * ((y[:, 0] - m) / total) ** 2 - np.log(total * np.sqrt(2 * np.pi)) - np.log(2.0)
    assert same["log_likelihood"] == pytest.approx(float(expected.mean()), abs=0.02)

    moved = hmc.scores(truth + np.array([1.0, -2.0]) * s, truth, problem)
    assert moved["mean"] == pytest.approx(1.5)
    assert moved["wasserstein"] == pytest.approx(1.5)
    wide = hmc.scores(m + 2 * (truth - m), truth, problem)
    assert wide["mean"] == pytest.approx(0, abs=1e-9)
    assert wide["spread"] == pytest.approx(2)
    assert wide["wasserstein"] == pytest.approx(np.sqrt(2 / np.pi), rel=0.03)  # E|z| (2 − 1)
    point = hmc.scores(m[None], truth, problem)
    assert point["spread"] == 0
    assert point["wasserstein"] == pytest.approx(np.sqrt(2 / np.pi), rel=0.03)


def test_the_log_likelihood_is_that_of_log_predictive(hmc):
    params, model, (x, y), *_ = linear_model()
    posterior, key = bdl.variational(params, bdl.families.normal(0.3)), jax.random.key(0)
    draws = bdl.predict(key, posterior, model, x, num_samples=50, return_draws=True).draws[..., 0]
    problem = hmc.Problem("line", x, y, x, y, unit=3.0, noise=SCALE)
    found = hmc.scores(draws, draws, problem)["log_likelihood"]
    expected = bdl.log_predictive(key, posterior, model, (x, y), num_samples=50).mean() - np.log(3.0)
    assert found == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.slow
def test_the_benchmark_runs_and_does_not_run_again_what_it_has(hmc, tmp_path, capsys):
    methods = ["normal", "batch_ensemble(10)", "numpyro AutoNormal"]
    command = ["--sets", "diabetes", "--fast", "--cache", str(tmp_path), "--output", str(tmp_path), "--methods"]
    with jax.debug_key_reuse(False):  # numpyro's NUTS uses one twice
        rows = hmc.main([*command, *methods])["diabetes"]
    assert list(rows) == ["NUTS", "NUTS again", "MAP", "ensemble of 10 MAP", *methods]
    assert rows["NUTS"]["mean"] == rows["NUTS"]["wasserstein"] == 0
    assert 0 < rows["NUTS again"]["wasserstein"] < rows["MAP"]["wasserstein"]
    assert rows["MAP"]["spread"] == 0
    assert [rows[name]["is_bound"] for name in methods] == [True, False, True]
    # At the start, where twenty steps lead nearly nowhere, the two mean fields are the same.
    ours, theirs = rows["normal"]["objective_half"], rows["numpyro AutoNormal"]["objective_half"]
    assert ours == pytest.approx(theirs, rel=0.2)
    assert all(np.isfinite(row["log_likelihood"]) for row in rows.values())
    out = capsys.readouterr().out
    assert "| batch_ensemble(10) |" in out
    assert out.count("NUTS chain") == 4

    saved = json.loads((tmp_path / "hmc.json").read_text())
    assert saved["diabetes"] == json.loads(json.dumps(rows))
    assert hmc.main([*command, *methods])["diabetes"] == saved["diabetes"]
    assert "NUTS chain" not in capsys.readouterr().out
