"""Dropout families: a learned rate, Gaussian noise, single weights."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import integrate, stats

import bdl
from bdl import testing
from bdl.networks import Use
from bdl.noise import find_uses, local
from tests.arrays import normals
from tests.local_moments import check_local
from tests.test_noise import NETWORKS, families_for

families = bdl.families
INITIALISERS = {
    "concrete": families.concrete_dropout(0.3),
    "gaussian rows": families.gaussian_dropout(0.2),
    "gaussian weights": families.gaussian_dropout(alpha=bdl.learned(0.3), noise="weight"),
    "drop connect": families.drop_connect(0.3),
}
PRIOR = bdl.priors.normal(0.2, 0.7)
NORMAL = stats.norm(0.2, 0.7)
KERNEL = np.array([[0.5, -1.2], [0.1, 0.8], [-0.6, 0.3]])


def kl_of(family, prior=PRIOR, key=0):
    return bdl.kl(jax.random.key(key), bdl.posteriors.Factorised({"w": family}), prior)


def relaxed(array):
    family = families.concrete_dropout(0.3)(array)
    return family.relaxed() if hasattr(family, "relaxed") else family


@pytest.mark.parametrize("name", INITIALISERS)
def test_conformance(name):
    testing.check_family(INITIALISERS[name], num_samples=4000)


@pytest.mark.parametrize(
    ("initialiser", "network"),
    [
        (relaxed, "Conv strided, dilated, grouped"),
        (families.concrete_dropout(0.3), "OptimizedLSTMCell"),
        (INITIALISERS["gaussian rows"], "scan over layers"),
        (INITIALISERS["gaussian rows"], "tied embedding"),
        (INITIALISERS["gaussian weights"], "Conv strided, dilated, grouped"),
        (INITIALISERS["drop connect"], "Conv strided, dilated, grouped"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_local_noise_has_the_moments_of_shared_draws(initialiser, network):
    check_local(initialiser, network)


# ---- a learned rate ------------------------------------------------------------------------------------------------


def quasi_kl(kernel, rate, masks):
    """−E[log p(w)] − the entropy of the masks, by enumeration."""
    kept, dropped = NORMAL.logpdf(kernel / (1 - rate)), NORMAL.logpdf(0.0)
    entropy = -rate * np.log(rate) - (1 - rate) * np.log(1 - rate)
    return -((1 - rate) * kept + rate * dropped).sum() - masks * entropy


def test_the_quasi_kl_of_a_learned_rate_in_value_and_gradient():
    logit = -0.4
    of = lambda logit, kernel=KERNEL: quasi_kl(kernel, 1 / (1 + np.exp(-logit)), 3)
    family = families.ConcreteDropout(jnp.asarray(KERNEL, jnp.float32), jnp.float32(logit), jnp.float32(0.1))
    value, gradient = jax.jit(jax.value_and_grad(kl_of))(family)
    np.testing.assert_allclose(value, of(logit), rtol=1e-5)
    np.testing.assert_allclose(gradient.logit_rate, (of(logit + 1e-4) - of(logit - 1e-4)) / 2e-4, rtol=1e-3)
    moved = KERNEL + 1e-4 * np.eye(3, 2)
    slope = (of(logit, moved) - of(logit)) / 1e-4
    np.testing.assert_allclose((gradient.kernel * jnp.eye(3, 2)).sum(), slope, rtol=1e-3)
    bernoulli = families.BernoulliDropout(family.kernel, family.rate)
    np.testing.assert_allclose(kl_of(bernoulli), value, rtol=1e-5)
    np.testing.assert_allclose(kl_of(family.relaxed()), value, rtol=1e-6)


def test_hard_draws_drop_whole_rows_and_relaxed_ones_have_a_gradient():
    rate, count = 0.3, 20_000
    family = families.concrete_dropout(rate)(jnp.asarray(KERNEL, jnp.float32))
    keys = jax.random.split(jax.random.key(0), count)
    draws = np.asarray(jax.jit(jax.vmap(family.sample))(keys))
    kept = draws[:, :, 0] != 0
    assert np.array_equal(kept, draws[:, :, 1] != 0)
    assert np.all(np.abs(kept.mean(0) - (1 - rate)) < 5 * np.sqrt(rate * (1 - rate) / count))
    np.testing.assert_allclose(draws[kept], np.broadcast_to(KERNEL, draws.shape)[kept] / (1 - rate), rtol=1e-4)

    # E[Σ w²] = Σ m² / (1 − rate) for hard masks; relaxed ones have its gradient to a few per cent.
    def square(family, key):
        return (family.relaxed().sample(key) ** 2).sum()

    gradients = jax.jit(jax.vmap(jax.grad(square), (None, 0)))(family, jax.random.clone(keys)).logit_rate
    exact = (KERNEL**2).sum() / (1 - rate) ** 2 * rate * (1 - rate)
    error = 5 * float(gradients.std()) / np.sqrt(count)
    assert abs(float(gradients.mean()) - exact) < error + 0.05 * exact
    soft = np.asarray(jax.jit(jax.vmap(family.relaxed().sample))(jax.random.clone(keys)))
    assert np.all(np.abs(soft.mean(0) - KERNEL) < 5 * soft.std(0) / np.sqrt(count) + 0.003 * np.abs(KERNEL))


def test_objectives_learn_the_rate_and_predictions_are_hard():
    network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.asarray(KERNEL, jnp.float32)})
    model = bdl.Model(network, bdl.likelihoods.Normal(scale=0.1), PRIOR)
    posterior = bdl.variational(network.params, families.concrete_dropout(0.3))
    x = normals(1, 50, 3)

    def log_likelihood(posterior, noise):
        data = (x, x @ KERNEL.astype(np.float32))
        terms = bdl.elbo(jax.random.key(0), posterior, model, data, num_data=50, num_samples=4, noise=noise)
        assert not terms.is_bound
        return terms.log_likelihood

    for noise in ("local", "shared"):
        gradient = jax.jit(jax.grad(log_likelihood), static_argnums=1)(posterior, noise)
        assert float(gradient.tree["w"].logit_rate) < 0  # these data are known exactly: any dropping hurts
    outputs = np.stack([bdl.function_draw(jax.random.key(2), posterior, model, i)(jnp.eye(3)) for i in range(8)])
    kept = outputs != 0
    assert 0 < kept.mean() < 1
    np.testing.assert_allclose(outputs[kept], np.broadcast_to(KERNEL / 0.7, outputs.shape)[kept], rtol=1e-4)


# ---- Gaussian noise ------------------------------------------------------------------------------------------------


def gaussian(noise, alpha=0.25, kernel=KERNEL):
    return families.gaussian_dropout(alpha=alpha, noise=noise)(jnp.asarray(kernel, jnp.float32))


@pytest.mark.parametrize("noise", ["row", "weight"])
def test_gaussian_noise_is_multiplicative(noise):
    family = gaussian(noise)
    draws = np.asarray(jax.jit(jax.vmap(family.sample))(jax.random.split(jax.random.key(0), 20_000)))
    factors = draws / KERNEL
    np.testing.assert_allclose(factors.mean((0, 2)), 1, atol=5 * 0.5 / np.sqrt(20_000))
    np.testing.assert_allclose(factors.var(0), 0.25, rtol=5 * np.sqrt(2 / 20_000))
    correlation = np.corrcoef(factors[:, 0, 0], factors[:, 0, 1])[0, 1]
    assert abs(correlation - (noise == "row")) < 0.05
    assert hasattr(family, "log_prob") == (noise == "weight")
    np.testing.assert_allclose(families.gaussian_dropout(rate=0.2)(jnp.ones((2, 2))).alpha, 0.25, rtol=1e-6)
    np.testing.assert_allclose(family.rate, 0.2, rtol=1e-6)


def test_divergences_of_gaussian_noise_from_a_normal_prior():
    # Σ E[−log p(w)] of the marginals by quadrature, and the entropies of the rows' lines or of the weights.
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)

    def exact(noise, alpha, kernel):
        w = kernel[..., None] * (1 + np.sqrt(alpha) * nodes)
        cross_entropy = -(NORMAL.logpdf(w) * weights).sum() / np.sqrt(2 * np.pi)
        lengths = np.linalg.norm(kernel, axis=1) if noise == "row" else np.abs(kernel)
        return cross_entropy - stats.norm(0, np.sqrt(alpha) * lengths).entropy().sum()

    for noise in ("row", "weight"):
        of = lambda log_alpha, noise=noise: kl_of(gaussian(noise, jnp.exp(log_alpha)))
        value, slope = jax.jit(jax.value_and_grad(of))(jnp.log(0.25))
        np.testing.assert_allclose(value, exact(noise, 0.25, KERNEL), rtol=1e-5)
        np.testing.assert_allclose(
            slope, (exact(noise, 0.25 * np.exp(1e-4), KERNEL) - exact(noise, 0.25, KERNEL)) / 1e-4, rtol=1e-3, atol=1e-3
        )
        gradient = jax.jit(jax.grad(kl_of))(gaussian(noise)).kernel
        moved = exact(noise, 0.25, KERNEL + 1e-4 * np.eye(3, 2)) - exact(noise, 0.25, KERNEL)
        np.testing.assert_allclose((gradient * jnp.eye(3, 2)).sum(), moved / 1e-4, rtol=2e-3)


def test_the_log_uniform_prior_counts_rows_or_weights():
    prior = bdl.priors.log_uniform()
    alpha = 0.7
    q = stats.norm(1, np.sqrt(alpha))
    integrand = lambda w: q.pdf(w) * (q.logpdf(w) + np.log(np.abs(w)))
    parts = [integrate.quad(integrand, a, b, limit=200)[0] for a, b in ((-12.0, 0.0), (0.0, 14.0))]
    one = sum(parts) + 0.5 * (np.log(2 * np.pi * np.e) + np.euler_gamma + np.log(2))
    values = {noise: kl_of(gaussian(noise, alpha), prior) for noise in ("row", "weight")}
    np.testing.assert_allclose(values["row"], 3 * one, atol=3 * 0.01)
    np.testing.assert_allclose(values["weight"], 2 * values["row"], rtol=1e-6)
    for noise in ("row", "weight"):
        gradient = jax.jit(jax.grad(lambda f: kl_of(f, prior)))(gaussian(noise))
        assert not np.any(gradient.kernel)  # it has no scale
        np.testing.assert_allclose(kl_of(gaussian(noise, alpha, 9 * KERNEL), prior), values[noise], rtol=1e-6)
    with pytest.raises(ValueError, match="gaussian_dropout"):
        kl_of(families.drop_connect(0.3)(jnp.ones((3, 2))), prior)


def test_rows_have_a_quasi_kl_to_any_prior_from_draws():
    prior = bdl.priors.iid(dist.StudentT, df=4.0, loc=0.0, scale=0.5)
    family = gaussian("row")
    keys = jax.random.split(jax.random.key(4), 20_000)
    estimates = jax.jit(jax.vmap(lambda k: bdl.kl(k, bdl.posteriors.Factorised({"w": family}), prior)))(keys)
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    w = KERNEL[..., None] * (1 + 0.5 * nodes)
    cross_entropy = -(stats.t(4, 0, 0.5).logpdf(w) * weights).sum() / np.sqrt(2 * np.pi)
    exact = cross_entropy - stats.norm(0, 0.5 * np.linalg.norm(KERNEL, axis=1)).entropy().sum()
    assert abs(float(estimates.mean()) - exact) < 5 * float(estimates.std()) / np.sqrt(20_000) + 1e-3


def test_rows_of_a_grouped_convolution_are_those_of_the_use():
    apply, params, x = NETWORKS["Conv strided, dilated, grouped"]()
    initialiser = families.gaussian_dropout(alpha=0.25)
    family = families_for(params, find_uses(apply, params, x), initialiser)["kernel"]
    kernel = np.asarray(family.kernel, np.float64)  # [3, 3, 2, 6]: groups of 3 outputs
    lengths = np.sqrt((kernel.reshape(3, 3, 2, 2, 3) ** 2).sum((0, 1, 4)))
    np.testing.assert_allclose(family.entropy(), stats.norm(0, 0.5 * lengths).entropy().sum(), rtol=1e-5)


def test_alpha_is_learned_where_it_is_marked():
    fixed, learned = (families.gaussian_dropout(alpha=a)(jnp.ones((3, 2))) for a in (0.5, bdl.learned(0.5)))
    posterior = bdl.posteriors.Factorised({"fixed": fixed, "learned": learned})
    assert len(jax.tree.leaves(bdl.partition(posterior)[0])) == 3
    np.testing.assert_allclose(learned.alpha, 0.5, rtol=1e-6)
    by_rate = families.gaussian_dropout(rate=bdl.learned(0.5))(jnp.ones((3, 2)))
    np.testing.assert_allclose(by_rate.alpha, 1.0, rtol=1e-6)
    with pytest.raises(ValueError, match="without bound"):
        kl_of(fixed, bdl.priors.normal(scale=bdl.learned(1.0)))


def test_joined_kernels_of_gaussian_weights_are_one_product():
    family = gaussian("weight", kernel=np.ones((4, 3)))
    apply = lambda p, x: x @ jnp.concatenate([p["a"], p["b"]], 1)
    y = local(jax.random.key(0), apply, {"a": family, "b": family}, jnp.ones((8000, 4)))
    np.testing.assert_allclose(y.std(0), 1.0, rtol=0.05)  # √(4 · 0.25)


# ---- single weights ------------------------------------------------------------------------------------------------


def test_drop_connect_drops_single_weights():
    family = families.drop_connect(0.3)(jnp.asarray(KERNEL, jnp.float32))
    np.testing.assert_allclose(kl_of(family), quasi_kl(KERNEL, 0.3, 6), rtol=1e-5)
    draws = np.asarray(family.sample_each(jax.random.key(0), 20_000))
    kept = draws != 0
    np.testing.assert_allclose(draws[kept], np.broadcast_to(KERNEL, draws.shape)[kept] / 0.7, rtol=1e-4)
    assert np.all(np.abs(np.corrcoef(kept.reshape(-1, 6).T) - np.eye(6)) < 5 / np.sqrt(20_000))
    gradient = jax.jit(jax.grad(kl_of))(family).kernel
    np.testing.assert_allclose(gradient, (KERNEL / 0.7 - 0.2) / 0.49, rtol=1e-4)


# ---- edges ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["relaxed", *INITIALISERS])
def test_gradients_are_finite_at_extreme_values_and_zero_weights(name):
    initialiser = relaxed if name == "relaxed" else INITIALISERS[name]
    kernel = jnp.array([[1.0, 0.0], [0.0, 0.0], [1e-6, 2.0]])
    network = bdl.network(lambda p, x: x @ p["w"], {"w": kernel})
    model = bdl.Model(network, lambda f: dist.Normal(f, 1e6), bdl.priors.normal())
    data = (jnp.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]), jnp.zeros((2, 2)))

    def loss(posterior):
        key = jax.random.key(0)
        return sum(bdl.elbo(key, posterior, model, data, num_data=2, noise=n).elbo for n in ("local", "shared"))

    @jax.jit
    @jax.vmap
    def gradient(extreme):
        logs = lambda path: any("log" in str(k) for k in path)
        tree = jax.tree_util.tree_map_with_path(
            lambda p, a: jnp.full_like(a, extreme) if logs(p) else a, bdl.variational({"w": kernel}, initialiser)
        )
        return jax.value_and_grad(loss)(tree)

    assert all(bool(np.isfinite(a).all()) for a in jax.tree.leaves(gradient(jnp.array([-20.0, 20.0]))))


@pytest.mark.parametrize("name", INITIALISERS)
def test_bfloat16_weights_keep_a_float32_kl(name):
    @jax.jit
    def run(w):
        family = INITIALISERS[name](w).bind(Use(in_axes=(0,), fan_in=300))
        y = local(jax.random.key(1), lambda p, x: x @ p["w"], {"w": family}, jnp.ones((2, 300), w.dtype))
        return kl_of(family), y

    kernel = jnp.linspace(-1, 1, 60_000).reshape(300, 200).astype(jnp.bfloat16)
    (low, y), (high, _) = (run(kernel.astype(dtype)) for dtype in (jnp.bfloat16, jnp.float32))
    assert (low.dtype, y.dtype) == (jnp.float32, jnp.bfloat16)
    np.testing.assert_allclose(low, high, rtol=1e-5)


def test_vectors_stay_points_and_rules_have_names():
    for initialiser in INITIALISERS.values():
        assert isinstance(initialiser(jnp.ones(5)), jax.Array)
        assert initialiser(jnp.ones((3, 2))).local_rule


def test_arguments_out_of_range_are_refused():
    for rate in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"\(0, 1\)"):
            families.concrete_dropout(rate)
        with pytest.raises(ValueError, match=r"\(0, 1\)"):
            families.gaussian_dropout(rate)
    for rate in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"\[0, 1\)"):
            families.drop_connect(rate)
    with pytest.raises(ValueError, match="concrete_dropout"):
        families.drop_connect(bdl.learned(0.1))
    with pytest.raises(ValueError, match="temperature"):
        families.concrete_dropout(temperature=0.0)
    with pytest.raises(ValueError, match="alpha"):
        families.gaussian_dropout(alpha=-1.0)
    with pytest.raises(ValueError, match="alpha"):
        families.gaussian_dropout(alpha=bdl.learned(-1.0))
    for both in ({}, {"rate": 0.1, "alpha": 0.1}):
        with pytest.raises(ValueError, match="Give one"):
            families.gaussian_dropout(**both)
    with pytest.raises(ValueError, match='"weight"'):
        families.gaussian_dropout(0.1, noise="unit")
