"""Objectives beside the plain ELBO, on a linear network with one weight whose evidence is known."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import bdl
from bdl.networks._base import Network

N, SCALE, PRIOR = 12, 0.7, 0.9
rng = np.random.default_rng(1)
X = rng.normal(size=(N, 1))
Y = 0.8 * X + SCALE * rng.normal(size=(N, 1))
PRECISION = float((X**2).sum() / SCALE**2 + 1 / PRIOR**2)
MEAN = float((X * Y).sum() / SCALE**2 / PRECISION)
COVARIANCE = SCALE**2 * np.eye(N) + PRIOR**2 * X @ X.T
EVIDENCE = -0.5 * (
    Y[:, 0] @ np.linalg.solve(COVARIANCE, Y[:, 0]) + np.linalg.slogdet(COVARIANCE)[1] + N * np.log(2 * np.pi)
)

network = bdl.network(lambda params, x: x @ params["w"], {"w": jnp.zeros((1, 1))})
model = bdl.Model(network, bdl.likelihoods.Normal(scale=SCALE), bdl.priors.normal(scale=PRIOR))
data = jnp.asarray(X, jnp.float32), jnp.asarray(Y, jnp.float32)
key = jax.random.key(0)


def normal(loc, scale):
    family = bdl.families.NormalFamily(jnp.full((1, 1), loc), jnp.full((1, 1), jnp.log(scale)))
    return bdl.posteriors.Factorised({"w": family})


WIDE = normal(MEAN + 0.2, 2 / np.sqrt(PRECISION))


def estimates(objective, posterior, **options):
    one = lambda k: objective(k, posterior, model, data, num_data=N, **options)
    terms = jax.jit(jax.vmap(one))(jax.random.split(jax.random.clone(key), 3000))
    values = np.asarray(terms.elbo, np.float64)
    return values.mean(), 5 * values.std() / np.sqrt(len(values)), terms


def test_the_importance_weighted_bound_tightens_to_the_evidence():
    elbo, error, _ = estimates(bdl.elbo, WIDE, noise="shared")
    one, error_one, _ = estimates(bdl.objectives.iw_bound, WIDE, num_samples=1)
    assert abs(one - elbo) < error + error_one
    ten, error_ten, terms = estimates(bdl.objectives.iw_bound, WIDE, num_samples=10)
    many, error_many, _ = estimates(bdl.objectives.iw_bound, WIDE, num_samples=300)
    assert elbo + error < ten - error_ten < ten + error_ten < EVIDENCE
    assert abs(many - EVIDENCE) < error_many + 0.02  # a bias of about Var(weight) / (2 K)
    assert terms.is_bound


def test_the_importance_weighted_bound_refuses_what_is_no_bound():
    bound = functools.partial(bdl.objectives.iw_bound, key, WIDE, model, data)
    for options, message in (
        ({"num_data": 2 * N}, "all of the data"),
        ({"num_data": jnp.float32(N)}, "all of the data"),
        ({"num_data": N, "noise": "local"}, "shared"),
        ({"num_data": N, "kl_weight": 0.5}, "kl_weight"),
    ):
        with pytest.raises(ValueError, match=message):
            bound(**options)
    for prior, family in (
        (bdl.priors.flat(), bdl.families.normal()),
        (bdl.priors.log_uniform(), bdl.families.normal()),
        (bdl.priors.normal(), bdl.families.point),
        (bdl.priors.normal(), bdl.families.bernoulli_dropout(0.1)),
    ):
        other = bdl.Model(network, bdl.likelihoods.Normal(), prior)
        with pytest.raises(ValueError, match="density"):
            bdl.objectives.iw_bound(key, bdl.variational(network.params, family), other, data, num_data=N)


def test_alpha_goes_from_the_elbo_to_the_predictive_density():
    elbo, error, _ = estimates(bdl.elbo, WIDE)
    small, error_small, terms = estimates(bdl.objectives.alpha, WIDE, alpha=1e-3, num_samples=5)
    assert abs(small - elbo) < error + error_small + 0.05
    assert not terms.is_bound
    # At α = 1 with many draws: Σ log p(y | x) under the posterior's predictive density, less the KL.
    one, error_one, terms = estimates(bdl.objectives.alpha, WIDE, alpha=1.0, num_samples=300)
    loc, scale = MEAN + 0.2, 2 / np.sqrt(PRECISION)
    density = dist.Normal(loc * X, np.sqrt(SCALE**2 + X**2 * scale**2)).log_prob(Y).sum()
    assert abs(float(one + terms.kl.mean() - density)) < error_one + 0.02
    with pytest.raises(ValueError, match="bdl.elbo"):
        bdl.objectives.alpha(key, WIDE, model, data, num_data=N, alpha=0.0)


def test_a_batch_is_scaled_by_examples():
    objective = functools.partial(bdl.objectives.alpha, alpha=0.5, noise="shared", num_data=N)
    parts = [objective(key, WIDE, model, (data[0][i : i + 4], data[1][i : i + 4])).elbo for i in range(0, N, 4)]
    np.testing.assert_allclose(np.mean(parts), objective(key, WIDE, model, data).elbo, rtol=1e-5)


def test_sticking_the_landing_has_no_noise_at_the_exact_posterior():
    learned, fixed = bdl.partition(normal(MEAN, 1 / np.sqrt(PRECISION)))

    def gradients(**options):
        run = functools.partial(bdl.elbo, num_data=N, noise="shared", **options)
        one = lambda q, k: run(k, eqx.combine(q, fixed), model, data).elbo
        found = jax.jit(jax.vmap(jax.grad(one), in_axes=(None, 0)))(
            learned, jax.random.split(jax.random.clone(key), 200)
        )
        return np.stack([np.asarray(a).reshape(200) for a in jax.tree.leaves(found)])

    assert np.abs(gradients(sticking_the_landing=True)).max() < 2e-3
    assert gradients().std(1).min() > 0.1
    off = bdl.partition(WIDE)[0]  # away from it, it is unbiased
    learned = off
    with_it, without = gradients(sticking_the_landing=True), gradients()
    error = 5 * np.sqrt((with_it.var(1) + without.var(1)) / 200)
    assert np.all(np.abs(with_it.mean(1) - without.mean(1)) < error)
    with pytest.raises(ValueError, match="shared"):
        bdl.elbo(key, WIDE, model, data, num_data=N, sticking_the_landing=True)


def test_the_terms_say_which_divergence_was_drawn():
    heavy = bdl.Model(network, bdl.likelihoods.Normal(), dist.StudentT(4.0, 0.0, 1.0))
    assert bdl.elbo(key, WIDE, model, data, num_data=N).monte_carlo == ()
    assert bdl.elbo(key, WIDE, heavy, data, num_data=N).monte_carlo == ("w",)
    values = {
        noise: jax.jit(jax.vmap(lambda k, n=noise: bdl.elbo(k, WIDE, heavy, data, num_data=N, noise=n).kl))(
            jax.random.split(jax.random.clone(key), 2000)
        )
        for noise in ("local", "shared")
    }
    error = 5 * np.hypot(*(float(v.std()) / np.sqrt(2000) for v in values.values()))
    assert abs(float(values["local"].mean() - values["shared"].mean())) < error


@pytest.mark.parametrize(
    "algorithm",
    [
        bdl.inference.vi(optax.adam(0.05), num_samples=4, objective=bdl.objectives.alpha),
        bdl.inference.vi(optax.adam(0.05), num_samples=4, noise="shared", objective=bdl.objectives.iw_bound),
        bdl.inference.vi(optax.adam(0.05), kl_weight=optax.linear_schedule(0.0, 1.0, 50)),
    ],
    ids=["alpha", "iw_bound", "warm-up"],
)
def test_vi_ascends_each_of_them(algorithm):
    posterior = bdl.variational(network.params, bdl.families.normal(scale=0.1))
    fitted = bdl.fit(key, algorithm, posterior, model, data, num_steps=300, batch_size=N, progress=False)
    assert abs(float(fitted.posterior.tree["w"].loc[0, 0]) - MEAN) < 0.5 / np.sqrt(PRECISION)


@pytest.mark.parametrize(
    "objective", [bdl.elbo, bdl.objectives.iw_bound, functools.partial(bdl.objectives.alpha, alpha=0.5)]
)
def test_statistics_of_a_state_are_averaged_over_draws_and_counts_are_not(objective):
    def apply(params, state, x, key, train):
        return x @ params["w"], {"count": state["count"] + 1, "weight": state["weight"] + params["w"].sum()}

    state = {"count": jnp.int32(7), "weight": jnp.float32(0.0)}
    counting = Network(apply, {"w": jnp.zeros((1, 1))}, state)
    with_state = bdl.Model(counting, model.likelihood, model.prior)
    terms = objective(key, WIDE, with_state, data, num_data=N, num_samples=64, noise="shared")
    assert terms.state["count"] == 8
    assert terms.state["count"].dtype == jnp.int32
    error = 2 / np.sqrt(PRECISION) / np.sqrt(64)
    assert abs(float(terms.state["weight"]) - (MEAN + 0.2)) < 5 * error
