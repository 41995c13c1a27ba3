"""Laplace, Student t, Cauchy and scale-mixture priors, fan-average scales, priors around earlier training."""

import itertools

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from scipy import stats

import bdl
from bdl import priors, testing
from bdl._paths import named_leaves
from bdl.noise import find_uses

W = np.linspace(-2.0, 3.0, 11)
MIXTURE = {"weight": 0.3, "wide": 1.5, "narrow": 0.02}


def mixture(function, w):
    """A density or a distribution function of the mixture."""
    wide, narrow = (function(w, 0.0, MIXTURE[name]) for name in ("wide", "narrow"))
    return MIXTURE["weight"] * wide + (1 - MIXTURE["weight"]) * narrow


# The prior, its log-density and, where draws are our own, its distribution function.
REFERENCES = {
    "laplace": (priors.laplace(0.7), stats.laplace(0.0, 0.7).logpdf, None),
    "student_t": (priors.student_t(5.0, 0.7), stats.t(5.0, 0.0, 0.7).logpdf, None),
    "cauchy": (priors.cauchy(0.7), stats.cauchy(0.0, 0.7).logpdf, None),
    "scale_mixture": (
        priors.scale_mixture(**MIXTURE),
        lambda w: np.log(mixture(stats.norm.pdf, w)),
        lambda w: mixture(stats.norm.cdf, w),
    ),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_densities_and_draws(name):
    prior, log_density, below = REFERENCES[name]
    distribution = prior.distribution("w", jnp.asarray(W))
    np.testing.assert_allclose(distribution.log_prob(jnp.asarray(W, jnp.float32)), log_density(W), rtol=2e-5)
    if name != "scale_mixture":
        return  # the others are numpyro's own, draws and all
    draws = np.asarray(distribution.sample(jax.random.key(0), (200_000,)), np.float64)
    for point in (-0.5, 0.01, 0.8):
        share = below(point)
        assert abs((draws < point).mean() - share) < 5 * np.sqrt(share * (1 - share) / len(draws))
    assert abs((draws**2).mean() - float(distribution.variance)) < 5 * (draws**2).std() / np.sqrt(len(draws))
    np.testing.assert_allclose(distribution.cdf(jnp.asarray(W, jnp.float32)), below(W), atol=1e-6)


def test_conformance():
    params = {"a": jnp.ones(2), "b": jnp.ones(2), "near": jnp.ones(2), "w": jnp.ones((2, 2))}
    prior = {"a": priors.laplace(), "b": priors.scale_mixture(), "near": priors.around(params, scale=0.1)}
    testing.check_prior(prior | {"*": priors.fan_average()}, params)


def test_all_numbers_may_be_learned():
    learned = bdl.learned
    for prior, count in (
        (priors.laplace(learned(0.7)), 1),
        (priors.student_t(learned(5.0), learned(0.7)), 2),
        (priors.cauchy(learned(0.7)), 1),
        (priors.scale_mixture(learned(0.3), learned(1.5), learned(0.02)), 3),
        (priors.fan_average(learned(1.0)), 1),
        (priors.around({"w": jnp.zeros(3)}, learned(0.1)), 1),
    ):
        free, fixed = bdl.partition(prior)
        assert len(jax.tree.leaves(free)) == count
        log_prob = jax.jit(jax.grad(lambda f, fixed=fixed: eqx.combine(f, fixed).log_prob({"w": jnp.ones(3)})))
        for extreme in (-20.0, 20.0):
            moved = jax.tree.map(lambda a, value=extreme: jnp.full_like(a, value), free)
            assert all(bool(np.isfinite(g)) for g in jax.tree.leaves(log_prob(moved))), prior


def test_the_scale_mixture_is_numpyros_with_gradients_that_stay_finite():
    reference = dist.MixtureSameFamily(
        dist.Categorical(jnp.array([0.3, 0.7])), dist.Normal(jnp.zeros(2), jnp.array([1.5, 0.02]))
    )
    ours = priors.scale_mixture(**MIXTURE).distribution("w", jnp.zeros(()))
    w = jnp.concatenate([jnp.linspace(-0.3, 0.3, 61), jnp.array([-40.0, 3.0, 0.0])])
    both = jax.jit(lambda p, w: jax.vmap(jax.value_and_grad(p.log_prob))(w))
    values, slopes = both(ours, w)
    expected, expected_slopes = both(reference, w)
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(slopes, expected_slopes, rtol=1e-3, atol=1e-3)
    far = jnp.zeros(64).at[:2].set(jnp.array([1e15, -1e17]))
    np.testing.assert_allclose(both(ours, far)[1][:2], np.array([-1e15, 1e17]) / 1.5**2, rtol=1e-5)
    tiny = type(ours)(jnp.float32(0.5), jnp.float32(1.0), jnp.float32(1e-6))
    assert np.isfinite(both(tiny, jnp.logspace(-8, 8, 64))).all()


NODES, WEIGHTS = np.polynomial.legendre.leggauss(300)


def normal_laplace_kl(mean, scale, loc, width):
    """By quadrature in float64, in units of the Normal's scale, to both sides of the Laplace's kink."""
    total = 0.0
    for a, b in itertools.pairwise((-12.0, np.clip((loc - mean) / scale, -12.0, 12.0), 12.0)):
        z = (b + a + (b - a) * NODES) / 2
        log_q = -(z**2) / 2 - np.log(scale * np.sqrt(2 * np.pi))
        log_p = -np.abs(mean + scale * z - loc) / width - np.log(2 * width)
        total += (b - a) / 2 * np.sum(WEIGHTS * scale * np.exp(log_q) * (log_q - log_p))
    return total


def test_the_kl_of_a_normal_from_a_laplace_is_that_of_quadrature():
    cases = np.array([[0.0, 1.0, 0.0, 1.0], [1.3, 0.4, -0.5, 0.7], [-2.0, 3.0, 1.0, 0.2], [0.5, 0.02, 0.4, 2.0]])

    def ours(mean, scale, loc, width):
        posterior = bdl.posteriors.Factorised({"w": bdl.families.NormalFamily(mean, jnp.log(scale))})
        return bdl.kl(jax.random.key(0), posterior, priors.iid(dist.Laplace, loc=loc, scale=width))

    value_and_grad = jax.jit(jax.vmap(jax.value_and_grad(ours, argnums=(0, 1, 2, 3))))
    values, gradients = value_and_grad(*jnp.asarray(cases.T, jnp.float32))
    np.testing.assert_allclose(values, [normal_laplace_kl(*case) for case in cases], rtol=1e-5, atol=1e-6)
    for index in range(4):
        step = 1e-4 * np.eye(4)[index]
        slopes = [(normal_laplace_kl(*(c + step)) - normal_laplace_kl(*(c - step))) / 2e-4 for c in cases]
        np.testing.assert_allclose(gradients[index], slopes, rtol=1e-4, atol=1e-5)


def test_the_kl_from_a_laplace_is_finite_at_extremes():
    def kl(mean, log_scale):
        family = bdl.families.NormalFamily(mean, log_scale)
        return bdl.kl(jax.random.key(0), bdl.posteriors.Factorised({"w": family}), priors.laplace(0.5))

    means, log_scales = (
        a.ravel() for a in jnp.meshgrid(jnp.array([-1e8, 0.0, 1e-8, 1e8]), jnp.array([-70.0, -20, 20]))
    )
    value, slopes = jax.jit(jax.vmap(jax.value_and_grad(kl, argnums=(0, 1))))(means, log_scales)
    assert np.isfinite(value).all()
    assert np.isfinite(slopes).all()
    # The mean distance is |mean| for a narrow Normal, √(2/π) scale for a wide one; its slopes are those of these.
    np.testing.assert_allclose(slopes[0][log_scales == -70], np.sign(means[log_scales == -70]) / 0.5, rtol=1e-6)
    np.testing.assert_allclose(
        slopes[1][(log_scales == 20) & (means == 0)], np.sqrt(2 / np.pi) * np.exp(20) / 0.5, rtol=1e-5
    )


class Seen(nn.Module):
    """Layers of several kinds, initialised by Glorot's scheme."""

    scheme: object = nn.initializers.glorot_uniform()

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(24, (3, 3), strides=(2, 2), kernel_init=self.scheme)(x)
        x = x.reshape(x.shape[0], -1, 24)
        x = nn.MultiHeadDotProductAttention(2, qkv_features=32, out_features=12, kernel_init=self.scheme)(x)
        return nn.Dense(60, kernel_init=self.scheme)(x)


def check_limit(kernel, scale, why):
    """Uniform draws of standard deviation `scale` end just below √3 scale."""
    largest = float(jnp.abs(kernel).max() / (np.sqrt(3) * scale))
    assert 1 - 12 / kernel.size < largest < 1 + 1e-5, why


def test_fan_average_has_the_variances_of_glorots_initialiser():
    module, x = Seen(), jnp.ones((2, 4, 4, 5))
    network = bdl.from_linen(module, jax.jit(module.init)(jax.random.key(0), x))
    _, model = bdl.bind(
        bdl.variational(network.params, bdl.families.point),
        bdl.Model(network, bdl.likelihoods.Normal(), priors.fan_average()),
        x,
    )
    kernels = {path: array for path, array in named_leaves(network.params).items() if path.endswith("kernel")}
    assert len(kernels) == 6
    for path, kernel in kernels.items():
        check_limit(kernel, model.prior.distribution(path, kernel).scale, path)
    assert float(model.prior.distribution("Dense_0/bias", jnp.zeros(60)).scale) == 1.0


def test_fan_out_follows_the_use():
    def fans(function, params, x):
        uses = find_uses(function, params, x)
        return {path: (use.fan_in, use.fan_out(params[path].shape)) for path, use in uses.items()}

    x = jnp.ones((5, 8))
    params = {"w": jnp.ones((3, 8)), "b": jnp.ones(3), "v": jnp.ones((2, 4, 6)), "stack": jnp.ones((3, 6, 6))}

    def function(p, x):
        x = x @ p["w"].T + p["b"]  # used transposed
        x = jnp.einsum("bhd,hdk->bhk", jnp.tile(x, (1, 3))[:, :8].reshape(-1, 2, 4), p["v"])[:, 0]  # heads apart
        return jax.lax.scan(lambda x, w: (x @ w, None), x, p["stack"])[0]  # layers apart

    assert fans(function, params, x) == {"w": (8, 3), "b": (1, 1), "v": (4, 6), "stack": (6, 6)}
    assert fans(lambda p, x: p["table"][x], {"table": jnp.ones((20, 6))}, jnp.arange(4)) == {"table": (1, 6)}

    # A strided convolution in groups is that of one group, which jax's initialiser sees as a kernel of its own.
    kernel = jnp.ones((3, 2, 4, 12))
    module = nn.Conv(12, (3, 2), strides=(2, 1), feature_group_count=2, use_bias=False)
    apply = lambda p, x: module.apply({"params": p}, x)
    use = find_uses(apply, {"kernel": kernel}, jnp.ones((2, 6, 6, 8)))["kernel"]
    assert (use.fan_in, use.fan_out(kernel.shape)) == (24, 36)
    group = jax.nn.initializers.glorot_uniform()(jax.random.key(1), (3, 2, 4, 6))
    check_limit(group, priors.fan_average().bind({"kernel": use}).distribution("kernel", kernel).scale, "groups")


def test_fan_average_without_a_network():
    prior = priors.fan_average(gain=1.0)
    np.testing.assert_allclose(prior.distribution("w", jnp.zeros((30, 6))).scale, 1 / 6, rtol=1e-6)
    assert float(prior.distribution("b", jnp.zeros(6)).scale) == 1.0
    with pytest.raises(ValueError, match=r"priors\.fan_average\(\) does not know which axes of 'conv'.*bdl\.bind"):
        prior.log_prob({"conv": jnp.zeros((3, 3, 2, 4))})
    unseen = prior.bind({"conv": bdl.networks.Use(in_axes=(0, 1), fan_in=0)})
    np.testing.assert_allclose(unseen.distribution("conv", jnp.zeros((2, 3, 4))).scale, np.sqrt(1 / 10), rtol=1e-6)


# A linear network whose inputs are orthogonal: the exact posterior factorises, and mean field is exact.
N, D, SCALE = 40, 4, 0.5
rng = np.random.default_rng(0)
X = np.linalg.qr(rng.normal(size=(N, D)))[0] * np.array([9.0, 6.0, 3.0, 1.0])
Y = X @ np.array([1.0, -0.5, 0.3, 0.0])[:, None] + SCALE * rng.normal(size=(N, 1))
NETWORK = bdl.network(lambda params, x: x @ params["w"], {"w": jnp.zeros((D, 1))})


def exact(x, y, mean, precision):
    """The mean and the precisions after (x, y) from Normal(mean, 1 / precision), for orthogonal x, in float64."""
    after = (x**2).sum(0) / SCALE**2 + precision
    return ((x.T @ y)[:, 0] / SCALE**2 + precision * mean) / after, after


def exact_posterior(mean, precision):
    family = bdl.families.NormalFamily(
        *(jnp.asarray(a, jnp.float32)[:, None] for a in (mean, -0.5 * np.log(precision)))
    )
    return bdl.posteriors.Factorised({"w": family})


def float32(*arrays):
    return tuple(jnp.asarray(a, jnp.float32) for a in arrays)


def test_the_posterior_of_a_is_the_prior_of_b():
    # Halves of the data whose inputs are orthogonal too: the same ones, with other targets.
    other = X @ np.array([0.8, -0.4, 0.6, 0.2])[:, None] + SCALE * rng.normal(size=(N, 1))
    schedule = optax.cosine_decay_schedule(0.05, 800)
    algorithm = bdl.inference.vi(optax.adam(schedule), num_samples=4)
    prior, posterior = priors.normal(scale=0.8), bdl.variational(NETWORK.params, bdl.families.normal(scale=0.2))
    for number, y in enumerate((Y, other)):
        model = bdl.Model(NETWORK, bdl.likelihoods.Normal(scale=SCALE), prior)
        fitted = bdl.fit(
            jax.random.key(number), algorithm, posterior, model, float32(X, y), num_steps=800, progress=False
        )
        posterior, prior = fitted.posterior, priors.around(fitted.posterior)
    mean, precision = exact(X, other, *exact(X, Y, np.zeros(D), np.full(D, 0.8**-2)))
    family = posterior.tree["w"]
    assert np.abs((family.loc[:, 0] - mean) * np.sqrt(precision)).max() < 0.15
    np.testing.assert_allclose(family.scale[:, 0], precision**-0.5, rtol=0.07)


def test_around_a_posterior_is_that_posterior_with_fixed_numbers():
    mean, precision = exact(X, Y, np.zeros(D), np.full(D, 0.8**-2))
    posterior = exact_posterior(mean, precision)
    prior = priors.around(posterior)
    assert not jax.tree.leaves(bdl.partition(prior)[0])
    np.testing.assert_allclose(
        prior.log_prob({"w": jnp.zeros((D, 1))}), posterior.tree["w"].log_prob(jnp.zeros((D, 1)))
    )
    moved = bdl.posteriors.Factorised(
        {"w": bdl.families.NormalFamily(posterior.tree["w"].loc + 0.1, jnp.zeros((D, 1)))}
    )
    truth = 0.5 * (precision * (0.1**2 + 1) - 1 - np.log(precision)).sum()
    np.testing.assert_allclose(bdl.kl(jax.random.key(0), moved, prior), truth, rtol=1e-5)
    # Point masses among the families take the scale.
    mixed = bdl.posteriors.Factorised({"b": jnp.ones(2, jnp.bfloat16), "w": posterior.tree["w"]})
    prior = priors.around(mixed, scale=0.5)
    assert float(prior.scale) == 0.5
    expected = prior.distribution("w", jnp.zeros((D, 1))).log_prob(0.0).sum() + 2 * stats.norm.logpdf(0.0, 1.0, 0.5)
    np.testing.assert_allclose(prior.log_prob({"b": jnp.zeros(2), "w": jnp.zeros((D, 1))}), expected, rtol=1e-5)


def test_around_a_network_leaves_new_layers_to_other_priors():
    trained = {"body": {"kernel": jnp.full((3, 4), 2.0)}, "head": {"kernel": jnp.ones((4, 10))}}
    prior = priors.by_path({"head/*": priors.fan_in(), "*": priors.around(trained, scale=0.1)})
    fresh = {"body": trained["body"], "head": {"kernel": jnp.zeros((4, 3))}}
    assert float(prior.distribution("body/kernel", fresh["body"]["kernel"]).loc[0, 0]) == 2.0
    assert float(prior.distribution("head/kernel", fresh["head"]["kernel"]).loc) == 0.0
    expected = 12 * stats.norm.logpdf(0.0, 0.0, 0.1) + 12 * stats.norm.logpdf(0.0, 0.0, 0.5**0.5)
    np.testing.assert_allclose(prior.log_prob(fresh), expected, rtol=1e-5)


class Dependent(bdl.families.NormalFamily):
    def total_correlation(self):
        return jnp.float32(1.0)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: priors.around({"w": jnp.zeros(2)}), ValueError, "w are plain arrays.*Give `scale`"),
        (lambda: priors.around({"w": jnp.zeros(2)}, scale=-1.0), ValueError, "`scale` must be positive"),
        (lambda: priors.around(jnp.zeros(2), scale=1.0), TypeError, "nested dicts of arrays, or a posterior made of"),
        (
            lambda: priors.around(bdl.variational({"w": jnp.ones((2, 2))}, bdl.families.bernoulli_dropout(0.1))),
            TypeError,
            r"BernoulliDropout of 'w' has no `distribution`.*around\(posterior.mean, scale=...\)",
        ),
        (
            lambda: priors.around(bdl.posteriors.Factorised({"w": Dependent(jnp.zeros(2), jnp.zeros(2))})),
            TypeError,
            "Dependent of 'w' has dependent entries",
        ),
        (
            lambda: priors.around({"w": jnp.zeros(2)}, scale=1.0).log_prob({"v": jnp.zeros(2)}),
            ValueError,
            "there is no 'v' in what was trained; its paths are w.*prior of their own",
        ),
        (
            lambda: priors.around({"w": jnp.zeros(2)}, scale=1.0).log_prob({"w": jnp.zeros(3)}),
            ValueError,
            r"'w' has shape \(3,\), but what was trained has \(2,\)",
        ),
        (lambda: priors.scale_mixture(weight=1.0), ValueError, "`weight` must be between 0 and 1, got 1.0"),
        (lambda: priors.scale_mixture(weight=bdl.learned(2.0)), ValueError, "`weight` must be between 0 and 1"),
        (lambda: priors.scale_mixture(wide=0.1, narrow=0.2), ValueError, "`narrow` must be below `wide`"),
        (lambda: priors.scale_mixture(narrow=-0.1), ValueError, "`narrow` of _ScaleMixture must be Positive"),
        (lambda: priors.laplace(0.0), ValueError, "`scale` of Laplace must be Positive"),
    ],
)
def test_errors_name_what_is_wrong(make, error, message):
    with pytest.raises(error, match=message):
        make()


