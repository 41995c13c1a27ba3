"""Calibrators against float64 optimisers and scikit-learn, on data that can be fitted and on data that cannot."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from bdl import calibration
from bdl._tree_file import read_tree, write_tree
from tests.slow import slow

N, K = 400, 4
TINY = float(np.finfo(np.float32).tiny)
CLASSES = ("temperature", "vector", "matrix", "dirichlet")
CURVES = ("platt", "beta", "isotonic", "histogram_binning")

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def made_up() -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that are too confident, of each class by another factor and with a shift, and labels."""
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(N, K))
    labels = (special.softmax(logits, 1).cumsum(1) > rng.uniform(size=(N, 1))).argmax(1)
    confident = 3 * logits * np.linspace(0.7, 1.3, K) + np.linspace(-1, 1, K)
    return special.softmax(confident, 1).astype(np.float32), labels.astype(np.int32)


PROBS, LABELS = made_up()
P1, Y1 = PROBS[:, 1], (LABELS == 1).astype(np.int32)


def nll(probs, labels=LABELS) -> float:
    """In float64."""
    return -np.log(np.maximum(np.asarray(probs, np.float64)[np.arange(len(labels)), labels], TINY)).mean()


def binary_nll(p, y) -> float:
    return nll(np.stack([1 - np.asarray(p, np.float64), np.asarray(p, np.float64)], 1), y)


def affine_optimum(name: str, penalty: float) -> float:
    """The smallest penalised NLL, by L-BFGS-B in float64 with the gradient by hand."""
    x, diagonal = np.log(PROBS.astype(np.float64)), name == "vector"
    off = 1 - np.eye(K)

    def objective(theta):
        weight = np.diag(theta[:K]) if diagonal else theta[:-K].reshape(K, K)
        bias = theta[-K:]
        logits = x @ weight.T + bias
        error = (special.softmax(logits, 1) - np.eye(K)[LABELS]) / N
        value = (special.logsumexp(logits, 1) - logits[np.arange(N), LABELS]).mean()
        value += penalty * (((weight * off) ** 2).sum() / (K * (K - 1)) + (bias**2).mean())
        slope = error.T @ x + 2 * penalty * weight * off / (K * (K - 1))
        slope = np.diag(slope) if diagonal else slope.ravel()
        return value, np.concatenate([slope, error.sum(0) + 2 * penalty * bias / K])

    start = np.concatenate([np.ones(K) if diagonal else np.eye(K).ravel(), np.zeros(K)])
    options = {"maxiter": 20_000, "maxfun": 40_000, "ftol": 1e-15, "gtol": 1e-10}
    return optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options=options).fun


def test_temperature_is_the_minimum_and_keeps_the_order():
    calibrator = calibration.temperature(PROBS, LABELS)
    x = np.log(PROBS.astype(np.float64))
    of = lambda theta: (special.logsumexp(x * np.exp(-theta), 1) - (x * np.exp(-theta))[np.arange(N), LABELS]).mean()
    best = optimize.minimize_scalar(of, bounds=(-4.6, 4.6), method="bounded", options={"xatol": 1e-10})
    np.testing.assert_allclose(calibrator.log_temperature, best.x, atol=2e-6)
    assert bool(calibrator.converged)
    calibrated = np.asarray(calibrator(PROBS))
    np.testing.assert_allclose(calibrated, special.softmax(x / np.exp(best.x), 1), atol=2e-6)
    np.testing.assert_array_equal(calibrated.argmax(1), PROBS.argmax(1))


@pytest.mark.parametrize(("name", "penalty"), [("vector", 0.0), ("matrix", 0.0), ("dirichlet", 0.01)])
def test_affine_maps_are_the_minimum(name, penalty):
    calibrator = getattr(calibration, name)(PROBS, LABELS)
    value = nll(calibrator(PROBS))
    if penalty:
        weight, bias = np.asarray(calibrator.weight, np.float64), np.asarray(calibrator.bias, np.float64)
        value += penalty * (((weight * (1 - np.eye(K))) ** 2).sum() / (K * (K - 1)) + (bias**2).mean())
    np.testing.assert_allclose(value, affine_optimum(name, penalty), atol=2e-7)
    assert bool(calibrator.converged)


