"""Scores of generative models: reconstructions by hand, densities in closed form, and what a background model sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest, multivariate_normal

import bdl
from bdl import ood
from bdl.networks import LatentOutputs
from tests.arrays import normals
from tests.linear_vae import exact_params

KEY = jax.random.key(0)
IMAGES = normals(0, 5, 2, 3, 2)
HALVED = bdl.network(lambda p, x: x * p["a"], {"a": jnp.float32(0.5)})


@pytest.mark.usefixtures("strict_dtypes")
@pytest.mark.parametrize(("reduce", "count"), [("sum", 1), ("mean", 12)])
def test_reconstruction_error_by_hand(reduce, count):
    expected = (0.25 * np.asarray(IMAGES, np.float64) ** 2).sum((1, 2, 3)) / count
    np.testing.assert_allclose(ood.reconstruction_error(HALVED, reduce=reduce)(IMAGES), expected, rtol=1e-6)
    in_parts = ood.reconstruction_error(HALVED, reduce=reduce, batch_size=2)
    np.testing.assert_allclose(in_parts(IMAGES), expected, rtol=1e-6)


def test_reconstruction_error_of_a_draw_of_integers_and_of_a_mean():
    posterior, model = bdl.variational(HALVED.params, bdl.families.point), bdl.Model(HALVED, bdl.likelihoods.Normal())
    expected = np.mean(0.25 * np.asarray(IMAGES, np.float64) ** 2, (1, 2, 3))
    drawn = ood.reconstruction_error(bdl.function_draw(KEY, posterior, model))
    np.testing.assert_allclose(drawn(IMAGES), expected, rtol=1e-6)
    with_latents = ood.reconstruction_error(lambda x: LatentOutputs(0.5 * x, jnp.ones(len(x))))
    np.testing.assert_allclose(with_latents(IMAGES), expected, rtol=1e-6)
    pixels = np.array([[200, 100], [0, 3]], np.uint8)
    half = ood.reconstruction_error(lambda x: 0.5 * x.astype(jnp.float32), reduce="sum")
    np.testing.assert_allclose(half(pixels), [100.0**2 + 50.0**2, 1.5**2])


def test_reconstruction_error_is_traced_once():
    traces = []

    def apply(params, x):
        traces.append(1)
        return x * params["a"]

    for a in (0.5, 0.25):
        network = bdl.network(apply, {"a": jnp.float32(a)})
        ood.reconstruction_error(network)(IMAGES)
        ood.reconstruction_error(network)(2 * IMAGES)
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ood.reconstruction_error(HALVED, reduce="max"), ValueError, "reduce=.* got 'max'"),
        (lambda: ood.reconstruction_error(3), TypeError, "expected a bdl.Network or a function"),
        (
            lambda: ood.reconstruction_error(lambda x: x[..., :1])(IMAGES),
            ValueError, r"the inputs' shape \(5, 2, 3, 2\), got \(5, 2, 3, 1\)",
        ),
    ],
)  # fmt: skip
def test_reconstructions_that_are_none_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


class LinearVAE:
    """x = A z + b + noise, with the exact posterior as its encoder, so that every draw's weight is the evidence."""

    latents, scale = 2, 0.7

    def __init__(self, seed, dim=4):
        rng = np.random.default_rng(seed)
        # Orthogonal columns: the posterior of z is then a product, as q is.
        self.weights = np.linalg.qr(rng.normal(size=(dim, self.latents)))[0] * [1.5, 0.6]
        self.bias, self.noise = rng.normal(size=dim), self.scale**2 * np.eye(dim)
        self.density = multivariate_normal(self.bias, self.weights @ self.weights.T + self.noise)

    @property
    def params(self):
        return exact_params(self.weights, self.bias, self.scale)


POINTS = 2 * normals(1, 12, 4)
NETWORK = bdl.networks.vae(KEY, POINTS, LinearVAE.latents, widths=())
MODEL = bdl.Model(NETWORK, bdl.latent(bdl.likelihoods.Normal(scale=LinearVAE.scale)))


def detector(params, count=3, **options):
    return ood.negative_log_density(
        KEY, bdl.variational(params, bdl.families.point), MODEL, num_samples=count, **options
    )


def test_density_and_ratio_against_the_closed_form():
    data, background = LinearVAE(1), LinearVAE(2)
    one, other = detector(data.params), detector(background.params)
    x = np.asarray(POINTS, np.float64)
    np.testing.assert_allclose(one(POINTS), -data.density.logpdf(x), rtol=2e-5)
    ratio = ood.likelihood_ratio(one, other)
    expected = background.density.logpdf(x) - data.density.logpdf(x)
    np.testing.assert_allclose(ratio(POINTS), expected, atol=2e-4)
    assert expected.min() < 0 < expected.max()
    in_parts = detector(data.params, batch_size=5)
    np.testing.assert_allclose(in_parts(POINTS), -data.density.logpdf(x), rtol=2e-5)

    # A worse encoder: a bound from above, which falls with the number of draws.
    wrong = data.params
    wrong["encoder"]["head"]["bias"] = wrong["encoder"]["head"]["bias"] + jnp.array([0.5, 0.0, 0.0, 0.4])
    few, many = (np.asarray(detector(wrong, count)(POINTS), np.float64) for count in (3, 500))
    truth = -data.density.logpdf(x)
    assert few.mean() > many.mean() > truth.mean() - 0.05
    np.testing.assert_allclose(many, truth, atol=0.3)


