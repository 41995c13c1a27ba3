"""Shifts of images, rotation prediction and CSI: each by hand, with loops in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import ndimage

import bdl
from bdl._keys import derive
from bdl.ood import training
from bdl.ood.training import augmented, csi_score, permuted_patches, rotations, shift_score, shifted
from bdl.ood.training._augment import resampling
from bdl.ood.training._csi import contrastive_loss
from tests.arrays import normals
from tests.finite_differences import gradient

N, SIDE, E, K, TAU, WEIGHT, RATE, DATA_SIZE = 3, 2, 2, 4, 0.5, 0.7, 0.1, 40
X = normals(0, N, SIDE, SIDE, 1)
W = normals(1, SIDE * SIDE, E + K)


def flat(params, x):
    return x.reshape(len(x), -1) @ params["w"]


LINEAR = bdl.network(flat, {"w": W})
LIKELIHOOD = training.CategoricalWithEmbedding(K)


def shaken(key, x):
    return x + 0.3 * jax.random.normal(key, x.shape)


def turned(x, k):
    return np.stack([np.rot90(image, k) for image in x])


def log_softmax(f):
    return f - np.log(np.exp(f).sum(-1, keepdims=True))


def of_rows(x, w):
    """Embeddings and logits [K, N, ...] of images, under every rotation, in float64."""
    f = np.stack([turned(x, k).reshape(len(x), -1) @ w for k in range(K)])
    return f[..., :E], f[..., E:]


def csi_by_hand(copies, w):
    """Both losses, of augmented copies [2, K, N, H, W, C] that are not yet shifted; one row at a time."""
    rows = [(v, k, n) for v in range(2) for k in range(K) for n in range(len(copies[0, 0]))]
    f = {row: np.rot90(copies[row], row[1]).reshape(-1) @ w for row in rows}
    z = {row: f[row][:E] / np.linalg.norm(f[row][:E]) for row in rows}
    contrast, told = [], []
    for row in rows:
        twin = (1 - row[0], *row[1:])
        others = sum(np.exp(z[row] @ z[other] / TAU) for other in rows if other != row)
        contrast.append(-np.log(np.exp(z[row] @ z[twin] / TAU) / others))
        told.append(-log_softmax(f[row][E:])[row[1]])
    return np.mean(contrast), np.mean(told)


def start(network=LINEAR, likelihood=LIKELIHOOD, families=bdl.families.point):
    posterior = bdl.variational(network.params, families)
    return posterior, bdl.Model(network, likelihood, bdl.priors.normal(scale=1.0))


@pytest.mark.usefixtures("strict_dtypes")
def test_a_step_of_csi_is_that_of_the_losses_by_hand():
    algorithm = training.csi(optax.sgd(RATE), shaken, temperature=TAU, weight=WEIGHT)
    key = jax.random.key(7)
    state = algorithm.init(key, *start(), num_data=DATA_SIZE)
    after, info = jax.jit(algorithm.step)(key, state, (X, jnp.full(N, 9)))
    copies = shaken(derive(key, "augment"), jnp.asarray(np.tile(X, (2 * K, 1, 1, 1))))
    copies = np.asarray(copies, np.float64).reshape(2, K, N, SIDE, SIDE, 1)
    w = np.asarray(W, np.float64)
    log_prior = lambda w: -0.5 * (w**2).sum() - 0.5 * w.size * np.log(2 * np.pi)

    def loss(w):
        contrast, told = csi_by_hand(copies, w)
        return contrast + WEIGHT * told - log_prior(w) / DATA_SIZE

    slope = gradient(loss, w)
    contrast, told = csi_by_hand(copies, w)
    np.testing.assert_allclose(after.posterior.tree["w"], w - RATE * slope, rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose([info.log_likelihood, info.penalty], [-DATA_SIZE * contrast, told], rtol=2e-6)
    np.testing.assert_allclose([info.kl, info.elbo], [-log_prior(w), -DATA_SIZE * contrast + log_prior(w)], rtol=2e-6)
    np.testing.assert_allclose(info.gradient_norm, np.linalg.norm(slope), rtol=1e-5)
    assert isinstance(info, training.PenalisedInfo)
    assert after.step == 1


@pytest.mark.usefixtures("strict_dtypes")
def test_the_contrastive_loss_in_closed_form_and_at_extremes():
    count = 6
    value = jax.jit(jax.value_and_grad(lambda z: contrastive_loss(z, TAU)))
    rows = np.tile(np.eye(count, dtype=np.float32), (2, 1))  # twins alike, all others at right angles
    found, _ = value(rows)
    np.testing.assert_allclose(found, np.log(np.exp(1 / TAU) + 2 * count - 2) - 1 / TAU, rtol=1e-6)
    # K shifts of each of N images, alike whatever the shift: 2 K − 1 rows at a cosine of one, and not the twin alone.
    images = 3
    found, _ = value(np.tile(np.eye(images, count, dtype=np.float32), (2 * K, 1)))
    near, far = (2 * K - 1) * np.exp(1 / TAU), 2 * K * (images - 1)
    np.testing.assert_allclose(found, np.log(near + far) - 1 / TAU, rtol=1e-6)
    np.testing.assert_allclose(value(np.ones((2 * count, count), np.float32))[0], np.log(2 * count - 1), rtol=1e-6)
    for scale in (0.0, 1e-30, 1e30):
        found, gradient = value(scale * np.asarray(normals(2, 2 * count, count)))
        assert np.isfinite(found)
        assert np.isfinite(gradient).all()
    assert not np.asarray(value(np.zeros((2 * count, count), np.float32))[1]).any()


def csi_score_by_hand(x_train, x, w, norm=True):
    """One input, one shift, one training example at a time."""
    (bank, logits), (z, g) = of_rows(x_train, w), of_rows(x, w)
    scores = np.zeros(len(x))
    for k in range(K):
        of_embedding = len(x_train) / sum(np.linalg.norm(b) for b in bank[k]) if norm else 1.0
        of_logit = len(x_train) / sum(row[k] for row in logits[k])
        for n in range(len(x)):
            length = np.linalg.norm(z[k, n])
            near = max(z[k, n] @ b / (length * np.linalg.norm(b)) for b in bank[k])
            scores[n] -= of_embedding * near * (length if norm else 1.0) + of_logit * g[k, n, k]
    return scores


def telling(x):
    """Weights whose own logits are positive at every rotation of these data, more or less so, and the embedding."""
    w = np.array(W)
    for k in range(K):
        w[:, E + k] = (1 + k) * turned(np.asarray(x), k).reshape(len(x), -1).mean(0)
    return w


def test_scores_are_those_by_hand_in_any_batches_and_traced_once():
    traces = []

    def network(params, x):
        traces.append(x.shape)
        return flat(params, x)

    x_train, x = np.asarray(normals(3, 7, SIDE, SIDE, 1)), np.asarray(normals(4, 5, SIDE, SIDE, 1))
    w = telling(x_train)
    network = bdl.network(network, {"w": jnp.asarray(w)})
    detector = csi_score(network, x_train, batch_size=3)
    expected = csi_score_by_hand(*(a.astype(np.float64) for a in (x_train, x, w)))
    np.testing.assert_allclose(detector(x), expected, rtol=2e-5, atol=2e-5)
    assert expected.std() > 0.5
    before = len(traces)
    np.testing.assert_allclose(detector(x[::-1]), expected[::-1], rtol=2e-5, atol=2e-5)
    assert len(traces) == before
    alone = csi_score(network, x_train, norm=False)
    expected = csi_score_by_hand(*(a.astype(np.float64) for a in (x_train, x, w)), norm=False)
    np.testing.assert_allclose(alone(x), expected, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(np.mean(alone(x_train)), -2 * K, rtol=1e-5)
    # By its weights all of its terms have a mean of 1 on the data of the fit.
    np.testing.assert_allclose(np.mean(detector(x_train)), -2 * K, rtol=1e-5)

    logits = bdl.network(lambda params, x: flat(params, x)[:, E:], {"w": jnp.asarray(w)})
    log_probs = log_softmax(of_rows(x.astype(np.float64), w.astype(np.float64))[1])
    expected = -np.mean([log_probs[k, :, k] for k in range(K)], 0)
    for batch_size in (None, 2):
        np.testing.assert_allclose(shift_score(logits, batch_size=batch_size)(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_shifts_are_those_of_numpy(channels):
    x = np.asarray(normals(5, 2, 6, 6, channels))
    copies, labels = shifted(x)
    np.testing.assert_array_equal(copies, np.concatenate([turned(x, k) for k in range(4)]))
    np.testing.assert_array_equal(labels, np.repeat(np.arange(4), 2))
    assert labels.dtype == jnp.int32

    x = np.asarray(normals(6, 2, 5, 4, channels))
    copies, labels = shifted(x, shifts=permuted_patches)
    up = lambda a: np.concatenate([a[:, 2:], a[:, :2]], 1)
    left = lambda a: np.concatenate([a[:, :, 2:], a[:, :, :2]], 2)
    np.testing.assert_array_equal(copies, np.concatenate([x, left(x), up(x), left(up(x))]))


@pytest.mark.usefixtures("strict_dtypes")
def test_crops_and_flips_are_bilinear():
    height, width = 5, 7
    image = np.asarray(normals(8, height, width))
    top, left, tall, wide = 0.1, 0.25, 0.6, 0.7
    parts = [np.full(1, a, np.float32) for a in (top, tall, left, wide)]
    rows, columns = jax.jit(lambda a, b, c, d: (resampling(height, a, b), resampling(width, c, d)))(*parts)
    at = lambda start, length, size: start * size + length * (np.arange(size) + 0.5) - 0.5
    places = np.meshgrid(at(top, tall, height), at(left, wide, width), indexing="ij")
    expected = ndimage.map_coordinates(image.astype(np.float64), places, order=1, mode="nearest")
    np.testing.assert_allclose(np.asarray(rows)[0] @ image @ np.asarray(columns)[0].T, expected, atol=2e-6)
    np.testing.assert_allclose(np.asarray(rows).sum(-1), 1, rtol=1e-6)


@pytest.mark.usefixtures("strict_dtypes")
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_augmented_images_are_as_asked_for(channels):
    x = normals(9, 64, 4, 6, channels)
    whole = functools.partial(augmented, area=(1.0, 1.0), aspect=(1.0, 1.0))
    still = functools.partial(whole, brightness=0.0, contrast=0.0)
    key = jax.random.key(0)
    near = functools.partial(np.testing.assert_allclose, atol=5e-6)
    near(still(key, x, flip=0.0), x)
    near(still(key, x, flip=1.0), x[:, :, ::-1])
    found = np.asarray(still(key, x, flip=0.5))
    mirrored = np.abs(found - np.asarray(x)[:, :, ::-1]).max((1, 2, 3)) < 1e-5
    near(found[~mirrored], x[~mirrored])
    assert 12 < mirrored.sum() < 52  # five standard errors of a half of 64
    # b (x̄ + c (x − x̄)): the mean tells b, for every channel the same, and the spread b c.
    found, x = np.asarray(whole(key, x, flip=0.0)), np.asarray(x)
    light = found.mean((1, 2)) / x.mean((1, 2))
    stretched = found.std((1, 2)) / x.std((1, 2))
    for factors in (light, stretched / light):
        np.testing.assert_allclose(factors, factors[:, :1].repeat(channels, 1), rtol=2e-3)
        assert 0.6 <= factors.min() < 0.7
        assert 1.3 < factors.max() <= 1.401
    assert abs(np.corrcoef(light[:, 0], (stretched / light)[:, 0])[0, 1]) < 0.6  # drawn apart: five standard errors


def test_crops_have_the_areas_and_shapes_that_were_asked_for():
    # A ramp in both directions tells the rectangle that was cut out.
    size, count = 32, 500
    ramps = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij"), -1).astype(np.float32) / size
    crop = functools.partial(augmented, flip=0.0, brightness=0.0, contrast=0.0, area=(0.1, 0.5), aspect=(0.5, 2.0))
    found = np.asarray(crop(jax.random.key(1), np.tile(ramps, (count, 1, 1, 1))))
    middle = size // 2
    tall = size * (found[:, middle, middle, 0] - found[:, middle - 1, middle, 0])
    wide = size * (found[:, middle, middle, 1] - found[:, middle, middle - 1, 1])
    area, aspect = tall * wide, wide / tall
    assert 0.099 <= area.min() < 0.11 < 0.48 < area.max() < 0.501
    assert 0.499 <= aspect.min() < 0.52 < 1.9 < aspect.max() < 2.001
    # Uniform: the mean of areas, and of the logarithm of the ratio, to five standard errors.
    np.testing.assert_allclose(area.mean(), 0.3, atol=5 * 0.4 / np.sqrt(12 * count))
    np.testing.assert_allclose(np.log(aspect).mean(), 0, atol=5 * 2 * np.log(2) / np.sqrt(12 * count))
    assert (tall <= 1.0001).all()
    assert (wide <= 1.0001).all()


def spots(seed, count):
    """Images of a bright spot in the upper left corner."""
    x = 0.1 * np.random.default_rng(seed).normal(size=(count, 6, 6, 1))
    x[:, :2, :2] += 1
    return x.astype(np.float32)


@pytest.mark.slow
def test_a_fit_of_a_gaussian_posterior_tells_outliers():
    inliers, held_out, outliers = spots(0, 60), spots(1, 20), np.asarray(0.5 * normals(2, 20, 6, 6, 1))
    network = bdl.network(flat, {"w": 0.1 * normals(3, 36, E + K)})
    algorithm = training.csi(optax.adam(0.05), shaken, weight=optax.constant_schedule(1.0))
    posterior, model = start(network, families=bdl.families.normal(0.02))
    fitted = bdl.fit(
        jax.random.key(1), algorithm, posterior, model, (inliers, np.full(60, 9)),
        num_steps=150, batch_size=12, progress=False,
    )  # fmt: skip
    history = fitted.history
    assert history.penalty[-20:].mean() < 0.3 * history.penalty[:5].mean()
    assert history.log_likelihood[-20:].mean() > history.log_likelihood[:5].mean()
    np.testing.assert_allclose(history.kl[0], bdl.kl(jax.random.key(0), posterior, model.prior), rtol=1e-5)
    function = bdl.function_draw(jax.random.key(2), fitted.posterior, fitted.model)
    detector = csi_score(function, inliers)
    assert bdl.metrics.auroc(np.append(detector(held_out), detector(outliers)), np.repeat([0, 1], 20)) > 0.95


@pytest.mark.parametrize("noise", ["local", "shared"])
def test_shapes_of_a_step_with_either_noise_and_nested_inputs(noise):
    network = bdl.network(lambda params, x: flat(params, x["image"]), {"w": W})
    shake = lambda key, x: {"image": shaken(key, x["image"])}
    shifts = (lambda x: x, lambda x: {"image": -x["image"]}, *[lambda x: {"image": 2 * x["image"]}] * 2)
    algorithm = training.csi(optax.adam(0.1), shake, shifts=shifts, noise=noise, num_samples=2)
    state = algorithm.init(None, *start(network, families=bdl.families.normal(0.1)), num_data=9)
    after, info = jax.eval_shape(algorithm.step, jax.random.key(0), state, ({"image": X}, np.zeros(N)))
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    assert info.penalty.shape == ()


def test_the_likelihood_is_of_the_shift_and_does_not_look_at_targets():
    outputs = np.asarray(normals(5, 3, E + K))
    _, model = start()
    found = model.log_likelihood(jax.random.key(0), jnp.asarray(outputs), np.array([9.0, np.nan, -1.0]))
    np.testing.assert_allclose(found, log_softmax(outputs[:, E:].astype(np.float64))[:, 0], rtol=1e-5)
    np.testing.assert_allclose(LIKELIHOOD(outputs).probs, np.exp(log_softmax(outputs[:, E:])), rtol=1e-5)


def init(likelihood):
    return lambda: training.csi(optax.sgd(0.1), shaken).init(
        jax.random.key(0), *start(likelihood=likelihood), num_data=1
    )


def step(**options):
    def run():
        algorithm = training.csi(optax.sgd(0.1), **{"augment": shaken, **options})
        jax.eval_shape(algorithm.step, jax.random.key(0), algorithm.init(None, *start(), num_data=9), (X, np.zeros(N)))

    return run


IMAGES = np.ones((2, 4, 6, 1), np.float32)


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda: shifted(IMAGES), ValueError, "expected square images.*got 4 × 6.*permuted_patches"),
        (lambda: shifted(IMAGES[..., 0]), ValueError, r"rotations: expected images \[N, H, W, C\].*x\[..., None\]"),
        (lambda: shifted(IMAGES[0], shifts=permuted_patches), ValueError, "permuted_patches: expected images"),
        (lambda: shifted(X, shifts=rotations[:1]), ValueError, "at least two shifts to tell apart, got 1"),
        (lambda: shifted(X, shifts=rotations[0]), TypeError, "as a tuple of functions"),
        (lambda: shifted(X, shifts=(rotations[0], 3)), TypeError, "as a tuple of functions"),
        (
            lambda: shifted(X, shifts=(rotations[0], lambda x: x[:, 1:])),
            ValueError, r"shift 1 changed inputs of shape \(3, 2, 2, 1\) into \(3, 1, 2, 1\)",
        ),
        (lambda: shift_score(LINEAR)(X), ValueError, r"logits \[N, 4\], one for each shift, got 6.*csi_score"),
        (lambda: shift_score(lambda x: x)(X), ValueError, r"outputs \[N, D\].*got shape \(12, 2, 2, 1\)"),
        (lambda: shift_score(3), TypeError, "bdl.Network or a function"),
        (lambda: csi_score(lambda x: x.reshape(len(x), -1), X), ValueError, r"outputs \[N, E \+ 4\]"),
        (lambda: csi_score(LINEAR, X[:0]), ValueError, "empty"),
        (lambda: csi_score(LINEAR, np.full_like(X, np.nan)), ValueError, "nan at row 0"),
        (lambda: csi_score(lambda x: jnp.zeros((len(x), 6)), X), ValueError, "norm of its embedding to be above 0"),
        (lambda: csi_score(lambda x: jnp.ones((len(x), 6)) * jnp.array([1, 1, 1, -1, 1, 1]), X), ValueError,
         "own logit to be above 0 for each of the 4 shifts, got -1 for shift 1"),
        (lambda: jax.jit(lambda x: csi_score(LINEAR, x)(x))(X), ValueError, "fitted outside of jit"),
        (lambda: LIKELIHOOD(jnp.ones((2, K))), ValueError, r"outputs \[N, E \+ 4\]"),
        (init(bdl.likelihoods.Categorical()), ValueError, r"CategoricalWithEmbedding\(4\)"),
        (init(training.CategoricalWithEmbedding(3)), ValueError, r"expected the likelihood.*num_shifts=3"),
        (lambda: training.csi(optax.sgd(0.1), None), TypeError, "function .key, x. -> x, got NoneType"),
        (step(temperature=0.0), ValueError, "`temperature` above 0"),
        (step(weight=-1.0), ValueError, "`weight` of at least 0"),
        (step(augment=lambda key, x: x[:, 1:]), ValueError, "`augment` changed inputs of shape"),
        (lambda: augmented(jax.random.key(0), IMAGES[..., 0]), ValueError, "augmented: expected images"),
        (lambda: augmented(jax.random.key(0), IMAGES.astype(np.uint8)), TypeError, "floating pixels, got uint8"),
        (lambda: augmented(jax.random.key(0), IMAGES, area=(0.0, 1.0)), ValueError, "0 < least <= greatest <= 1"),
        (lambda: augmented(jax.random.key(0), IMAGES, area=0.5), ValueError, "`area` as .least, greatest."),
        (lambda: augmented(jax.random.key(0), IMAGES, aspect=(2.0, 1.0)), ValueError, "`aspect` as .least, greatest."),
        (lambda: augmented(jax.random.key(0), IMAGES, flip=1.5), ValueError, r"`flip` in \[0, 1\], got 1.5"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(run, error, message):
    with pytest.raises(error, match=message):
        run()


@pytest.mark.slow
def test_the_study_of_one_class_runs_and_is_not_run_again(load_benchmark, tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 1_000)
    brightness = np.linspace(0, 1, 28)[:, None] * (labels[:, None, None] < 5) * 200
    pixels = lambda: (brightness + rng.integers(0, 50, (1_000, 28, 28))).astype(np.uint8)
    (tmp_path / "fashion_mnist").mkdir()
    np.savez(
        tmp_path / "fashion_mnist" / "fashion_mnist.npz",
        x_train=pixels(), y_train=labels, x_test=pixels(), y_test=labels,
    )  # fmt: skip
    command = ["--fast", "--data", str(tmp_path), "--output", str(tmp_path), "--classes", "0", "--methods"]
    study = load_benchmark("one_class")
    (first,) = (value for name, value in study.main([*command, "pixels"]).items() if "steps" in name)
    assert 0.5 < first["T-shirt"]["pixels"]["kNN, pixels"] <= 1
    (rows,) = (value for name, value in study.main([*command, "pixels", "rotation", "csi"]).items() if "steps" in name)
    assert rows["T-shirt"]["pixels"] == first["T-shirt"]["pixels"]
    found = {row: value for method in rows["T-shirt"].values() for row, value in method.items()}
    assert {"rotation", "kNN, rotation", "CSI, rotations"} < set(found)
    assert all(0 <= value <= 1 for value in found.values())