def test_matrix_with_the_penalty_of_dirichlet_is_dirichlet():
    one, other = calibration.matrix(PROBS, LABELS, penalty=0.01), calibration.dirichlet(PROBS, LABELS)
    np.testing.assert_array_equal(one.weight, other.weight)


DIFFICULT = {
    "as made up": (PROBS, LABELS),
    "separable": (0.9 * np.eye(K, dtype=np.float32)[LABELS] + np.float32(0.025), LABELS),
    "certain and right": (np.eye(K, dtype=np.float32)[LABELS], LABELS),
    "certain, 10 % wrong": (np.eye(K, dtype=np.float32)[np.where(np.arange(N) % 10, LABELS, (LABELS + 1) % K)], LABELS),
    "always the next class": (0.9 * np.eye(K, dtype=np.float32)[(LABELS + 1) % K] + np.float32(0.025), LABELS),
    "a class is missing": (PROBS, np.where(LABELS == 2, 1, LABELS)),
    "labels at random": (PROBS, np.random.default_rng(1).integers(0, K, N).astype(np.int32)),
    "no information": (np.full((N, K), 0.25, np.float32), LABELS),
}
NO_MINIMUM = {"separable", "certain and right", "a class is missing"}


@pytest.mark.parametrize("case", DIFFICULT)
@pytest.mark.filterwarnings("ignore:.*no minimum")
def test_nll_is_never_worse_and_all_is_finite(case):
    probs, labels = DIFFICULT[case]
    before = nll(probs, labels)
    values = {}
    for name in CLASSES:
        calibrator = getattr(calibration, name)(probs, labels)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(calibrator)), name
        after = calibrator(probs)
        np.testing.assert_allclose(np.sum(after, -1), 1, atol=1e-5)
        values[name] = nll(after, labels)
        assert values[name] <= before + 1e-6, name
    # Each map contains the one before.
    assert values["matrix"] <= values["vector"] + 2e-5 <= values["temperature"] + 4e-5
    if case in NO_MINIMUM:
        with pytest.warns(UserWarning, match="the NLL has no minimum"):
            assert not bool(calibration.matrix(probs, labels).converged)


def test_temperature_says_where_it_stopped():
    for case, limit in (("separable", 0.01), ("always the next class", 100.0)):
        with pytest.warns(UserWarning, match="no minimum at a T between"):
            calibrator = calibration.temperature(*DIFFICULT[case])
        np.testing.assert_allclose(np.exp(calibrator.log_temperature), limit, rtol=1e-5)
        assert not bool(calibrator.converged)


def test_guo_an_overconfident_network_is_calibrated_without_a_change_of_labels():
    rng = np.random.default_rng(3)
    logits = 1.5 * rng.normal(size=(20_000, K))
    labels = (special.softmax(logits, 1).cumsum(1) > rng.uniform(size=(20_000, 1))).argmax(1)
    probs = special.softmax(4 * logits, 1).astype(np.float32)
    calibrated = np.asarray(calibration.temperature(probs[:N], labels[:N])(probs))

    def error(q):
        """Expected calibration error of 15 bins, on examples that were not used for the fit."""
        confidence, right = q[N:].max(1), q[N:].argmax(1) == labels[N:]
        bins = np.minimum((confidence * 15).astype(int), 14)
        gap = [np.abs((right[bins == b] - confidence[bins == b]).sum()) for b in range(15)]
        return np.sum(gap) / len(right)

    assert error(calibrated) < error(probs) / 3
    np.testing.assert_array_equal(calibrated.argmax(1), probs.argmax(1))


@pytest.mark.parametrize("curve", [lambda p: p**0.5, lambda p: 1 - p, lambda p: np.minimum(p, 0.5), lambda p: p**3])
def test_beta_is_the_minimum_under_its_constraint(curve):
    rng = np.random.default_rng(2)
    p = rng.uniform(1e-3, 1 - 1e-3, N).astype(np.float32)
    y = (rng.uniform(size=N) < curve(p)).astype(np.int32)
    calibrator = calibration.beta(p, y)
    log_p, log_not_p = np.log(p.astype(np.float64)), np.log1p(-p.astype(np.float64))

    def objective(abc):
        z = abc[0] * log_p - abc[1] * log_not_p + abc[2]
        return (np.logaddexp(0, z) - y * z).mean()

    bounds, options = [(0, None), (0, None), (None, None)], {"ftol": 1e-15, "gtol": 1e-10}
    best = optimize.minimize(objective, [1, 1, 0], bounds=bounds, method="L-BFGS-B", options=options)
    found = [float(v[0]) for v in (calibrator.a, calibrator.b, calibrator.c)]
    assert min(found[:2]) >= 0
    np.testing.assert_allclose(objective(found), best.fun, atol=1e-8)
    np.testing.assert_allclose(found, best.x, atol=2e-3)
    assert binary_nll(calibrator(p), y) <= binary_nll(p, y) + 1e-6