def test_density_of_an_autoencoder_is_an_error_in_nats():
    posterior, model = (
        bdl.variational(HALVED.params, bdl.families.point),
        bdl.Model(HALVED, bdl.likelihoods.Normal(0.3)),
    )
    expected = (0.25 * np.asarray(IMAGES, np.float64) ** 2).sum((1, 2, 3)) / (2 * 0.3**2)
    found = np.asarray(ood.negative_log_density(KEY, posterior, model)(IMAGES), np.float64)
    np.testing.assert_allclose(found, expected + 12 * (np.log(0.3) + 0.5 * np.log(2 * np.pi)), rtol=1e-5)
    with pytest.raises(ValueError, match="this posterior is random. Say how many draws"):
        ood.negative_log_density(KEY, bdl.variational(NETWORK.params, bdl.families.point), MODEL)
    with pytest.raises(TypeError, match="expected one random key"):
        ood.negative_log_density(0, posterior, model)


def test_scores_that_do_not_match_are_refused():
    ratio = ood.likelihood_ratio(lambda x: x[:, 0], lambda x: x)
    with pytest.raises(ValueError, match=r"scores of one shape, got \(3,\) and \(3, 1\)"):
        ratio(np.ones((3, 1), np.float32))
    with pytest.raises(TypeError, match="Detectors or functions of inputs, got float"):
        ood.likelihood_ratio(ratio, 1.0)
    held = ood.likelihood_ratio(ood.Detector(lambda x: x).held_out(jnp.ones(3)), lambda x: 0 * x)
    assert held.inliers is None, "scores are others now"


def test_elements_are_replaced_at_the_rate_by_uniform_numbers():
    x, rate = jnp.full((500, 4, 5), 7.0), 0.3
    found = np.asarray(ood.perturbed(KEY, x, rate=rate, low=-1.0, high=2.0))
    replaced = found != 7.0
    assert abs(replaced.mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / x.size)
    # Independently: of two neighbours both are replaced with the probability rate².
    both = (replaced[..., 1:] & replaced[..., :-1]).mean()
    assert abs(both - rate**2) < 5 * np.sqrt(rate**2 / (x.size * 0.8))
    assert kstest(found[replaced], "uniform", args=(-1.0, 3.0)).pvalue > 1e-4
    np.testing.assert_array_equal(found, ood.perturbed(KEY, x, rate=rate, low=-1.0, high=2.0))
    np.testing.assert_array_equal(ood.perturbed(KEY, x, rate=0.0, low=-1.0, high=2.0), x)


def test_integers_and_columns_have_their_own_ranges():
    levels = np.asarray(ood.perturbed(KEY, jnp.full((500, 20), 9, jnp.uint8), rate=1, low=0, high=3))
    assert levels.dtype == np.uint8
    shares = np.bincount(levels.ravel(), minlength=4) / levels.size
    assert shares.shape == (4,)
    assert (np.abs(shares - 0.25) < 5 * np.sqrt(0.25 * 0.75 / levels.size)).all()
    full = np.asarray(ood.perturbed(KEY, jnp.zeros((500, 20), jnp.uint8), rate=1, low=0, high=255))
    assert (full.min(), full.max()) == (0, 255)
    low, high = np.array([0.0, -10.0], np.float32), np.array([1.0, -5.0], np.float32)
    table = np.asarray(ood.perturbed(KEY, jnp.full((500, 2), 99.0), rate=1.0, low=low, high=high))
    assert ((table >= low) & (table <= high)).all()
    assert (np.ptp(table, 0) > 0.9 * (high - low)).all()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"rate": 20}, ValueError, r"`rate` in \[0, 1\], got 20. 20 % are 0.2"),
        ({"low": 2.0}, ValueError, "`low` of at most `high`"),
        ({"high": np.inf}, ValueError, "`high` as a finite number of the inputs' float32"),
        ({"x": np.zeros((3, 2), np.uint8), "high": 300}, ValueError, "the inputs' uint8, got 300"),
        ({"x": np.zeros((3, 2), np.uint8), "high": 0.5}, ValueError, "the inputs' uint8, got 0.5"),
        ({"x": np.zeros((3, 2), bool)}, TypeError, "got flags"),
        ({"x": np.array([[np.nan, 1.0]], np.float32)}, ValueError, "x is nan at row 0, column 0"),
        ({"low": np.zeros(3)}, ValueError, r"one example's \(2,\), got shape \(3,\)"),
        ({"key": 3}, TypeError, "expected one random key"),
    ],
)
def test_perturbations_that_cannot_be_are_refused(changes, error, message):
    arguments = {"key": KEY, "x": np.zeros((3, 2), np.float32), "rate": 0.2, "low": 0, "high": 1} | changes
    with pytest.raises(error, match=message):
        ood.perturbed(arguments.pop("key"), arguments.pop("x"), **arguments)