def log_evidence(variance):
    """log p(Y | prior variance), in float64, by the eigenvalues of the covariance."""
    gain, projection = (X**2).sum(0), (X.T @ Y)[:, 0]
    spread = SCALE**2 + gain * variance
    fit = projection**2 / gain
    rest = (Y**2).sum() - fit.sum()
    logs = np.log(spread).sum() + (N - D) * np.log(SCALE**2)
    return -0.5 * (logs + (fit / spread).sum() + rest / SCALE**2 + N * np.log(2 * np.pi))


def test_the_elbos_gradient_in_the_priors_scale_is_that_of_the_evidence():
    """Empirical Bayes, exact where mean field is: zero at the scale that the evidence is largest at."""
    scales = np.exp(np.linspace(-3, 2, 20_001))
    best = scales[np.argmax([log_evidence(s**2) for s in scales])]
    assert 0.3 < best < 1.5
    data = float32(X, Y)

    @jax.jit
    def gradient(posterior, scale):
        def elbo(log_scale):
            prior = priors.normal(scale=jnp.exp(log_scale))
            model = bdl.Model(NETWORK, bdl.likelihoods.Normal(scale=SCALE), prior)
            return bdl.elbo(jax.random.key(0), posterior, model, data, num_data=N).elbo

        return jax.grad(elbo)(jnp.log(scale))

    for scale in (0.5 * best, best, 2.0 * best):
        posterior = exact_posterior(*exact(X, Y, np.zeros(D), np.full(D, scale**-2)))
        h = 1e-5
        slope = (log_evidence((scale * np.exp(h)) ** 2) - log_evidence((scale * np.exp(-h)) ** 2)) / (2 * h)
        np.testing.assert_allclose(gradient(posterior, scale), slope, rtol=1e-3, atol=2e-3)
        assert (abs(slope) < 2e-3) == (scale == best)


def test_fit_learns_the_scale_of_the_largest_evidence():
    scales = np.exp(np.linspace(-3, 2, 20_001))
    best = scales[np.argmax([log_evidence(s**2) for s in scales])]
    algorithm = bdl.inference.vi(optax.adam(optax.cosine_decay_schedule(0.05, 1000)), num_samples=4)
    posterior = bdl.variational(NETWORK.params, bdl.families.normal(scale=0.2))
    model = bdl.Model(NETWORK, bdl.likelihoods.Normal(scale=SCALE), priors.normal(scale=bdl.learned(3.0)))
    fitted = bdl.fit(jax.random.key(1), algorithm, posterior, model, float32(X, Y), num_steps=1000, progress=False)
    learned = fitted.model.prior.distribution("w", NETWORK.params["w"]).scale
    np.testing.assert_allclose(learned, best, rtol=0.05)