def test_platt_is_a_logistic_regression_of_softened_labels():
    calibrator = calibration.platt(P1, Y1)
    ones, zeros = Y1.sum(), N - Y1.sum()
    target = np.where(Y1 == 1, (ones + 1) / (ones + 2), 1 / (zeros + 2))
    clipped = np.clip(P1.astype(np.float64), 2.0**-24, 1 - 2.0**-24)
    x = np.tile(special.logit(clipped), 2)[:, None]
    oracle = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000)
    oracle.fit(x, np.repeat([1, 0], N), sample_weight=np.concatenate([target, 1 - target]))
    np.testing.assert_allclose(calibrator.a, calibrator.b)
    np.testing.assert_allclose(
        [calibrator.a[0], calibrator.c[0]], [oracle.coef_[0, 0], oracle.intercept_[0]], atol=1e-4
    )


def test_platt_of_margins_and_of_one_class_only_is_finite():
    margin = jax.nn.sigmoid(jnp.linspace(-30.0, 30.0, N))
    for labels in (np.arange(N) >= N // 2, np.zeros(N, int), np.ones(N, int)):
        calibrator = calibration.platt(margin, labels)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(calibrator))
        assert np.all((calibrator(margin) > 0) & (calibrator(margin) < 1))


def test_isotonic_is_scikit_learns():
    oracle = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(P1, Y1)
    new = np.linspace(0, 1, 101, dtype=np.float32)
    calibrator = calibration.isotonic(P1, Y1)
    np.testing.assert_allclose(calibrator(new), oracle.predict(new), atol=1e-5)
    of_classes = np.asarray(calibration.isotonic(PROBS, LABELS)(PROBS))
    each = [IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(p, k == LABELS).predict(p)
            for k, p in enumerate(PROBS.T)]  # fmt: skip
    np.testing.assert_allclose(of_classes, (each / np.sum(each, 0)).T, atol=1e-5)


@pytest.mark.parametrize("binning", ["mass", "width"])
def test_histogram_binning_by_hand(binning):
    p = np.round(P1, 2)  # with ties
    calibrator = calibration.histogram_binning(p, Y1, num_bins=7, binning=binning)
    if binning == "width":
        edges = (np.arange(1, 7) / 7).astype(np.float32)
    else:
        below = np.arange(1, 7) * N // 7
        edges = ((np.sort(p)[below - 1] + np.sort(p)[below]) / 2).astype(np.float32)
    np.testing.assert_allclose(calibrator.edges[0], edges, rtol=1e-6)
    bins = (p[:, None] > edges).sum(1)  # a bin's upper edge belongs to it
    expected = np.array([Y1[bins == b].mean() for b in bins])
    np.testing.assert_allclose(calibrator(p), expected, rtol=1e-6)


def test_bins_without_examples_keep_their_middle():
    calibrator = calibration.histogram_binning(np.array([0.05, 0.95]), np.array([0, 1]), num_bins=5, binning="width")
    np.testing.assert_allclose(calibrator(np.array([0.0, 0.3, 0.5, 0.7, 1.0])), [0, 0.3, 0.5, 0.7, 1], rtol=1e-6)


