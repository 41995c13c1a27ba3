"""Families around the Normal: tied and relative scales, Flipout, low rank, full covariance, radial."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import integrate, special, stats

import bdl
from bdl import testing
from bdl.networks import Use
from bdl.noise import find_uses, local
from tests.arrays import normals
from tests.local_moments import check_local
from tests.test_noise import NETWORKS, families_for

families = bdl.families
INITIALISERS = {
    "flipout": families.normal(scale=0.2, local="flipout"),
    "tied in rows": families.normal(scale=0.2, tied="row"),
    "low rank": families.low_rank_normal(rank=2, scale=0.2),
    "full": families.full_normal(scale=0.2),
    "radial": families.radial(scale=0.3),
}


def low_rank(seed=0, shape=(3, 2), rank=2):
    """A family whose factors matter."""
    return families.LowRankNormal(
        normals(seed, *shape), 0.3 * normals(seed + 1, *shape) - 1, 1.5 * normals(seed + 2, rank, *shape)
    )


def full(seed=0, shape=(3, 2)):
    n = int(np.prod(shape))
    return families.FullNormal(normals(seed, *shape), 0.3 * normals(seed + 1, n) - 1, normals(seed + 2, n, n))


def covariance(family):
    """Of the entries, from the arrays alone."""
    if isinstance(family, families.FullNormal):
        lower = jnp.exp(family.log_diagonal)[:, None] * (jnp.tril(family.lower, -1) + jnp.eye(family.loc.size))
        return lower @ lower.T
    factors = (family.scale * family.relative_factors).reshape(-1, family.loc.size).T
    return jnp.diag(jnp.exp(2 * family.log_scale).reshape(-1)) + factors @ factors.T


def kl_of(family, prior=None, key=0):
    posterior = bdl.posteriors.Factorised({"w": family})
    return bdl.kl(jax.random.key(key), posterior, bdl.priors.normal(0.2, 0.7) if prior is None else prior)


def draws_of(family, count, seed=5):
    return jax.jit(jax.vmap(family.sample))(jax.random.split(jax.random.key(seed), count))


@pytest.mark.parametrize("name", INITIALISERS)
def test_conformance(name):
    testing.check_family(INITIALISERS[name], num_samples=4000)


# Flipout and an own draw per example are exact however often a weight enters; where it enters once, so are all.
@pytest.mark.parametrize(
    ("initialiser", "network"),
    [
        (families.normal(0.1, local="flipout"), "Conv strided, dilated, grouped"),
        (families.normal(0.1, local="flipout"), "tied embedding"),
        (families.normal(0.1, tied="row"), "Conv strided, dilated, grouped"),
        (families.low_rank_normal(2, 0.1), "Conv strided, dilated, grouped"),
        (families.full_normal(0.1), "tied embedding"),
        (families.radial(0.05), "scan over layers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_local_noise_has_the_moments_of_shared_draws(initialiser, network):
    check_local(initialiser, network)


@pytest.mark.parametrize("name", ["flipout", "full"])
def test_positions_of_an_example_see_one_draw(name):
    a, b = normals(1, 6, 4), normals(2, 6, 4)
    weights = {"w": INITIALISERS[name](normals(3, 4, 3))}
    y = local(jax.random.key(0), lambda p, x: x @ p["w"], weights, jnp.stack([a, b, a + b], 1))
    np.testing.assert_allclose(y[:, 2], y[:, 0] + y[:, 1], atol=1e-5)  # linear in x, as any function draw is
    assert float(np.abs(y[0] - y[1]).max()) > 0.1


def test_low_rank_examples_share_directions_and_not_sizes():
    # Without a diagonal part the noise of an example is z · (x F).
    family = families.LowRankNormal(jnp.zeros((4, 3)), jnp.full((4, 3), -18.0), jnp.exp(18.0) * normals(1, 1, 4, 3))
    x = normals(2, 50, 5, 4)
    y = local(jax.random.key(0), lambda p, x: x @ p["w"], {"w": family}, x)
    z = y / jnp.einsum("bti,io->bto", x, family.factors[0])
    np.testing.assert_allclose(z, jnp.broadcast_to(z[:, :1, :1], z.shape), atol=1e-3)
    assert 0.7 < float(z[:, 0, 0].std()) < 1.3


@pytest.mark.parametrize(
    "family", [low_rank(), full(), low_rank(3, (4,), 4), full(3, (1,))], ids=lambda f: str(f.loc.shape)
)
def test_densities_and_divergences_are_those_of_the_dense_matrix(family):
    def dense(family):
        matrix, mean, n = covariance(family), family.loc.reshape(-1), family.loc.size
        log_det = jnp.linalg.slogdet(matrix)[1]
        squares = jnp.trace(matrix) + ((mean - 0.2) ** 2).sum()
        return 0.5 * (squares / 0.49 - n - log_det) + n * jnp.log(0.7)

    (exact, gradient), (value, own) = jax.jit(lambda f: (jax.value_and_grad(dense)(f), jax.value_and_grad(kl_of)(f)))(
        family
    )
    np.testing.assert_allclose(value, exact, rtol=1e-5, atol=1e-5)
    for a, b in zip(jax.tree.leaves(own), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    normal = stats.multivariate_normal(np.asarray(family.loc).reshape(-1), np.asarray(covariance(family), np.float64))
    np.testing.assert_allclose(family.entropy(), normal.entropy(), rtol=1e-5)
    w = family.sample(jax.random.key(1))
    np.testing.assert_allclose(family.log_prob(w), normal.logpdf(np.asarray(w).reshape(-1)), rtol=1e-4)
    assert float(family.total_correlation()) >= -1e-6


@pytest.mark.parametrize("family", [low_rank(), full()], ids=["low rank", "full"])
def test_draws_have_the_covariance(family):
    draws = np.asarray(draws_of(family, 40_000), np.float64).reshape(40_000, -1)
    exact = np.asarray(covariance(family), np.float64)
    # Var(x y) = Var(x) Var(y) + Cov(x, y)² for two Normals
    error = 5 * np.sqrt((np.outer(np.diag(exact), np.diag(exact)) + exact**2) / 40_000)
    assert np.all(np.abs(np.cov(draws.T) - exact) < error + 1e-3)
    each = np.asarray(family.sample_each(jax.random.key(2), 4000), np.float64).reshape(4000, -1)
    assert np.all(np.abs(np.cov(each.T) - exact) < error * np.sqrt(10) + 1e-3)


def test_divergences_without_a_closed_form_come_from_draws():
    prior = bdl.priors.iid(dist.StudentT, df=4.0, loc=0.0, scale=0.5)
    for family in (low_rank(), families.radial(0.5)(normals(4, 3, 2))):
        estimates = jax.jit(jax.vmap(lambda k, f=family: bdl.kl(k, bdl.posteriors.Factorised({"w": f}), prior)))(
            jax.random.split(jax.random.key(3), 20_000)
        )
        draws = np.asarray(draws_of(family, 20_000, 6), np.float64)
        terms = -stats.t(4, 0, 0.5).logpdf(draws).sum((1, 2))
        error = 5 * np.hypot(terms.std(), float(estimates.std())) / np.sqrt(20_000)
        assert abs(float(estimates.mean()) - (terms.mean() - float(family.entropy()))) < error


@pytest.mark.parametrize("tied", ["array", "row"])
def test_tied_scales_are_equal_ones(tied):
    loc = normals(1, 4, 3)
    family = families.normal(0.3, tied=tied)(loc).bind(Use(in_axes=(0,), fan_in=4))
    assert family.log_scale.shape == ((1, 1) if tied == "array" else (4, 1))
    log_scale = jnp.log(jnp.linspace(0.1, 0.4, family.log_scale.size)).reshape(family.log_scale.shape)
    family = families.NormalFamily(loc, log_scale, family.use, tied)
    loose = families.NormalFamily(loc, jnp.broadcast_to(log_scale, (4, 3)), family.use)
    key = jax.random.key(2)
    assert np.array_equal(family.sample(jax.random.clone(key)), loose.sample(key))
    for function in (lambda f: f.entropy(), lambda f: f.log_prob(loc + 0.1), kl_of):
        (a, da), (b, db) = (jax.jit(jax.value_and_grad(function))(f) for f in (family, loose))
        np.testing.assert_allclose(a, b, rtol=1e-5)
        axes = (0, 1) if tied == "array" else 1
        np.testing.assert_allclose(da.log_scale, db.log_scale.sum(axes, keepdims=True), rtol=1e-4, atol=1e-5)
    summed = lambda f: local(jax.random.key(3), lambda p, x: x @ p["w"], {"w": f}, normals(4, 5, 4))
    np.testing.assert_allclose(summed(family), summed(loose), rtol=1e-5)


def test_the_rows_of_a_tied_scale_are_those_of_the_use():
    apply, params, x = NETWORKS["Conv strided, dilated, grouped"]()
    initialiser = families.normal(tied="row")
    assert initialiser(params["kernel"]).awaits_use
    family = families_for(params, find_uses(apply, params, x), initialiser)["kernel"]
    assert not family.awaits_use
    assert family.log_scale.shape == (1, 1, 2, 2)  # two inputs in each of two groups
    assert family.scale.shape == (1, 1, 2, 6)
    uneven = families.NormalFamily(family.loc, family.log_scale.at[..., 0, 1].add(1.0), family.use, "row")
    ratio = (uneven.scale / family.scale)[0, 0]
    np.testing.assert_allclose(ratio, [[1, 1, 1, np.e, np.e, np.e], [1] * 6], rtol=1e-5)
    np.testing.assert_allclose(uneven.entropy() - family.entropy(), 27, rtol=1e-4)  # 9 pixels, 3 outputs of a group


def test_a_tied_scale_is_learned_by_fit():
    import optax

    network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.ones((3, 1))})
    model = bdl.Model(network, bdl.likelihoods.Normal(scale=1.0), bdl.priors.normal())
    posterior = bdl.variational(network.params, families.normal(tied="row"))
    algorithm = bdl.inference.vi(optax.adam(0.1))
    with pytest.raises(ValueError, match=r"bdl\.bind"):
        algorithm.init(jax.random.key(0), posterior, model, num_data=4)
    data = (normals(1, 4, 3), jnp.ones((4, 1)))
    fitted = bdl.fit(jax.random.key(0), algorithm, posterior, model, data, num_steps=20, batch_size=4, progress=False)
    log_scale = fitted.posterior.tree["w"].log_scale
    assert log_scale.shape == (3, 1)
    assert len(set(np.asarray(log_scale).ravel().tolist())) == 3


def test_relative_scales_follow_the_weights():
    family = families.normal(scale=0.5, relative=True)(jnp.array([[2.0, -0.1, 0.0]]))
    np.testing.assert_allclose(family.scale, [[1.0, 0.05, 0.0005]], rtol=1e-5)


def test_joined_kernels_keep_their_rule():
    # An LSTM concatenates its kernels; each of them is a Normal of its own kind.
    tied = families.normal(0.2, tied="row")(normals(1, 4, 3)).bind(Use(in_axes=(0,), fan_in=4))
    flip = families.normal(0.2, local="flipout")(normals(2, 4, 3))
    apply = lambda p, x: x @ jnp.concatenate([p["a"], p["b"]], 1)
    for other in (tied, flip):
        y = local(jax.random.key(0), apply, {"a": other, "b": other}, jnp.ones((4000, 4)))
        np.testing.assert_allclose(y.std(0), 0.4, rtol=0.08 if other is tied else 0.9)
        assert y.shape == (4000, 6)


def test_radial_is_normal_in_one_dimension():
    family = families.Radial(jnp.array([0.3]), jnp.log(jnp.array([0.7])))
    normal = stats.norm(0.3, 0.7)
    np.testing.assert_allclose(family.entropy(), normal.entropy(), rtol=1e-6)
    np.testing.assert_allclose(family.log_prob(jnp.array([0.9])), normal.logpdf(0.9), rtol=1e-5)
    np.testing.assert_allclose(kl_of(family, bdl.priors.normal(0.3, 0.7)), 0, atol=1e-6)


@pytest.mark.parametrize("n", [2, 5, 60])
def test_radial_density_and_entropy_by_quadrature(n):
    family = families.Radial(jnp.zeros(n), jnp.full(n, jnp.log(0.8 / np.sqrt(n))))
    log_area = np.log(2) + n / 2 * np.log(np.pi) - special.gammaln(n / 2)
    along = jnp.eye(n)[0] * 0.8

    def log_density(radius):  # over v = w / 0.8
        return float(family.log_prob(radius * along)) + n * np.log(0.8)

    radii = np.exp(np.linspace(np.log(1e-5), np.log(8.0), 300))
    values = np.array([log_density(r) for r in radii])
    weights = np.exp(log_area + (n - 1) * np.log(radii) + values)
    np.testing.assert_allclose(integrate.simpson(weights, x=radii), 1, atol=1e-3)
    entropy = -integrate.simpson(weights * values, x=radii) + n * np.log(0.8)
    np.testing.assert_allclose(family.entropy(), entropy, atol=2e-2)


def test_radial_divergence_in_value_and_gradient():
    n, scale = 6, 1.5
    family = families.Radial(jnp.full((3, 2), 0.4), jnp.full((3, 2), jnp.log(scale / np.sqrt(n))))
    value, gradient = jax.jit(jax.value_and_grad(kl_of))(family)
    draws = np.asarray(draws_of(family, 40_000), np.float64)
    terms = -stats.norm(0.2, 0.7).logpdf(draws).sum((1, 2))
    assert abs(terms.mean() - float(family.entropy() + value)) < 5 * terms.std() / 200
    np.testing.assert_allclose(gradient.loc, 0.2 / 0.49, rtol=1e-5)
    np.testing.assert_allclose(gradient.log_scale, scale**2 / n / 0.49 - 1, rtol=1e-4)
    np.testing.assert_allclose(draws.var(0), scale**2 / n, rtol=0.05)
    distance = np.sqrt((((draws - 0.4) / scale) ** 2).sum((1, 2)))
    assert stats.kstest(distance, stats.halfnorm.cdf).pvalue > 1e-6


@pytest.mark.parametrize("name", INITIALISERS)
def test_gradients_are_finite_at_extreme_values(name):
    network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.ones((3, 2))})
    model = bdl.Model(network, lambda f: dist.Normal(f, 1e6), bdl.priors.normal())
    data = (jnp.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]), jnp.zeros((2, 2)))  # an all-zero example has no spread
    posterior, model = bdl.bind(bdl.variational(network.params, INITIALISERS[name]), model, data[0])

    def loss(posterior):
        key, family = jax.random.key(0), posterior.tree["w"]
        terms = [bdl.elbo(key, posterior, model, data, num_data=2, noise=noise).elbo for noise in ("local", "shared")]
        return sum(terms) + family.log_prob(jnp.full((3, 2), 1.1)) + family.entropy()

    @jax.jit
    @jax.vmap
    def gradient(extreme):
        logs = lambda path: any("log" in str(k) for k in path)
        return jax.grad(loss)(
            jax.tree_util.tree_map_with_path(lambda p, a: jnp.full_like(a, extreme) if logs(p) else a, posterior)
        )

    assert all(bool(np.isfinite(a).all()) for a in jax.tree.leaves(gradient(jnp.array([-20.0, 20.0]))))


def test_collinear_factors_keep_a_finite_density():
    # Two equal columns, and so large that I + Gᵀ G is singular in float32.
    column = 1e4 * jnp.exp(8.0) * normals(1, 1, 5, 4)
    family = families.LowRankNormal(jnp.zeros((5, 4)), jnp.full((5, 4), -8.0), jnp.concatenate([column, column]))
    value, gradient = jax.jit(jax.value_and_grad(kl_of))(family)
    assert all(bool(np.isfinite(a).all()) for a in jax.tree.leaves((value, gradient)))
    single = families.LowRankNormal(family.loc, family.log_scale, jnp.sqrt(2.0) * column)
    np.testing.assert_allclose(family.entropy(), single.entropy(), atol=15)  # off by the logarithm of the rounding


def test_zero_factors_would_stay_zero():
    family = families.low_rank_normal(2, scale=0.1)(jnp.zeros((3, 4)))
    assert float(np.abs(family.factors).min()) > 0
    zero = families.LowRankNormal(family.loc, family.log_scale, jnp.zeros((2, 3, 4)))
    still = jax.jit(jax.grad(kl_of))(zero).relative_factors
    assert float(np.abs(still).max()) == 0
    np.testing.assert_allclose(family.distribution.scale, 0.1, rtol=0.05)
    again = families.low_rank_normal(2, scale=0.1)(jnp.ones((3, 4)))
    assert np.array_equal(family.factors, again.factors)


@pytest.mark.parametrize("name", INITIALISERS)
def test_bfloat16_weights_keep_a_float32_kl(name):
    params = {"w": normals(0, 30, 10).astype(jnp.bfloat16)}
    use = Use(in_axes=(0,), fan_in=30)

    @jax.jit
    def run(w):
        family = INITIALISERS[name](w).bind(use)
        y = local(jax.random.key(1), lambda p, x: x @ p["w"], {"w": family}, jnp.ones((2, 30), w.dtype))
        return kl_of(family), y

    (low, y), (high, _) = (run(params["w"].astype(dtype)) for dtype in (jnp.bfloat16, jnp.float32))
    assert (low.dtype, y.dtype) == (jnp.float32, jnp.bfloat16)
    np.testing.assert_allclose(low, high, rtol=1e-5)


def test_every_family_names_its_local_rule():
    rules = {name: initialiser(jnp.ones((3, 2))).local_rule for name, initialiser in INITIALISERS.items()}
    assert rules["flipout"] == "Flipout"
    assert rules["full"] == "own draw per example"
    assert all(rules.values())


def test_arguments_out_of_range_are_refused():
    for function in (families.normal, families.full_normal, families.radial, lambda s: families.low_rank_normal(2, s)):
        for scale in (0.0, -1.0, float("nan"), float("inf")):
            with pytest.raises(ValueError, match="positive"):
                function(scale)
    for rank in (0, 1.5):
        with pytest.raises(ValueError, match="rank"):
            families.low_rank_normal(rank)
    with pytest.raises(ValueError, match=r"low_rank_normal.*max_size|max_size.*low_rank_normal"):
        families.full_normal(max_size=10)(jnp.ones((4, 3)))
    with pytest.raises(ValueError, match='"row"'):
        families.normal(tied="column")
    with pytest.raises(ValueError, match="flipout"):
        families.normal(local="signs")
    with pytest.raises(ValueError, match="Take one"):
        families.normal(relative=True, tied="array")
    assert families.low_rank_normal(7)(jnp.ones(3)).factors.shape == (3, 3)  # no more directions than weights
