"""SNGP: random features against their kernel, the Laplace approximation against float64, and the whole on two moons."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import expit, logsumexp, softmax
from scipy.stats import norm
from sklearn.datasets import make_moons

import bdl
from bdl import ood
from bdl.ood._gaussian_process import _variances
from bdl.ood._last_layer_curvature import _curvature, stacked
from tests.arrays import normals

N, D, K = 1_500, 6, 3  # two blocks of rows, the second not full
RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(N, D)).astype(np.float32)
KERNEL = (2 * RNG.normal(size=(D, K))).astype(np.float32)
POINTS = RNG.normal(size=(40, D)).astype(np.float32)
H = 5
POINTS_OF_BODY = normals(1, 9, H)
IDENTITY = bdl.network(lambda params, x: x * params["s"], {"s": jnp.ones(())})


def rows_of(features, normalise):
    """What the kernel sees of features, in float64."""
    h = np.asarray(features, np.float64)
    return (h - h.mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + 1e-6) if normalise else h


def rbf(a, b, length_scale):
    return np.exp(-0.5 * ((a[:, None] - b) ** 2).sum(-1) / length_scale**2)


@pytest.mark.usefixtures("strict_dtypes")
@pytest.mark.parametrize(("normalise", "length_scale"), [(True, None), (False, 1.7)])
def test_random_features_are_the_kernel_and_their_gradient_is_that_of_the_cosine(normalise, length_scale):
    count = 16_384
    network = ood.random_features(
        jax.random.key(0), IDENTITY, POINTS_OF_BODY, K,
        num_features=count, length_scale=length_scale, normalise=normalise,
    )  # fmt: skip
    found = ood.layer_features(network, "random_features")(POINTS_OF_BODY)
    h = rows_of(POINTS_OF_BODY, normalise)
    exact = rbf(h, h, length_scale or np.sqrt(H))
    # Each entry is a mean of D terms 2 cos cos, of variance at most 2.
    np.testing.assert_allclose(found @ found.T, exact, atol=5 * np.sqrt(2 / count))
    # Far from one in most entries, so that the bound says something.
    assert np.median(exact) < 0.6
    layer = network.state["random_features"]
    w, b, beta = (np.asarray(a, np.float64) for a in (layer["kernel"], layer["bias"], network.params["head"]["kernel"]))
    phase = h @ w + b
    np.testing.assert_allclose(found, np.sqrt(2 / count) * np.cos(phase), atol=2e-7)
    if not normalise:
        # df/dh = −√(2/D) W (sin(phase) · β)
        first = lambda x: network.apply(network.params, network.state, x)[0][:, 0].sum()
        slope = -np.sqrt(2 / count) * (np.sin(phase) * beta[:, 0]) @ w.T
        np.testing.assert_allclose(jax.jit(jax.grad(first))(POINTS_OF_BODY), slope, rtol=1e-4, atol=1e-5)


def test_w_and_b_stay_what_they_are_whatever_the_posterior_and_are_kept_in_a_file(tmp_path):
    x, y = POINTS_OF_BODY, np.arange(9) % 2
    body = bdl.network(lambda params, x: jnp.tanh(x @ params["w"]), {"w": normals(2, H, 4)})
    start = lambda seed: ood.random_features(jax.random.key(seed), body, x, 2, num_features=16)
    network = start(0)
    posterior = bdl.variational(network.params, bdl.families.normal(0.05))
    model = lambda network: bdl.Model(network, bdl.likelihoods.Categorical(), bdl.priors.normal(scale=1.0))
    algorithm = bdl.inference.vi(optax.adam(1e-2), num_samples=3)
    fitted = bdl.fit(jax.random.key(1), algorithm, posterior, model(network), (x, y), num_steps=60, progress=False)
    assert np.isfinite(fitted.history.elbo).all()
    means = fitted.posterior.mean
    assert np.abs(np.asarray(means["body"]["w"]) - body.params["w"]).max() > 1e-2
    assert np.abs(np.asarray(means["head"]["kernel"]) - network.params["head"]["kernel"]).max() > 1e-2
    layer = fitted.model.network.state["random_features"]
    for name, array in network.state["random_features"].items():
        # Up to rounding: the states of several draws are averaged.
        np.testing.assert_allclose(layer[name], array, rtol=1e-6)
    bdl.save(tmp_path / "sngp.npz", fitted.posterior, fitted.model)
    other = start(3)
    assert not np.array_equal(other.state["random_features"]["bias"], layer["bias"])
    fresh = bdl.variational(other.params, bdl.families.normal(0.05)), model(other)
    loaded, found = bdl.load(tmp_path / "sngp.npz", like=fresh)
    for name in layer:
        np.testing.assert_array_equal(found.network.state["random_features"][name], layer[name])
    np.testing.assert_array_equal(loaded.mean["head"]["kernel"], means["head"]["kernel"])


def precisions(features, kernel, prior_scale, kind):
    """Σ⁻¹ of each class [C, D, D] in float64."""
    f = features.astype(np.float64)
    if kind == "regression":
        weights = np.ones((1, len(f)))
    else:
        logits = f @ kernel.astype(np.float64)
        logits = np.stack([logits[:, 0], 0 * logits[:, 0]], 1) if kind == "binary" else logits
        p = softmax(logits, 1).T
        p = p if kind == "per class" else p.max(0, keepdims=True)
        weights = p * (1 - p)
    return np.einsum("cn,ni,nj->cij", weights, f, f) + np.eye(f.shape[1]) / prior_scale**2


@pytest.mark.usefixtures("strict_dtypes")
@pytest.mark.parametrize("kind", ["shared", "per class", "binary", "regression"])
def test_the_laplace_approximation_in_float64_whole_and_in_batches(kind):
    kernel = {"binary": KERNEL[:, :1], "regression": None}.get(kind, KERNEL)
    per_class = kind == "per class"
    detector = ood.gaussian_process(FEATURES, kernel, prior_scale=0.7, per_class=per_class)
    expected = np.linalg.inv(precisions(FEATURES, kernel, 0.7, kind))
    points = POINTS.astype(np.float64)
    variances = np.einsum("ni,cij,nj->nc", points, expected, points)
    np.testing.assert_allclose(detector.score.variances(POINTS), variances, rtol=2e-5)
    score = variances[:, 0]
    if kernel is not None:
        logits = points @ kernel
        np.testing.assert_allclose(
            detector.score.logits(POINTS), logits / np.sqrt(1 + np.pi / 8 * variances), rtol=2e-5, atol=2e-6
        )
        score = variances[np.arange(40), logits.argmax(1)] if per_class else score
    np.testing.assert_allclose(detector(POINTS), score, rtol=2e-5)
    # In three batches, one of them smaller than D: merged in either order, they are the whole.
    parts = [ood.last_layer_curvature(f, kernel, per_class=per_class) for f in np.split(FEATURES, [4, 752])]
    for merged in (parts[0].merge(parts[1]).merge(parts[2]), parts[2].merge(parts[0].merge(parts[1]))):
        assert merged.count == N
        batches = ood.gaussian_process(merged, kernel, prior_scale=0.7)
        np.testing.assert_allclose(batches(POINTS), score, rtol=2e-5)


def test_a_weak_prior_and_a_precision_of_condition_1e8_are_resolved_in_float32():
    scales = np.logspace(0, -4, D)
    rotation = np.linalg.qr(RNG.normal(size=(D, D)))[0]
    draw = lambda count: (RNG.normal(size=(count, D)) * scales @ rotation.T).astype(np.float32)
    features, points = draw(N), draw(40)
    precision = precisions(features, None, 1e3, "regression")[0]
    assert 5e7 < np.linalg.cond(precision) < 1e9
    expected = np.einsum("ni,ij,nj->n", points, np.linalg.inv(precision), points)
    # Half the digits of float32 are left in the narrowest direction: ε 10⁴ is 1e-3.
    np.testing.assert_allclose(ood.gaussian_process(features, prior_scale=1e3)(points), expected, rtol=5e-3)


def test_probabilities_that_round_to_one_keep_their_curvature():
    features = np.full((50, 1), 20.0, np.float32)  # 1 − p = exp(−20), which float32 rounds away beside 1
    found = ood.gaussian_process(features, np.array([[1.0, 0.0]]), prior_scale=1e4)(np.ones((1, 1)))
    np.testing.assert_allclose(found, 1 / (50 * 400 * expit(20) * expit(-20) + 1e-8), rtol=1e-5)
    extreme = ood.gaussian_process(200 * FEATURES, 200 * KERNEL)
    assert np.isfinite(extreme(POINTS)).all()


MOONS, SIDES = make_moons(200, noise=0.1, random_state=0)
MOONS = MOONS.astype(np.float32)
RAY = np.array([0.5, 0.25]) + np.array([0, 1, 2, 3, 5, 8])[:, None] * np.array([0.6, 0.8])


def test_the_variance_is_that_of_the_exact_gaussian_process_and_grows_with_distance():
    network = ood.random_features(
        jax.random.key(0), IDENTITY, MOONS, 1, num_features=1_024, length_scale=1.0, normalise=False
    )
    features = ood.layer_features(network, "random_features")
    points = np.concatenate([MOONS[:20], RAY]).astype(np.float32)
    of_all = features(np.concatenate([MOONS, points]))
    found = ood.gaussian_process(of_all[:200])(of_all[200:])
    of_points, of_moons = rbf(points, MOONS, 1.0), rbf(MOONS, MOONS, 1.0)
    exact = 1 - np.einsum("nm,mk,nk->n", of_points, np.linalg.inv(of_moons + np.eye(200)), of_points)
    # The features' prior variance alone, |Φ|², has a standard error of √(1 / (2 D)) = 0.022.
    np.testing.assert_allclose(found, exact, atol=5 * 0.022)
    assert (np.diff(found[20:]) > -0.022).all()
    assert np.max(found[:20]) < 0.2 < 0.9 < np.min(found[-3:])


@pytest.mark.slow
def test_sngp_of_two_moons_is_sure_near_them_and_unsure_far_away():
    body = bdl.networks.mlp(jax.random.key(0), MOONS, 16, widths=())
    body = ood.spectral_norm(jax.random.key(1), body, MOONS, coefficient=3.0)
    network = ood.random_features(jax.random.key(2), body, MOONS, 2, num_features=64, length_scale=1.0, normalise=False)
    prior = {"head/*": bdl.priors.normal(scale=3.0), "*": bdl.priors.normal()}
    model = bdl.Model(network, bdl.likelihoods.Categorical(), prior)
    posterior = bdl.variational(network.params, bdl.families.point)
    algorithm = bdl.inference.vi(optax.adam(1e-2))
    fitted = bdl.fit(jax.random.key(3), algorithm, posterior, model, (MOONS, SIDES), num_steps=300, progress=False)
    params, state = fitted.posterior.sample(jax.random.key(4)), fitted.model.network.state
    for name, array in network.state["random_features"].items():
        np.testing.assert_array_equal(state["random_features"][name], array)
    for path, vector in network.state["body"]["spectral_norm"].items():
        assert not np.array_equal(state["body"]["spectral_norm"][path], vector)
    fitted_network = dataclasses.replace(fitted.model.network, params=params)
    layers = ood.layer_features(fitted_network, ["random_features", "body/head"])
    far = np.array([[20.0, 0.0], [0.0, 20.0], [-20.0, 5.0], [10.0, -15.0]], np.float32)
    found = layers(np.concatenate([MOONS, far]))
    assert {path: a.shape for path, a in found.items()} == {"random_features": (204, 64), "body/head": (204, 16)}
    near, away = np.split(np.asarray(found["random_features"]), [200])
    kernel = params["head"]["kernel"]
    gp = ood.gaussian_process(near, kernel, prior_scale=3.0)
    assert (np.argmax(gp.score.logits(near), 1) == SIDES).mean() > 0.97
    assert np.median(gp(near)) < 0.5 * 9 < 0.8 * 9 < np.min(gp(away))  # of σ² = 9
    assert (np.abs(gp.score.logits(away)) < 0.6 * np.abs(away @ kernel)).all()
    assert gp.held_out(near).flag(away).all()


@pytest.mark.usefixtures("strict_dtypes")
def test_mean_field_of_a_sigmoid_is_its_mean_to_two_hundredths():
    mean, variance = np.meshgrid(np.linspace(-6, 6, 13), [0.0, 0.3, 1.0, 4.0, 25.0])
    grid = np.linspace(-9, 9, 2_001)
    exact = np.trapezoid(expit(mean[..., None] + np.sqrt(variance)[..., None] * grid) * norm.pdf(grid), grid)
    found = ood.mean_field_logits(jnp.asarray(mean, jnp.float32)[..., None], jnp.asarray(variance, jnp.float32))
    np.testing.assert_allclose(expit(found[..., 0]), exact, atol=0.02)
    scaled = ood.mean_field_logits(normals(0, 4, 3), normals(1, 4, 3) ** 2, factor=2.0)
    np.testing.assert_allclose(scaled, normals(0, 4, 3) / np.sqrt(1 + 2 * np.asarray(normals(1, 4, 3)) ** 2), rtol=1e-6)


@pytest.mark.usefixtures("strict_dtypes")
def test_dempster_shafer_by_its_formula_at_all_sizes_of_logits():
    logits = np.concatenate([10 * POINTS[:, :4], np.array([[80.0, 0, 0, -80.0], [-80.0] * 4])])
    total = np.exp(logits.astype(np.float64)).sum(1)
    found = ood.dempster_shafer(logits)
    np.testing.assert_allclose(found, 4 / (4 + total), rtol=1e-5)
    np.testing.assert_array_equal(np.argsort(found[:40]), np.argsort(ood.energy(logits[:40])))
    np.testing.assert_allclose(ood.energy(logits[:40]), -logsumexp(logits[:40], 1), rtol=1e-5)


def test_scores_in_a_jit_with_their_gradient_and_without_a_second_trace():
    traces = []

    @jax.jit
    def run(detector, x):
        traces.append(1)
        return jax.value_and_grad(lambda x: detector(x).sum())(x)

    made = [ood.gaussian_process(f, KERNEL) for f in (FEATURES, FEATURES[::-1] / 2)]
    (total, slope), _ = (run(detector, jnp.asarray(POINTS)) for detector in made)
    assert len(traces) == 1
    covariance = np.linalg.inv(precisions(FEATURES, KERNEL, 1.0, "shared")[0])
    # d Φᵀ Σ Φ / dΦ = 2 Σ Φ
    np.testing.assert_allclose(slope, 2 * POINTS @ covariance, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(total, np.einsum("ni,ij,nj->", POINTS, covariance, POINTS), rtol=1e-5)
    curvature = [ood.last_layer_curvature(f[:900], KERNEL) for f in (FEATURES, FEATURES[::-1])]
    compiled = lambda: [f._cache_size() for f in (_curvature, stacked, _variances)]
    made[0](POINTS)
    sizes = compiled()
    ood.gaussian_process(curvature[0].merge(curvature[1]), KERNEL, prior_scale=2.0)(POINTS)
    ood.gaussian_process(ood.last_layer_curvature(FEATURES[300:1200], KERNEL), KERNEL, prior_scale=3.0)(POINTS)
    assert compiled() == sizes


NAN = np.array([[1.0, np.nan]])


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: ood.gaussian_process(FEATURES, KERNEL[:4]), r"kernel \[6, K\], one row for each feature, .*\(4, 3\)"),
        (lambda: ood.gaussian_process(FEATURES, KERNEL * np.inf), "expected a finite kernel"),
        (lambda: ood.gaussian_process(FEATURES, prior_scale=0.0), "expected one prior_scale above 0, got 0.0"),
        (lambda: ood.gaussian_process(FEATURES, per_class=True), "per_class=True is about the classes of a kernel"),
        (
            lambda: ood.gaussian_process(ood.last_layer_curvature(FEATURES, KERNEL, per_class=True)),
            r"expected the kernel \[6, 3\] that the curvature of each class is of, got none",
        ),
        (lambda: ood.gaussian_process(ood.last_layer_curvature(FEATURES), per_class=True), "Leave out per_class"),
        (lambda: ood.gaussian_process(NAN), "nan at row 0, column 1"),
        (lambda: ood.gaussian_process(FEATURES)(POINTS[:, :2]), r"expected features \[N, 6\]"),
        (lambda: ood.gaussian_process(FEATURES).score.logits(POINTS), "has no kernel to make logits with"),
        (
            lambda: ood.last_layer_curvature(FEATURES).merge(ood.last_layer_curvature(FEATURES[:, :2])),
            r"roots of one shape, got \(1, 6, 6\) and \(1, 2, 2\)",
        ),
        (lambda: ood.mean_field_logits(np.zeros((4, 3)), np.zeros(3)), r"got shapes \(4, 3\) and \(3,\)"),
        (lambda: ood.mean_field_logits(np.zeros((1, 3)), -np.ones(1)), "finite and at least 0"),
        (lambda: ood.mean_field_logits(np.zeros((1, 3)), np.ones(1), factor=-1.0), "factor of at least 0, got -1.0"),
        (lambda: ood.dempster_shafer(np.zeros((1, 1))), "of K >= 2 classes"),
        (lambda: make(num_features=0), "`num_features` as a whole number of at least 1, got 0"),
        (lambda: make(num_outputs=2.0), "`num_outputs` as a whole number of at least 1, got 2.0"),
        (lambda: make(length_scale=-1.0), "finite length_scale above 0, got -1.0"),
        (lambda: make(dataclasses.replace(IDENTITY, params=None)), "this network has no weights"),
        (lambda: make(bdl.network(lambda p, x: (x, x), {"a": jnp.ones(1)})), "outputs that are a tuple"),
        (lambda: make(bdl.network(lambda p, x: x[:, 0], {"a": jnp.ones(1)})), r"outputs that are float32\[9\]"),
    ],
)
def test_bad_input_is_told_what_to_do(run, message):
    with pytest.raises(ValueError, match=message):
        run()


def make(network=IDENTITY, num_outputs=2, **options):
    return ood.random_features(jax.random.key(0), network, POINTS_OF_BODY, num_outputs, **options)


@pytest.mark.slow
def test_the_benchmark_runs_and_is_not_run_again(load_benchmark, tmp_path):
    pixels = lambda count: RNG.integers(0, 256, (count, 28, 28)).astype(np.uint8)
    labels = (np.arange(300) % 10).astype(np.uint8)
    files = {
        "fashion_mnist/fashion_mnist": {"x_train": pixels(300), "y_train": labels, "x_test": pixels(100)},
        "mnist/mnist": {"x_test": pixels(100)},
        "notmnist/notmnist_t10k": {"x_test": pixels(100)},
    }
    files["fashion_mnist/fashion_mnist"]["y_test"] = labels[:100]
    for name, arrays in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.savez(tmp_path / name, **arrays)
    command = ["--fast", "--data", str(tmp_path), "--output", str(tmp_path)]
    study = load_benchmark("single_pass")
    rows = study.main(command)["3 steps, 300 images"]
    table = study.summary(rows)
    assert len(table) == 9
    assert table["plain, energy"]["seeds"] == study.MEMBERS
    assert all(np.isfinite(row["auroc_digits"]) and np.isfinite(row["nll"]) for row in table.values())
    assert study.main(command)["3 steps, 300 images"] == rows