@pytest.mark.parametrize("name", [*CLASSES, "beta", "isotonic", slow("platt"), slow("histogram_binning")])
def test_masked_padded_shaped_and_in_half_precision(name):
    """A mask over an image with void labels and NaN gives what the pixels that count give."""
    fit = getattr(calibration, name)
    keep = np.arange(N) % 2 == 0
    probs, labels = np.where(keep[:, None], PROBS, np.nan), np.where(keep, LABELS, 255)
    masked = fit(probs.reshape(20, 20, K), labels.reshape(20, 20), mask=keep.reshape(20, 20))
    # Where the number of examples does not matter, each of them twice is the same, and compiled already.
    times = 1 if name in ("platt", "histogram_binning") else 2
    kept = fit(np.tile(PROBS[keep], (times, 1)), np.tile(LABELS[keep], times))
    np.testing.assert_allclose(masked(PROBS), kept(PROBS), atol=2e-4)
    whole = fit(PROBS, LABELS)
    image = whole(jnp.asarray(PROBS).reshape(20, 20, K))
    assert image.shape == (20, 20, K)
    assert image.dtype == jnp.float32
    np.testing.assert_allclose(np.reshape(image, (N, K)), whole(PROBS), atol=1e-6)
    half = whole(jnp.asarray(PROBS[:20], jnp.bfloat16))
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, whole(np.asarray(PROBS[:20]).astype(jnp.bfloat16).astype(np.float64)), atol=1e-6)


@pytest.mark.parametrize("name", ["temperature", "dirichlet", *map(slow, ("vector", "matrix", *CURVES))])
def test_calibrators_are_pytrees(name, tmp_path):
    fit = getattr(calibration, name)
    calibrator = fit(PROBS, LABELS)
    expected = np.asarray(calibrator(PROBS))
    np.testing.assert_allclose(jax.jit(lambda c, p: c(p))(calibrator, PROBS), expected, atol=1e-6)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(calibrator))(PROBS), expected)
    write_tree(tmp_path / "calibrator.npz", {"calibrator": calibrator})
    empty = jax.tree.map(jnp.zeros_like, calibrator)
    loaded = read_tree(tmp_path / "calibrator.npz", {"calibrator": empty})["calibrator"]
    np.testing.assert_array_equal(loaded(PROBS), expected)
    np.testing.assert_allclose(calibration.ensemble(calibrator, calibrator)(PROBS), expected, rtol=1e-6)


def test_fits_go_through_jit_and_vmap():
    stacked = np.stack([PROBS, PROBS[::-1]]), np.stack([LABELS, LABELS[::-1]])
    both = jax.jit(jax.vmap(calibration.temperature))(*stacked)
    alone = calibration.temperature(PROBS, LABELS)
    np.testing.assert_allclose(both.log_temperature, np.full(2, alone.log_temperature), atol=2e-6)
    with pytest.raises(ValueError, match="outside of jax.jit"):
        jax.jit(calibration.isotonic)(PROBS, LABELS)


def test_an_ensemble_is_the_mean_of_probabilities():
    members = [calibration.temperature(PROBS, LABELS), calibration.vector(PROBS, LABELS)]
    found = calibration.ensemble(*members)
    expected = np.mean([member(PROBS) for member in members], 0)
    np.testing.assert_allclose(found(PROBS), expected, rtol=1e-6)
    assert nll(found(PROBS)) <= np.mean([nll(member(PROBS)) for member in members])


def test_variance_scale_is_the_maximum_of_the_likelihood():
    rng = np.random.default_rng(4)
    mean, variance = rng.normal(size=(50, 3)) + 1e3, rng.uniform(0.5, 2, (50, 3))
    targets = mean + np.sqrt(2.5 * variance) * rng.normal(size=(50, 3))
    mean, variance, targets = (a.astype(np.float32) for a in (mean, variance, targets))
    calibrator = calibration.variance_scale(mean, variance, targets)
    factor = (((targets - mean).astype(np.float64) ** 2) / variance).mean()
    same, scaled = calibrator(mean, variance)
    np.testing.assert_array_equal(same, mean)
    np.testing.assert_allclose(scaled, factor * variance, rtol=1e-5)
    normal_nll = lambda s: 0.5 * (np.log(s) + factor / s)
    assert all(normal_nll(factor) <= normal_nll(factor * other) for other in (0.9, 1.1, 1 / factor))
    mask = np.arange(150).reshape(50, 3) % 2 == 0
    with_nan = np.where(mask, targets, np.nan), np.where(mask, variance, -1.0)
    found = calibration.variance_scale(mean, with_nan[1], with_nan[0], mask=mask)
    np.testing.assert_allclose(np.exp(found.log_factor), ((targets - mean) ** 2 / variance)[mask].mean(), rtol=1e-5)
    columns = jax.vmap(calibration.variance_scale, in_axes=1)(mean, variance, targets)
    np.testing.assert_allclose(np.exp(columns.log_factor), ((targets - mean) ** 2 / variance).mean(0), rtol=1e-5)


