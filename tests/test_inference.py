"""Inference on the whole main path: what moves, what stays, and extension points of a user's own."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import bdl

rng = np.random.default_rng(0)
X = jnp.asarray(rng.normal(size=(103, 3)), jnp.float32)
Y = X @ jnp.array([[1.0], [-0.5], [0.25]]) + 0.3 * jnp.asarray(rng.normal(size=(103, 1)), jnp.float32)
network = bdl.network(lambda p, x: x @ p["kernel"] + p["bias"], {"kernel": jnp.zeros((3, 1)), "bias": jnp.zeros(1)})


def fit(algorithm, posterior, model, steps=300, seed=0):
    return bdl.fit(jax.random.key(seed), algorithm, posterior, model, (X, Y), num_steps=steps, progress=False)


def test_numbers_handed_over_are_the_same_bits_after_weight_decay():
    posterior = bdl.variational(network.params, {"kernel": bdl.families.bernoulli_dropout(0.123)})
    model = bdl.Model(network, bdl.likelihoods.Normal(scale=0.456), bdl.priors.normal(0.0, scale=0.789))
    fitted = fit(bdl.inference.vi(optax.adamw(1e-2, weight_decay=0.5)), posterior, model)
    assert fitted.posterior.tree["kernel"].rate == posterior.tree["kernel"].rate
    before, after = (jax.tree.leaves(eqx.filter((m.likelihood, m.prior), eqx.is_array)) for m in (model, fitted.model))
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert len(before) == 3
    assert not np.array_equal(fitted.posterior.tree["kernel"].kernel, posterior.tree["kernel"].kernel)


def test_map_of_a_linear_network_is_ridge_regression():
    model = bdl.Model(network, bdl.likelihoods.Normal(scale=0.3), {"kernel": dist.Normal(0.0, 0.2)})
    posterior = bdl.variational(network.params, bdl.families.point)
    fitted = fit(bdl.inference.map(optax.adam(optax.cosine_decay_schedule(0.05, 1500))), posterior, model, 1500)
    design = np.hstack([np.asarray(X, np.float64), np.ones((103, 1))])
    penalty = np.diag([1 / 0.2**2] * 3 + [0.0])
    exact = np.linalg.solve(design.T @ design / 0.3**2 + penalty, design.T @ np.asarray(Y, np.float64) / 0.3**2)
    found = np.concatenate([fitted.posterior.tree["kernel"], fitted.posterior.tree["bias"][None]])
    np.testing.assert_allclose(found, exact, atol=2e-3)
    with pytest.raises(ValueError, match="point masses.*kernel"):
        fit(bdl.inference.map(optax.adam(0.1)), bdl.variational(network.params, bdl.families.normal()), model)


def test_a_learned_noise_scale_finds_the_truth():
    model = bdl.Model(network, bdl.likelihoods.Normal(scale=bdl.learned(1.0)), bdl.priors.normal())
    posterior = bdl.variational(network.params, bdl.families.normal(0.05))
    fitted = fit(bdl.inference.vi(optax.adam(0.02)), posterior, model, 1000)
    residuals = Y - (X @ fitted.posterior.tree["kernel"].mean + fitted.posterior.tree["bias"].mean)
    assert abs(float(fitted.model.likelihood.scale) - float(residuals.std())) < 0.03


def test_a_schedule_of_the_kl_weight_and_what_bounds_the_evidence():
    posterior = bdl.variational(network.params, bdl.families.normal(0.05))
    model = bdl.Model(network, bdl.likelihoods.Normal(scale=0.3))
    algorithm = bdl.inference.vi(optax.sgd(0.0), kl_weight=optax.linear_schedule(0.0, 1.0, 4), noise="shared")
    history = fit(algorithm, posterior, model, 6).history
    weights = (history.log_likelihood - history.elbo) / history.kl
    np.testing.assert_allclose(weights, [0, 0.25, 0.5, 0.75, 1, 1], atol=1e-4)
    bounds = lambda q, **kw: bdl.elbo(jax.random.key(0), q, model, (X, Y), num_data=103, **kw).is_bound
    assert bounds(posterior)
    assert not bounds(posterior, kl_weight=0.5)
    assert not bounds(bdl.variational(network.params, {"kernel": bdl.families.normal()}))
    assert not bounds(bdl.variational(network.params, {"kernel": bdl.families.bernoulli_dropout(0.1)}))


class TwoMembers(eqx.Module):
    """A posterior of a user's own: it can draw weights, and nothing else."""

    first: dict
    second: dict

    def sample(self, key):
        return jax.tree.map(
            lambda a, b: jnp.where(jax.random.bernoulli(jax.random.clone(key)), a, b), self.first, self.second
        )


