"""Detectors on features: each score against NumPy in float64, scikit-learn or scipy, and what is refused."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.covariance import EmpiricalCovariance
from sklearn.linear_model import LogisticRegression

import bdl
from bdl import ood
from bdl.ood._layers import _logistic_regression
from bdl.ood._nearest_neighbours import _kth_distance

KEY = jax.random.key(0)
WIDTH, CLASSES = 6, 3
RNG = np.random.default_rng(0)
LABELS = np.arange(1500) % CLASSES
MIXING = RNG.normal(size=(WIDTH, WIDTH))
FEATURES = (3 * RNG.normal(size=(CLASSES, WIDTH))[LABELS] + RNG.normal(size=(1500, WIDTH)) @ MIXING).astype(np.float32)
POINTS = (4 * RNG.normal(size=(40, WIDTH))).astype(np.float32)
KERNEL, BIAS = RNG.normal(size=(WIDTH, CLASSES)).astype(np.float32), RNG.normal(size=CLASSES).astype(np.float32)


def tied_distances(features, labels, points):
    """The squared distances [N, K] in float64, with the common covariance of scikit-learn."""
    features, points = features.astype(np.float64), points.astype(np.float64)
    means = np.stack([features[labels == c].mean(0) for c in range(labels.max() + 1)])
    precision = np.linalg.inv(EmpiricalCovariance(assume_centered=True).fit(features - means[labels]).covariance_)
    delta = points[:, None] - means
    return np.einsum("nki,ij,nkj->nk", delta, precision, delta)


@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_mahalanobis_is_that_of_float64(offset, strict_dtypes):
    features, points = (FEATURES + offset).astype(np.float32), (POINTS + offset).astype(np.float32)
    expected = tied_distances(features, LABELS, points)
    detector = ood.mahalanobis(features, LABELS)
    np.testing.assert_allclose(detector.score.distances(points), expected, rtol=2e-5)
    np.testing.assert_allclose(detector(points), expected.min(1), rtol=2e-5)


def test_relative_mahalanobis_takes_the_distance_to_all_data_away(strict_dtypes):
    whole = tied_distances(FEATURES, np.zeros_like(LABELS), POINTS)[:, 0]
    nearest = tied_distances(FEATURES, LABELS, POINTS).min(1)
    error = np.abs(ood.relative_mahalanobis(FEATURES, LABELS)(POINTS) - (nearest - whole))
    assert (error < 2e-5 * (nearest + whole)).all()


@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_batches_and_classes_that_come_later_are_added_exactly(offset):
    features, points = (FEATURES + offset).astype(np.float32), (POINTS + offset).astype(np.float32)
    labels = np.where(np.arange(1500) < 750, LABELS % 2, LABELS)  # the third class comes with the second half
    detector = ood.mahalanobis(features[:750], labels[:750])
    assert detector.score.centres.shape == (2, WIDTH)
    later = ood.mahalanobis(detector.score.moments.merge(ood.class_moments(features[750:], labels[750:])))
    np.testing.assert_allclose(later(points), tied_distances(features, labels, points).min(1), rtol=2e-5)
    np.testing.assert_array_equal(later.score.moments.counts, np.bincount(labels))


def test_a_covariance_of_condition_1e8_is_resolved_in_float32():
    rotation = np.linalg.qr(MIXING)[0]
    scales = np.logspace(0, -4, WIDTH)
    features = (RNG.normal(size=(1500, WIDTH)) * scales @ rotation.T).astype(np.float32)
    points = (RNG.normal(size=(40, WIDTH)) * scales @ rotation.T).astype(np.float32)
    assert 5e7 < np.linalg.cond(np.cov(features.astype(np.float64).T)) < 2e8
    expected = tied_distances(features, LABELS, points).min(1)
    # Half the digits of float32 are left in the narrowest direction: ε 10⁴ is 1e-3.
    np.testing.assert_allclose(ood.mahalanobis(features, LABELS)(points), expected, rtol=5e-3)
    units = np.logspace(-6, 6, WIDTH).astype(np.float32)
    other = ood.mahalanobis(FEATURES * units, LABELS)(POINTS * units)
    np.testing.assert_allclose(other, ood.mahalanobis(FEATURES, LABELS)(POINTS), rtol=1e-4)


def test_what_the_inliers_do_not_vary_in_is_left_out():
    dependent = lambda a: np.concatenate([a[:, :4], a[:, :1] + a[:, 1:2], np.full((len(a), 1), 7.3, np.float32)], 1)
    expected = tied_distances(FEATURES[:, :4], LABELS, POINTS[:, :4]).min(1)
    detector = ood.mahalanobis(dependent(FEATURES), LABELS)
    np.testing.assert_allclose(detector(dependent(POINTS)), expected, rtol=1e-3)


def test_gradient_of_mahalanobis_and_preprocessing_by_hand():
    features = np.array([[-1.0, 0.0], [1.0, 0.0], [9.0, 2.0], [11.0, -2.0]], np.float32)
    detector = ood.mahalanobis(features, np.array([0, 0, 1, 1]))  # Σ = [[1, −1], [−1, 2]]
    precision = np.array([[2.0, 1.0], [1.0, 1.0]])
    weights = np.array([[1.0, 2.0], [0.0, 1.0], [-1.0, 1.0]])
    line = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.asarray(weights, jnp.float32)})
    of_inputs = ood.through(line, detector)
    x = np.array([[1.0, 2.0, 0.5], [8.0, -1.0, -3.0]], np.float32)
    centres = np.array([[0.0, 0.0], [10.0, 0.0]])
    delta = x @ weights - centres  # the first is nearest to the first class, the second to the second
    slope = 2 * delta @ precision @ weights.T
    found = jax.jit(jax.grad(lambda x: of_inputs.score(x).sum()))(x)
    np.testing.assert_allclose(found, slope, rtol=1e-5)
    moved = (x - 0.1 * np.sign(slope)) @ weights - centres
    expected = np.einsum("ni,ij,nj->n", moved, precision, moved)
    for batch_size in (None, 1):
        preprocessed = ood.preprocessed(of_inputs, epsilon=0.1, batch_size=batch_size)
        np.testing.assert_allclose(preprocessed(x), expected, rtol=1e-5)
    per_feature = ood.preprocessed(of_inputs, epsilon=np.array([0.1, 0.1, 0.1]))
    np.testing.assert_allclose(per_feature(x), expected, rtol=1e-5)


@pytest.mark.parametrize(("normalise", "offset", "k"), [(True, 0.0, 7), (False, 1e3, 1)])
def test_nearest_neighbours_against_all_pairs(normalise, offset, k, strict_dtypes):
    bank = (RNG.normal(size=(5000, 3)) + offset).astype(np.float32)  # two blocks, the second not full
    points = np.concatenate([2 * RNG.normal(size=(300, 3)) + offset, bank[:3]]).astype(np.float32)
    a, b = (v.astype(np.float64) for v in (points, bank))
    if normalise:
        a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
    distances = np.sort(np.linalg.norm(a[:, None] - b, axis=-1), axis=1)
    detector = ood.nearest_neighbours(bank, k=k, normalise=normalise)
    # Which of two equally near ones is the k-th is a matter of rounding; the distance is not.
    np.testing.assert_allclose(detector(points), distances[:, k - 1], rtol=1e-4, atol=2e-6)


def test_nearest_neighbours_holds_no_matrix_of_all_pairs():
    score = ood.nearest_neighbours(np.ones((20_000, 4), np.float32), k=5).score
    memory = _kth_distance.lower(score, jax.ShapeDtypeStruct((5_000, 4), jnp.float32)).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 0.1 * 4 * 20_000 * 5_000


def test_nearest_neighbours_has_a_gradient_where_points_coincide():
    score = ood.nearest_neighbours(FEATURES[:20], k=1).score
    x = np.concatenate([FEATURES[:1], np.zeros((1, WIDTH), np.float32), POINTS[:1]])
    gradient = jax.jit(jax.grad(lambda x: score(x).sum()))(x)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient[2]).max() > 0


def test_vim_against_its_formula_in_float64(strict_dtypes):
    features, points, kernel, bias = (a.astype(np.float64) for a in (FEATURES, POINTS, KERNEL, BIAS))
    origin = -np.linalg.pinv(kernel.T) @ bias
    values, vectors = np.linalg.eigh((features - origin).T @ (features - origin))
    residual = vectors[:, np.argsort(values)[:4]]
    length = lambda a: np.linalg.norm((a - origin) @ residual, axis=1)
    scale = (features @ kernel + bias).max(1).sum() / length(features).sum()
    expected = scale * length(points) - logsumexp(points @ kernel + bias, axis=1)
    detector = ood.vim(FEATURES, KERNEL, BIAS, dim=2)
    np.testing.assert_allclose(detector.score.scale, scale, rtol=1e-5)
    np.testing.assert_allclose(detector(POINTS), expected, rtol=1e-4, atol=1e-4)
    assert ood.vim(FEATURES, KERNEL, BIAS).score.residual.shape == (WIDTH, WIDTH - 3)


def energy(features, kernel=KERNEL):
    return -logsumexp(features.astype(np.float64) @ kernel + BIAS, axis=1)


def test_react_and_dice_against_numpy(strict_dtypes):
    react = ood.react(FEATURES, KERNEL, BIAS, quantile=0.8)
    threshold = np.quantile(FEATURES, 0.8)
    np.testing.assert_allclose(react.score.threshold, threshold, rtol=1e-6)
    np.testing.assert_allclose(react(POINTS), energy(np.minimum(POINTS, threshold)), rtol=1e-5, atol=1e-5)

    contribution = FEATURES.mean(0, dtype=np.float64)[:, None] * KERNEL
    kept = KERNEL * (contribution > np.percentile(contribution, 70))
    dice = ood.dice(FEATURES, KERNEL, BIAS, sparsity=0.7)
    np.testing.assert_array_equal(dice.score.last_layer.kernel, kept)
    np.testing.assert_allclose(dice(POINTS), energy(POINTS, kept), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["prune", "binarise", "scale"])
def test_activation_shaping_by_hand(kind, strict_dtypes):
    points = np.abs(POINTS)
    points[0] = 0.0
    shaped = np.zeros((40, WIDTH))
    for row, point in enumerate(points.astype(np.float64)):
        largest = np.argsort(point)[-2:]  # prune=0.7 takes round(4.2) of six
        if kind == "prune" or not point.any():
            shaped[row, largest] = point[largest]
        elif kind == "binarise":
            shaped[row, largest] = point.sum() / 2
        else:
            shaped[row, largest] = point[largest] * np.exp(point.sum() / point[largest].sum())
    np.testing.assert_allclose(ood.shape_activations(points, prune=0.7, kind=kind), shaped, rtol=1e-5)
    detector = ood.ash(KERNEL, BIAS, prune=0.7, kind=kind)
    np.testing.assert_allclose(detector(points), energy(shaped), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("jitter", [0.0, 0.1])
def test_gaussian_mixture_against_scipy(jitter, strict_dtypes):
    labels = np.where(LABELS == 2, np.arange(1500) % 2, LABELS)  # classes of different sizes
    labels[:300] = 2
    features = FEATURES.astype(np.float64)
    counts = np.bincount(labels)
    groups = [features[labels == c] for c in range(3)]
    spread = sum(((g - g.mean(0)) ** 2).sum(0) for g in groups) / len(features)
    expected = np.stack(
        [
            np.log(n / 1500)
            + multivariate_normal(g.mean(0), np.cov(g.T, ddof=0) + jitter * np.diag(spread)).logpdf(POINTS)
            for n, g in zip(counts, groups, strict=True)
        ],
        1,
    )
    constant = lambda a: np.concatenate([a, np.full((len(a), 1), 3.0, np.float32)], 1)  # is left out
    detector = ood.gaussian_mixture(constant(FEATURES), labels, jitter=jitter)
    np.testing.assert_allclose(detector.score.log_joint(constant(POINTS)), expected, rtol=1e-4)
    np.testing.assert_allclose(detector(constant(POINTS)), -logsumexp(expected, axis=1), rtol=1e-4)
    twice = lambda a: np.concatenate([a, a[:, :1]], 1)
    if jitter:
        assert np.isfinite(ood.gaussian_mixture(twice(FEATURES), labels, jitter=jitter)(twice(POINTS))).all()
    else:
        with pytest.raises(ValueError, match="singular at jitter=0.0. Pass a larger one, or more than 7 examples"):
            ood.gaussian_mixture(twice(FEATURES), labels, jitter=jitter)


def test_weights_of_layers_are_those_of_scikit_learn():
    inliers, outliers = RNG.normal(size=(200, 3)) * [1, 10, 100], RNG.normal(size=(60, 3)) * [1, 10, 100] + [1, 5, 0]
    scores, target = np.concatenate([inliers, outliers]), np.repeat([0, 1], [200, 60])
    spread = scores.std(0)
    model = LogisticRegression(C=1 / 2.5, class_weight="balanced", tol=1e-10, max_iter=10_000)
    model.fit((scores - scores.mean(0)) / spread, target)
    weights, bias = _logistic_regression(inliers, outliers, 2.5)
    np.testing.assert_allclose(weights * spread, model.coef_[0], rtol=1e-4)
    np.testing.assert_allclose(bias + weights @ scores.mean(0), model.intercept_[0], rtol=1e-4)
    # Groups that a plane separates, far apart: the penalty keeps the weights finite.
    weights, bias = _logistic_regression(inliers, outliers + 1e6, 1e-3)
    assert ((outliers + 1e6) @ weights + bias).min() > 0 > (inliers @ weights + bias).max()


def test_layers_are_weighted_by_name():
    detectors = {name: ood.Detector(lambda f: abs(f).sum(-1)) for name in ("last", "first")}
    group = lambda points: {"first": points[:, :3], "unused": points, "last": points}
    detector = ood.layers(detectors, group(FEATURES[:100]), group(POINTS))
    weights = detector.score.weights
    expected = sum(weights[n] * detectors[n](group(POINTS)[n]) for n in detectors) + detector.score.bias
    np.testing.assert_allclose(detector(group(POINTS)), expected, rtol=1e-5)
    assert np.mean(detector(group(POINTS))) > np.mean(detector(group(FEATURES[:100])))
    with pytest.raises(ValueError, match="no features of the layer 'last'; there are first"):
        detector({"first": POINTS[:, :3]})
    with pytest.raises(ValueError, match="expected a dict of features by layer, got ndarray"):
        detector(POINTS)


TOY = np.abs(np.random.default_rng(1).normal(size=(90, 4))) * 0.2
TOY_LABELS = np.arange(90) % 3
TOY[np.arange(90), TOY_LABELS] += 4.0
TOY = TOY.astype(np.float32)
EYE = np.eye(4, 3, dtype=np.float32)
DETECTORS = {
    "ash": lambda: ood.ash(EYE, np.zeros(3), prune=0.5),
    "dice": lambda: ood.dice(TOY, EYE, np.zeros(3), sparsity=0.5),
    "gaussian_mixture": lambda: ood.gaussian_mixture(TOY, TOY_LABELS),
    "mahalanobis": lambda: ood.mahalanobis(TOY, TOY_LABELS),
    "nearest_neighbours": lambda: ood.nearest_neighbours(TOY, k=5),
    "react": lambda: ood.react(TOY, EYE, np.zeros(3)),
    "relative_mahalanobis": lambda: ood.relative_mahalanobis(TOY, TOY_LABELS),
    "vim": lambda: ood.vim(TOY, EYE, np.zeros(3), dim=3),
}


@pytest.mark.parametrize("name", DETECTORS)
def test_higher_is_more_out_of_distribution_in_any_precision_without_a_second_trace(name):
    detector = DETECTORS[name]()
    outliers = np.array([[0.5, 0.5, 0.5, 3.0], [1.0, 0.8, 0.9, 2.0]], np.float32)
    x = np.concatenate([TOY[:8], outliers])
    traces = []

    @jax.jit
    def score(detector, x):
        traces.append(1)
        return detector(x)

    found = score(detector, x)
    assert found.dtype == jnp.float32
    assert found[8:].min() > found[:8].max()
    np.testing.assert_allclose(found, detector(x), rtol=1e-5)
    score(DETECTORS[name](), x[::-1])
    assert len(traces) == 1
    np.testing.assert_allclose(detector(x.astype(np.float64)), found, rtol=1e-5)
    half = x.astype(np.float16)
    np.testing.assert_array_equal(detector(half), detector(half.astype(np.float32)))
    assert detector.held_out(np.tile(TOY[:8], (2, 1))[:10]).flag(x)[8:].all()
    with pytest.raises(ValueError, match=r"expected features \[N, 4\], examples along axis 0, got shape \(3, 5\)"):
        detector(np.ones((3, 5)))
    with pytest.raises(ValueError, match="features.* is nan at row 1, column 2"):
        detector(np.where(np.arange(12).reshape(3, 4) == 6, np.nan, 1.0))


@pytest.mark.parametrize(
    ("fit", "message"),
    [
        (lambda: ood.mahalanobis(FEATURES, LABELS, num_classes=5), "each of the 5 classes, got 0 of class 3"),
        (lambda: ood.mahalanobis(FEATURES, LABELS, num_classes=2), "expected labels in 0, …, 1, got 2"),
        (lambda: ood.mahalanobis(FEATURES), "got no labels"),
        (lambda: ood.mahalanobis(FEATURES[:3], LABELS[:3]), "do not vary within classes"),
        (lambda: ood.mahalanobis(FEATURES, LABELS[:7]), r"labels \[1500\], one for each row of features, got .7,."),
        (lambda: ood.mahalanobis(FEATURES, LABELS.astype(float)), "expected integer labels, got float64"),
        (lambda: ood.mahalanobis(np.ones((3, 0)), LABELS[:3]), "at least one row and one column"),
        (lambda: ood.mahalanobis(np.ones((3, 4, 4, 2)), LABELS[:3]), "bdl.ood.pool"),
        (lambda: ood.mahalanobis(FEATURES * np.inf, LABELS), "at row 0, column 0"),
        (lambda: ood.mahalanobis(ood.class_moments(FEATURES, LABELS), LABELS), "Leave out labels"),
        (lambda: ood.class_moments(FEATURES, LABELS).merge(ood.class_moments(TOY, TOY_LABELS)), "got 6 and 4"),
        (lambda: ood.relative_mahalanobis(FEATURES, 0 * LABELS), "at least two classes"),
        (lambda: ood.gaussian_mixture(FEATURES[:4], LABELS[:4]), "2 examples of each .*, got 1 of class 1"),
        (lambda: ood.gaussian_mixture(FEATURES, LABELS, jitter=-1.0), "jitter of at least 0"),
        (lambda: ood.nearest_neighbours(FEATURES, k=1501), "expected k as a whole number from 1 to 1500, got 1501"),
        (lambda: ood.vim(FEATURES, KERNEL, BIAS, dim=6), "from 1 to 5, got 6"),
        (lambda: ood.vim(FEATURES[:3], KERNEL, BIAS, dim=3), "lie in a space of dimension 3"),
        (lambda: ood.vim(FEATURES, KERNEL.T, BIAS), r"kernel \[D, K\] and bias \[K\], got shapes \(3, 6\) and \(3,\)"),
        (lambda: ood.react(FEATURES, KERNEL, BIAS, quantile=90), "expected quantile in .0, 1., got 90"),
        (lambda: ood.dice(FEATURES, KERNEL * np.nan, BIAS), "expected a finite kernel"),
        (lambda: ood.ash(KERNEL, BIAS, kind="s"), 'kind="scale", "binarise" or "prune", got \'s\''),
        (lambda: ood.ash(KERNEL, BIAS)(POINTS), "outputs of a ReLU"),
        (lambda: ood.layers({}, {}, {}), "at least one layer, got none"),
        (lambda: ood.layers({"a": lambda f: f}, {"a": [0.0]}, {"a": [1.0]}, penalty=0.0), "penalty above 0"),
        (lambda: ood.preprocessed(lambda x: x.sum(-1), epsilon=-1.0), "epsilon of at least 0"),
        (lambda: ood.preprocessed(lambda x: x.sum(-1), epsilon=0.1)(np.ones((2, 2), int)), "floating inputs, got int"),
    ],
)  # fmt: skip
def test_errors_say_what_was_expected(fit, message):
    with pytest.raises(ValueError, match=message):
        fit()


def test_layer_features_of_linen_and_nnx_are_pooled():
    class Small(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(5, (3, 3))(x))
            return nn.Dense(2)(x.mean((1, 2)))

    images = np.asarray(RNG.normal(size=(4, 6, 6, 3)), np.float32)
    network = bdl.from_linen(Small(), jax.jit(Small().init)(KEY, images))
    kernel, bias = network.params["Conv_0"]["kernel"], network.params["Conv_0"]["bias"]
    names = ("NHWC", "HWIO", "NHWC")
    expected = jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=names) + bias
    found = ood.layer_features(network, ["Conv_0", "Dense_0"])(images)
    np.testing.assert_allclose(found["Conv_0"], np.asarray(expected).mean((1, 2)), rtol=1e-4, atol=1e-5)
    rectified = ood.layer_features(network, "Conv_0", activation=jax.nn.relu)(images)
    np.testing.assert_allclose(rectified, np.maximum(expected, 0).mean((1, 2)), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="'Dens' matches no layer; the paths are Conv_0, Dense_0"):
        ood.layer_features(network, "Dens")(images)

    linear = bdl.from_nnx(nnx.Sequential(nnx.Linear(3, 5, rngs=nnx.Rngs(0))))
    x, weights = images[:, 0, 0], linear.params["layers"]["0"]
    expected = x @ np.asarray(weights["kernel"]) + np.asarray(weights["bias"])
    np.testing.assert_allclose(ood.layer_features(linear, "layers/0", batch_size=3)(x), expected, rtol=1e-4, atol=1e-5)