def test_quantile_recalibration_makes_levels_right():
    rng = np.random.default_rng(5)
    pit = rng.beta(3, 3, 2_000).astype(np.float32)  # of predictions that are too wide
    calibrator = calibration.quantile_recalibration(pit)
    ordered = np.sort(pit.astype(np.float64))
    knots, shares = np.r_[0, ordered, 1], np.r_[np.arange(2_001), 2_001] / 2_001
    levels = np.linspace(0, 1, 21, dtype=np.float32)
    np.testing.assert_allclose(calibrator(levels), np.interp(levels, knots, shares), atol=1e-5)
    np.testing.assert_allclose(calibrator(calibrator.inverse(levels)), levels, atol=1e-5)
    new = rng.beta(3, 3, 20_000)
    observed = (new[:, None] <= np.asarray(calibrator.inverse(levels[1:-1]))).mean(0)
    np.testing.assert_allclose(observed, levels[1:-1], atol=5 * 0.5 * np.sqrt(1 / 2_000 + 1 / 20_000))
    mask = np.arange(2_000) < 700
    masked = calibration.quantile_recalibration(np.where(mask, pit, np.nan), mask=mask)
    np.testing.assert_allclose(masked(levels), calibration.quantile_recalibration(pit[:700])(levels), atol=1e-6)
    traced = jax.jit(lambda p, m: calibration.quantile_recalibration(p, mask=m))(pit, mask)
    np.testing.assert_allclose(traced.inverse(levels), masked.inverse(levels), atol=1e-6)


LOGITS = np.log(PROBS)
BAD = {
    "logits": (lambda f: f(LOGITS, LABELS), "If these are logits"),
    "rows that do not sum to one": (lambda f: f(PROBS / 2, LABELS), "sum to 1"),
    "NaN": (lambda f: f(np.where(PROBS > 0.5, np.nan, PROBS), LABELS), "finite probs"),
    "shapes": (lambda f: f(PROBS, LABELS[:-1]), "got shapes"),
    "one-hot labels": (lambda f: f(PROBS[..., None], np.eye(K)[LABELS]), "labels.argmax"),
    "a label outside": (lambda f: f(PROBS, LABELS + 1), "void"),
    "nothing": (lambda f: f(PROBS[:0], LABELS[:0]), "no example"),
    "nothing kept": (lambda f: f(PROBS, LABELS, mask=np.zeros(N, bool)), "no example"),
    "other number of classes": (lambda f: f(PROBS, LABELS)(PROBS[:, :1]), "K >= 2|as at the fit"),
    "new logits": (lambda f: f(PROBS, LABELS)(LOGITS), "If these are logits"),
}


@pytest.mark.parametrize("name", [*CLASSES, *CURVES])
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told(name, case):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call(getattr(calibration, name))


def test_more_bad_input_is_told():
    for call, message in (
        (lambda: calibration.platt(P1 * 3, Y1), "jax.nn.sigmoid"),
        (lambda: calibration.beta(P1, Y1 + 1), "labels of 0 and 1"),
        (lambda: calibration.matrix(PROBS, LABELS, penalty=-1.0), "penalty"),
        (lambda: calibration.histogram_binning(P1, Y1, num_bins=0), "num_bins"),
        (lambda: calibration.histogram_binning(P1, Y1, binning="mas"), "num_bins"),
        (lambda: calibration.ensemble(), "at least one"),
        (lambda: calibration.variance_scale(np.zeros(3), -np.ones(3), np.ones(3)), "variances above 0, got -1"),
        (lambda: calibration.variance_scale(np.zeros(3), np.zeros(3), np.ones(3)), "variances above 0"),
        (lambda: calibration.variance_scale(np.ones(3), np.ones(3), np.ones(3)), "best factor is 0"),
        (lambda: calibration.variance_scale(np.zeros(2), np.ones(3), np.ones(3)), "mean of the shape"),
        (lambda: calibration.VarianceScale(jnp.float32(0))(np.zeros(2), -np.ones(2)), "variances above 0"),
        (lambda: calibration.quantile_recalibration(np.array([0.5, 1.5])), "PIT values in"),
        (lambda: calibration.quantile_recalibration(np.array([0.5]))(np.array([-0.1])), "levels in"),
        (lambda: calibration.quantile_recalibration(np.zeros(0)), "no example"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