def test_a_posterior_of_ones_own_predicts_and_has_an_elbo_only_with_a_density():
    first, second = ({"kernel": jnp.full((3, 1), v), "bias": jnp.zeros(1)} for v in (1.0, 2.0))
    posterior = TwoMembers(first, second)
    bdl.testing.check_posterior(posterior, first)
    model = bdl.Model(network, bdl.likelihoods.Normal(scale=0.1))
    found = bdl.predict(jax.random.key(0), posterior, model, jnp.ones((1, 3)), num_samples=2000)
    assert abs(float(found.mean[0, 0]) - 4.5) < 5 * 1.5 / np.sqrt(2000)
    np.testing.assert_allclose(found.epistemic, 1.5**2, rtol=0.05)
    with pytest.raises(ValueError, match="log_prob"):
        bdl.elbo(jax.random.key(0), posterior, model, (X, Y), num_data=103, noise="shared")
    with pytest.raises(ValueError, match="shared"):
        bdl.elbo(jax.random.key(0), posterior, model, (X, Y), num_data=103)


def test_ragged_batches_give_what_one_batch_gives():
    posterior = bdl.variational(network.params, bdl.families.normal(0.3))
    model = bdl.Model(network, bdl.likelihoods.Normal(scale=0.5))
    run = lambda i, j: bdl.log_predictive(jax.random.key(1), posterior, model, (X[i:j], Y[i:j]), num_samples=20)
    parts = np.concatenate([run(i, i + 25) for i in range(0, 103, 25)])
    assert parts.shape == (103,)
    np.testing.assert_allclose(parts, run(0, 103), rtol=1e-4, atol=1e-5)


def test_targets_that_do_not_match_are_refused():
    posterior = bdl.variational(network.params, bdl.families.normal())
    model = bdl.Model(network, bdl.likelihoods.Normal())
    vi = bdl.inference.vi(optax.adam(0.1))
    with pytest.raises(ValueError, match=r"y\[:, None\]"):
        bdl.fit(jax.random.key(0), vi, posterior, model, (X, Y[:, 0]), num_steps=2)
    with pytest.raises(ValueError, match="row 4"):
        bdl.fit(jax.random.key(0), vi, posterior, model, (X, Y.at[4, 0].set(jnp.inf)), num_steps=2)
    with pytest.raises(ValueError, match="num_data"):
        bdl.elbo(jax.random.key(0), posterior, model, (X, Y), num_data=0)
    with pytest.raises(ValueError, match="empty"):
        bdl.fit(jax.random.key(0), vi, posterior, model, (X[:0], Y[:0]), num_steps=2)
    classes = bdl.Model(bdl.network(lambda p, x: x @ p["w"], {"w": jnp.zeros((3, 4))}), bdl.likelihoods.Categorical())
    q = bdl.variational({"w": jnp.zeros((3, 4))}, bdl.families.normal())
    labels = jnp.zeros(103, int).at[7].set(4)
    with pytest.raises(ValueError, match=r"row 7.*\[0, 3\]"):
        bdl.fit(jax.random.key(0), vi, q, classes, (X, labels), num_steps=2)
    with pytest.raises(TypeError, match=r"astype\(int\)"):
        bdl.fit(jax.random.key(0), vi, q, classes, (X, labels.astype(float) * 0), num_steps=2)
