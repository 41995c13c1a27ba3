"""Families: the conformance suite, moments, divergences, and what happens at the edges."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats

import bdl
from bdl import testing

INITIALISERS = {
    "normal": bdl.families.normal(scale=0.2),
    "bernoulli_dropout": bdl.families.bernoulli_dropout(rate=0.3),
}


@pytest.mark.parametrize("name", INITIALISERS)
def test_conformance(name):
    testing.check_family(INITIALISERS[name], num_samples=8000)


def test_the_suite_finds_broken_families():
    class Shifted(bdl.families.NormalFamily):
        @property
        def mean(self):
            return self.loc + 1.0

    class SharedNoise(bdl.families.NormalFamily):
        def local(self, key, x, linear):
            return linear(x, self.sample(key))

    for kind, promise in ((Shifted, "mean"), (SharedNoise, "variance|mean|correlated")):
        with pytest.raises(AssertionError, match=promise):
            testing.check_family(lambda a, kind=kind: kind(a, jnp.full_like(a, -1.0)), num_samples=4000)


def test_scale_is_a_standard_deviation():
    draws = jax.vmap(bdl.families.normal(scale=0.2)(jnp.zeros(4)).sample)(jax.random.split(jax.random.key(0), 40_000))
    assert abs(float(draws.std()) - 0.2) < 5 * 0.2 / np.sqrt(2 * draws.size)


def test_closed_form_kl_is_that_of_quadrature():
    q, p = dist.Normal(0.3, 0.2), dist.Normal(-0.1, 0.7)
    grid = np.linspace(-2.0, 3.0, 20_001)
    log_q, log_p = (-0.5 * ((grid - d.loc) / d.scale) ** 2 - np.log(d.scale * np.sqrt(2 * np.pi)) for d in (q, p))
    exact = float(np.sum(np.exp(log_q) * (log_q - log_p)) * (grid[1] - grid[0]))
    posterior = bdl.posteriors.Factorised({"w": bdl.families.NormalFamily(jnp.full(6, 0.3), jnp.full(6, jnp.log(0.2)))})
    np.testing.assert_allclose(bdl.kl(jax.random.key(1), posterior, bdl.priors.normal(-0.1, 0.7)), 6 * exact, rtol=1e-4)


def test_monte_carlo_kl_agrees_with_the_closed_form_in_value_and_gradient():
    closed = bdl.priors.normal(0.1, 0.5)
    by_function = bdl.priors.as_prior(lambda params: dist.Normal(0.1, 0.5).log_prob(params["w"]).sum())
    heavy = bdl.priors.as_prior(dist.StudentT(4.0, 0.0, 0.5))  # no closed form: draws

    def posterior(loc):
        return bdl.posteriors.Factorised({"w": bdl.families.NormalFamily(jnp.full(50, loc), jnp.full(50, -1.5))})

    def estimate(prior, loc):
        one = jax.value_and_grad(lambda loc, k: bdl.kl(k, posterior(loc), prior))
        values, gradients = jax.jit(jax.vmap(one, in_axes=(None, 0)))(loc, jax.random.split(jax.random.key(2), 2000))
        return [(float(v.mean()), float(v.std()) / np.sqrt(2000)) for v in (values, gradients)]

    exact = jax.jit(jax.value_and_grad(lambda loc: bdl.kl(jax.random.key(3), posterior(loc), closed)))(0.4)
    for (mean, error), truth in zip(estimate(by_function, 0.4), exact, strict=True):
        assert abs(mean - truth) < 5 * error
    grid = np.linspace(-4, 4, 40_001)
    scale = np.exp(-1.5)
    q = np.exp(-0.5 * ((grid - 0.4) / scale) ** 2) / (scale * np.sqrt(2 * np.pi))
    log_p = scipy.stats.t.logpdf(grid, 4.0, 0.0, 0.5)
    truth = 50 * np.sum(q * (np.log(np.maximum(q, 1e-300)) - log_p)) * (grid[1] - grid[0])
    mean, error = estimate(heavy, 0.4)[0]
    assert abs(mean - truth) < 5 * error


def test_q_equal_to_p_has_no_divergence():
    posterior = bdl.variational({"w": jnp.zeros((3, 4))}, bdl.families.normal(scale=0.5))
    assert abs(float(bdl.kl(jax.random.key(4), posterior, bdl.priors.normal(scale=0.5)))) < 1e-5


@pytest.mark.parametrize("log_scale", [-20.0, 20.0])
def test_gradients_are_finite_at_extreme_values(log_scale):
    network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.ones((3, 2))})
    model = bdl.Model(network, bdl.likelihoods.HeteroscedasticNormal(), bdl.priors.normal())
    x = jnp.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])  # an all-zero example has no spread at all
    y = jnp.array([[0.0], [1.0]])

    def loss(log_scale, loc, noise):
        posterior = bdl.posteriors.Factorised({"w": bdl.families.NormalFamily(loc, jnp.full((3, 2), log_scale))})
        return bdl.elbo(jax.random.key(5), posterior, model, (x, y), num_data=2, noise=noise).elbo

    if log_scale < 0:
        for noise in ("local", "shared"):
            gradients = jax.jit(jax.grad(loss, argnums=(0, 1)), static_argnums=2)(log_scale, jnp.ones((3, 2)), noise)
            assert all(bool(np.isfinite(g).all()) for g in gradients)
    else:
        kl = lambda s: bdl.kl(
            jax.random.key(6),
            bdl.posteriors.Factorised({"w": bdl.families.NormalFamily(jnp.ones(3), jnp.full(3, s))}),
            bdl.priors.normal(),
        )
        assert bool(np.isfinite(jax.jit(jax.grad(kl))(log_scale)))


def test_bfloat16_parameters_keep_a_float32_kl():
    params = {"w": jnp.ones((400, 300), jnp.bfloat16)}
    for initialiser in INITIALISERS.values():
        low = bdl.variational(params, initialiser)
        high = bdl.variational(jax.tree.map(lambda a: a.astype(jnp.float32), params), initialiser)
        kl = [bdl.kl(jax.random.key(7), q, bdl.priors.normal()) for q in (low, high)]
        assert kl[0].dtype == jnp.float32
        np.testing.assert_allclose(kl[0], kl[1], rtol=1e-5)  # a sum in bfloat16 would be off by far more


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
def test_rates_outside_their_range_are_refused(rate):
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        bdl.families.bernoulli_dropout(rate)


def test_what_cannot_be_learned_is_refused():
    with pytest.raises(ValueError, match="concrete"):
        bdl.families.bernoulli_dropout(bdl.learned(0.1))
    params = {"w": jnp.ones((3, 2))}
    prior = bdl.priors.normal(scale=bdl.learned(1.0))
    for initialiser in (bdl.families.bernoulli_dropout(0.1), bdl.families.point):
        with pytest.raises(ValueError, match="without bound"):
            bdl.kl(jax.random.key(8), bdl.variational(params, initialiser), prior)
    assert np.isfinite(bdl.kl(jax.random.key(8), bdl.variational(params, bdl.families.normal()), prior))


def test_a_normal_needs_a_positive_scale():
    for scale in (0.0, -1.0, float("inf")):
        with pytest.raises(ValueError, match="positive"):
            bdl.families.normal(scale)


def test_dropout_leaves_vectors_alone_and_asks_for_the_network_where_rows_are_unclear():
    initialiser = bdl.families.bernoulli_dropout(0.5)
    assert isinstance(initialiser(jnp.ones(5)), jax.Array)
    with pytest.raises(ValueError, match=r"bdl\.bind"):
        initialiser(jnp.ones((3, 3, 2, 4))).sample(jax.random.key(9))


def test_variational_takes_globs_in_order_and_names_what_matches_nothing():
    params = {"a": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}, "b": {"kernel": jnp.ones((3, 1))}}
    normal, dropout = bdl.families.normal(), bdl.families.bernoulli_dropout(0.1)
    posterior = bdl.variational(params, {"a/*": normal, "*/kernel": dropout})
    kinds = {path: type(leaf).__name__ for path, leaf in posterior.leaves.items()}
    assert kinds == {"a/kernel": "NormalFamily", "a/bias": "NormalFamily", "b/kernel": "BernoulliDropout"}
    with pytest.raises(ValueError, match=r"head/\*.*a/kernel"):
        bdl.variational(params, {"head/*": normal})
    with pytest.raises(TypeError, match="a/kernel.*floating|floating.*a/kernel"):
        bdl.variational({"a": {"kernel": jnp.ones((2, 3), jnp.int32)}}, normal)
    with pytest.raises(TypeError, match="initialiser"):
        bdl.variational(params, lambda array: "no family")
    network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.ones((2, 1))})
    with pytest.raises(ValueError, match="pass `network.params`"):
        bdl.variational(bdl.Model(network, bdl.likelihoods.Normal()).network.params, normal)


def test_posteriors_pass_their_suite_and_draws_do_not_depend_on_other_arrays():
    params = {"a": jnp.ones((2, 3)), "c": jnp.ones((3, 1))}
    for initialiser in INITIALISERS.values():
        testing.check_posterior(bdl.variational(params, initialiser), params)
        small = bdl.variational(params, initialiser).sample(jax.random.key(10))
        large = bdl.variational({**params, "b": jnp.ones((4, 4))}, initialiser).sample(jax.random.key(10))
        assert np.array_equal(small["c"], large["c"])


def test_only_what_is_learned_moves():
    params = {"w": jnp.ones((3, 2))}
    posterior = bdl.variational(params, bdl.families.bernoulli_dropout(0.1))
    learned, fixed = bdl.partition(posterior)
    assert learned.tree["w"].rate is None
    assert fixed.tree["w"].kernel is None
    model = bdl.Model(
        bdl.network(lambda p, x: x @ p["w"], params),
        bdl.likelihoods.Normal(scale=bdl.learned(0.3)),
        bdl.priors.normal(scale=2.0),
    )
    assert len(jax.tree.leaves(bdl.partition(model)[0])) == 1


def test_summary_tells_what_there_is():
    params = {"kernel": jnp.full((3, 2), 0.5), "bias": jnp.zeros(2)}
    network = bdl.network(lambda p, x: x @ p["kernel"] + p["bias"], params)
    model = bdl.Model(network, bdl.likelihoods.Normal(), bdl.priors.normal(scale=0.1))
    posterior = bdl.variational(params, {"kernel": bdl.families.normal(scale=0.1)})
    table = bdl.summary(posterior, model)
    rows = {row.path: row for row in table.rows}
    # Six weights at mean 5 scales from a prior of the same scale: 6 · 5² / 2 nats.
    np.testing.assert_allclose(rows["kernel"].kl, 75.0, rtol=1e-4)
    assert rows["kernel"].detail == "median |mean| / scale 5"
    assert rows["bias"].family == "point"
    assert "no divergence" in str(table)
    assert "rate 0.1" in str(bdl.summary(bdl.variational(params, bdl.families.bernoulli_dropout(0.1))))
