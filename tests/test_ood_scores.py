"""Scores of logits and of draws, ODIN, and the decisions by them: by hand in float64, and by their sign on a toy."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import bdl
from bdl import ood
from bdl._tree_file import read_tree, write_tree
from bdl.metrics import detection
from tests.arrays import normals

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
# Ordinary logits, certain ones whose probability rounds to 1, and ties: [3, 4, 5].
LOGITS = np.concatenate(
    [
        RNG.normal(size=(5, 5)),
        20 * RNG.normal(size=(4, 5)).round(1),
        [[40, 0, 0, -3, 7], [2, 2, 1, 2, 0], [25, 25, -50, 0, 0]],
    ]
).reshape(3, 4, 5).astype(np.float32)  # fmt: skip


def probs(logits):
    return special.softmax(np.float64(logits), -1)


def rest(logits):
    """1 − p of every class, by adding the others."""
    p = probs(logits)
    return np.stack([np.delete(p, k, -1).sum(-1) for k in range(p.shape[-1])], -1)


def by_hand(name, logits):
    z, p, q = np.float64(logits), probs(logits), rest(logits)
    if name == "max_softmax":
        return q.min(-1)
    if name == "max_softmax, T":
        return rest(z / 3.5).min(-1)
    if name == "max_logit":
        return -z.max(-1)
    if name == "energy":
        return -special.logsumexp(z, -1)
    if name == "energy, T":
        return -3.5 * special.logsumexp(z / 3.5, -1)
    if name == "entropy":
        # −log p = −log(1 − q) loses no digits where p is 1.
        return (p * -np.where(q < 0.5, np.log1p(-np.minimum(q, 0.5)), np.log(p))).sum(-1)
    gamma, top = (0.3, 2) if name == "generalised_entropy, top" else (0.1, 5)
    order = np.argsort(-z, -1)[..., :top]
    return ((np.take_along_axis(p, order, -1) * np.take_along_axis(q, order, -1)) ** gamma).sum(-1)


SCORES = {
    "max_softmax": ood.max_softmax,
    "max_softmax, T": lambda z: ood.max_softmax(z, temperature=3.5),
    "max_logit": ood.max_logit,
    "energy": ood.energy,
    "energy, T": lambda z: ood.energy(z, temperature=3.5),
    "entropy": ood.entropy,
    "generalised_entropy": ood.generalised_entropy,
    "generalised_entropy, top": lambda z: ood.generalised_entropy(z, gamma=0.3, top=2),
}


@pytest.mark.parametrize("name", SCORES)
def test_scores_of_logits_by_hand_to_the_last_digits_of_what_is_near_zero(name, strict_dtypes):
    found = SCORES[name](LOGITS)
    assert found.shape == (3, 4)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, by_hand(name, LOGITS), rtol=1e-5)


def test_certain_predictions_are_no_ties():
    logits = np.array([[18.0, 0.0], [25.0, 0.0], [60.0, 0.0]], np.float32)
    assert (np.asarray(jax.nn.softmax(logits))[:, 0] == 1).all()
    for score in (ood.max_softmax, ood.entropy, ood.generalised_entropy):
        assert (np.diff(score(logits)) < 0).all()


def test_half_precision_is_computed_in_float32():
    logits = LOGITS[0].astype(jnp.bfloat16)
    np.testing.assert_array_equal(ood.energy(logits), ood.energy(np.float32(logits)))
    np.testing.assert_array_equal(ood.energy(np.float64(LOGITS[0])), ood.energy(LOGITS[0]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ood.energy(np.zeros((3, 1), np.float32)), "expected logits [..., K] of K >= 2 classes, got the shape"),
        (lambda: ood.entropy([[1.0, 2.0]]), "got a list"),
        (lambda: ood.max_logit(np.zeros((0, 3))), "there is no example"),
        (lambda: ood.max_softmax(np.array([[0.0, -np.inf]])), "expected finite logits, got -inf"),
        (lambda: ood.max_softmax(LOGITS, temperature=0.0), "expected one temperature above 0, got 0.0"),
        (lambda: ood.energy(LOGITS, temperature=-1), "temperature"),
        (lambda: ood.generalised_entropy(LOGITS, gamma=1.0), "gamma in (0, 1)"),
        (lambda: ood.generalised_entropy(LOGITS, top=0), "top="),
        (lambda: ood.kl_matching(LOGITS), "expected logits [N, K]"),
        (lambda: ood.kl_matching(np.eye(3)[:2]), "no example is of class 2"),
        (lambda: ood.kl_matching(np.eye(3), np.array([0, 1, 3])), "expected labels in 0, …, 2, got 3"),
        (lambda: ood.kl_matching(np.eye(3), np.eye(3)), "One-hot labels are labels.argmax"),
        (lambda: ood.kl_matching(np.eye(3))(np.eye(2)), "expected logits of the 3 classes of the fit, got 2"),
    ],
)
def test_bad_logits_are_refused(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


@pytest.mark.parametrize("labelled", [False, True])
def test_kl_matching_by_hand(labelled, strict_dtypes):
    """2,500 examples are three blocks, the last of them padded."""
    logits = 3 * RNG.normal(size=(2_500, 4)).astype(np.float32)
    logits[:, 2] -= 100  # where others are predicted, this class's probability is no float32
    logits[:100, 2] += 200
    groups = RNG.integers(0, 4, 2_500) if labelled else logits.argmax(-1)
    detector = ood.kl_matching(logits, groups) if labelled else ood.kl_matching(logits)
    p = probs(logits)
    templates = np.stack([p[groups == k].mean(0) for k in range(4)])
    new = np.concatenate([logits[98:110], np.zeros((1, 4), np.float32)])
    expected = stats.entropy(probs(new)[:, None], templates[None], axis=-1).min(-1)
    np.testing.assert_allclose(detector(new), expected, rtol=2e-5, atol=1e-6)


def test_kl_matching_under_a_trace_has_no_template_of_a_class_without_examples():
    score = jax.jit(lambda fit, x: ood.kl_matching(fit).score(x))(np.eye(3, dtype=np.float32)[:2], np.eye(3))
    assert np.isnan(score).all()


# Draws


def toy():
    """Weights that are known along the first input and not along the second: outliers lie along the second."""
    params = {"w": jnp.array([[4.0, -4.0], [0.0, 0.0]])}
    network = bdl.network(lambda p, x: x @ p["w"], params)
    posterior = bdl.variational(params, bdl.families.normal(scale=1.0))
    rng = np.random.default_rng(1)
    inliers = np.stack([rng.choice([-2.0, 2.0], 40), 0.2 * rng.normal(size=40)], -1)
    outliers = np.stack([0.05 * rng.normal(size=40), rng.choice([-5.0, 5.0], 40)], -1)
    return network, posterior, inliers.astype(np.float32), outliers.astype(np.float32)


NETWORK, POSTERIOR, INLIERS, OUTLIERS = toy()
CLASSIFIER = bdl.Model(NETWORK, bdl.likelihoods.Categorical())
REGRESSION = bdl.Model(NETWORK, bdl.likelihoods.Normal(scale=0.5))
X = np.concatenate([INLIERS, OUTLIERS])


@pytest.fixture(scope="module")
def predictions():
    kinds = {"classes": CLASSIFIER, "numbers": REGRESSION}
    return {
        name: bdl.predict(KEY, POSTERIOR, model, X, num_samples=30, return_draws=True) for name, model in kinds.items()
    }


def test_scores_of_draws_by_hand(predictions):
    prediction = predictions["classes"]
    z = np.float64(prediction.draws)
    p = probs(z)
    total, expected = stats.entropy(p.mean(0), axis=-1), stats.entropy(p, axis=-1).mean(0)
    votes = np.eye(2)[z.argmax(-1)].mean(0)
    close = lambda score, truth: np.testing.assert_allclose(score(prediction), truth, rtol=1e-4, atol=2e-6)
    close(ood.predictive_entropy, total)
    close(ood.expected_entropy, expected)
    close(ood.mutual_information, total - expected)
    close(ood.variation_ratio, 1 - votes.max(-1))
    close(ood.logit_variance, z.var(0, ddof=1).mean(-1))

    prediction = predictions["numbers"]
    spread = np.float64(prediction.draws).var(0, ddof=1).mean(-1)
    close(ood.epistemic_variance, spread)
    close(ood.predictive_variance, spread + 0.25)


CLASS_SCORES = [
    ood.predictive_entropy, ood.expected_entropy, ood.mutual_information, ood.variation_ratio, ood.logit_variance,
]  # fmt: skip
NUMBER_SCORES = [ood.epistemic_variance, ood.predictive_variance]


def test_labels_that_are_0_or_1_keep_a_score_each():
    model = bdl.Model(NETWORK, bdl.likelihoods.Bernoulli())
    prediction = bdl.predict(KEY, POSTERIOR, model, X[:3], num_samples=5)
    assert {score(prediction).shape for score in CLASS_SCORES} == {(3, 2)}


def test_scores_of_the_other_kind_of_prediction_are_refused(predictions):
    for score in CLASS_SCORES:
        with pytest.raises(TypeError, match="expected a bdl.ClassPrediction, got Prediction"):
            score(predictions["numbers"])
    for score in NUMBER_SCORES:
        with pytest.raises(TypeError, match="expected a bdl.Prediction, got ClassPrediction"):
            score(predictions["classes"])


def test_infinite_variances_are_refused_and_the_mean_still_scores():
    model = bdl.Model(NETWORK, bdl.likelihoods.StudentT(df=1.5, scale=0.5))
    prediction = bdl.predict(KEY, POSTERIOR, model, X[:3], num_samples=5)
    with pytest.raises(ValueError, match="the prediction's variance is not finite"):
        ood.predictive_variance(prediction)
    assert np.isfinite(ood.epistemic_variance(prediction)).all()


def test_a_detector_by_draws_is_the_score_of_predict(predictions):
    for batch_size in (None, 32):
        detector = ood.from_draws(
            KEY, POSTERIOR, CLASSIFIER, ood.mutual_information, num_samples=30, batch_size=batch_size
        )
        expected = ood.mutual_information(predictions["classes"])
        np.testing.assert_allclose(detector(X), expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(TypeError, match="expected a function of a prediction"):
        ood.from_draws(KEY, POSTERIOR, CLASSIFIER, "entropy", num_samples=30)
    with pytest.raises(ValueError, match="num_samples"):
        ood.from_draws(KEY, POSTERIOR, CLASSIFIER, ood.mutual_information)


# The sign


def test_higher_is_more_out_of_distribution_for_all(predictions):
    auroc = lambda scores: float(detection(scores[: len(INLIERS)], scores[len(INLIERS) :])["auroc"])
    logits = np.asarray(X @ np.asarray(NETWORK.params["w"]))
    scores = {name: score(logits) for name, score in SCORES.items()}
    scores["kl_matching"] = ood.kl_matching(logits[: len(INLIERS)])(logits)
    scores["odin"] = ood.odin(NETWORK, epsilon=0.01)(X)
    scores["through"] = ood.through(NETWORK, ood.energy)(X)
    scores |= {score.__name__: score(predictions["classes"]) for score in CLASS_SCORES}
    scores |= {score.__name__: score(predictions["numbers"]) for score in NUMBER_SCORES}
    found = {name: auroc(np.asarray(score)) for name, score in scores.items()}
    assert min(found.values()) > 0.95, found


# ODIN

WEIGHTS = np.array([[1.0, -0.5], [0.3, 0.8], [-0.2, 0.1]])
THREE = np.array([[2.0, -1.0, 0.5], [0.4, 0.9, -1.2], [1.0, 0.8, -1.0]])


def odin_by_hand(x, weights, temperature, epsilon):
    """∂ log p_ŷ / ∂x = Σₖ pₖ (w_ŷ − wₖ) / T, with p = softmax(x w / T)."""
    x, weights = np.float64(x), np.float64(weights)
    p = probs(x @ weights / temperature)
    slope = np.einsum("nk,nkd->nd", p, weights.T[p.argmax(-1), None] - weights.T) / temperature
    moved = x + epsilon * np.sign(slope)
    return rest(moved @ weights / temperature).min(-1), np.sign(slope)


@pytest.mark.parametrize("weights", [WEIGHTS, THREE], ids=["3 × 2", "3 × 3"])
def test_odin_by_hand_on_a_linear_model(weights, strict_dtypes):
    network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.asarray(weights, jnp.float32)})
    x = np.asarray(normals(3, 6, 3))
    for temperature, epsilon in [(2.5, 0.1), (1000.0, 0.3), (0.01, 0.1), (2.5, 0.0), (2.5, np.array([0.0, 0.1, 0.4]))]:
        expected, _ = odin_by_hand(x, weights, temperature, epsilon)
        found = ood.odin(network, temperature=temperature, epsilon=epsilon)(x)
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-37)


def test_the_temperature_stands_in_odins_gradient():
    """Of three classes the sign of the gradient depends on it, so a step without it would go elsewhere."""
    network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.asarray(THREE, jnp.float32)})
    x = np.array([[1.0, 2.0, -0.3], [0.5, 1.0, 1.0]], np.float32)
    (hot, hot_sign), (_, cold_sign) = (odin_by_hand(x, THREE, t, 0.2) for t in (1000.0, 0.2))
    assert (hot_sign != cold_sign).any()
    without = rest((x + 0.2 * cold_sign) @ THREE / 1000.0).min(-1)
    found = np.asarray(ood.odin(network, temperature=1000.0, epsilon=0.2)(x))
    np.testing.assert_allclose(found, hot, rtol=1e-6)
    assert np.abs(found - without).max() > 50 * np.abs(found - hot).max()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_odin_on_images_of_any_number_of_channels(channels):
    kernel, dense = normals(channels, 3, 3, channels, 2), normals(9, 2, 3)

    def network(x):
        found = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jax.nn.relu(found).mean((1, 2)) @ dense

    x = normals(5, 3, 4, 5, channels)
    epsilon = np.linspace(0.1, 0.2, channels)

    @jax.jit
    def expected(x):
        slope = jax.grad(lambda x: jax.nn.log_softmax(network(x) / 10).max(-1).sum())(x)
        return 1 - jax.nn.softmax(network(x + jnp.asarray(epsilon, jnp.float32) * jnp.sign(slope)) / 10).max(-1)

    whole = ood.odin(network, temperature=10, epsilon=epsilon)(x)
    np.testing.assert_allclose(whole, expected(x), rtol=1e-5)
    parts = ood.odin(network, temperature=10, epsilon=epsilon, batch_size=2)(x)
    np.testing.assert_allclose(parts, whole, rtol=1e-5)


def test_odin_costs_three_passes():
    network = bdl.networks.mlp(KEY, jnp.ones((1, 64)), 10, widths=(128, 128))
    detector, x = ood.odin(network), jnp.ones((32, 64))
    forward = jax.jit(lambda x: network.apply(network.params, network.state, x)[0]).lower(x).compile().cost_analysis()
    both = jax.jit(lambda x: detector(x)).lower(x).compile().cost_analysis()
    assert 2.5 < both["flops"] / forward["flops"] <= 3.3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ood.odin(NETWORK, temperature=0.0), "expected one temperature above 0"),
        (lambda: ood.odin(NETWORK, epsilon=-0.1), "expected epsilon of at least 0"),
        (lambda: ood.odin(NETWORK, epsilon=np.nan), "expected epsilon of at least 0"),
        (lambda: ood.odin(NETWORK)(np.ones((3, 2), np.uint8)), "expected one array of floating inputs"),
        (lambda: ood.odin(NETWORK)([[1.0, 2.0]]), "got a list"),
        (lambda: ood.odin(NETWORK, epsilon=np.ones(3))(X), "does not broadcast against one example of shape (2,)"),
        (lambda: ood.odin(NETWORK, epsilon=np.ones((1, 2)))(X), "does not broadcast"),
        (lambda: ood.odin(lambda x: x[:, 0])(X), "expected a function to logits [80, K]"),
        (lambda: ood.odin(lambda x: {"logits": x})(X), "got a dict"),
        (lambda: ood.odin(CLASSIFIER.network), "bdl.function_draw"),
        (lambda: ood.through(CLASSIFIER.network, ood.energy), "bdl.function_draw"),
        (lambda: ood.through(NETWORK, ood.energy, batch_size=0)(X), "batch_size"),
    ],
)
def test_bad_detectors_of_inputs_are_refused(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


# Through a function


def test_through_is_the_detector_of_what_the_function_gives_in_batches_too():
    logits = X @ np.asarray(NETWORK.params["w"])
    inner = ood.Detector(ood.energy).held_out(logits[:20])
    for function in (NETWORK, lambda x: x @ NETWORK.params["w"]):
        for batch_size in (None, 32):
            detector = ood.through(function, inner, batch_size=batch_size)
            np.testing.assert_allclose(detector(X), inner(logits), rtol=1e-6)
            np.testing.assert_allclose(detector.p_value(X[20:]), inner.p_value(logits[20:]))
    draw = bdl.function_draw(KEY, POSTERIOR, CLASSIFIER)
    np.testing.assert_allclose(ood.through(draw, ood.max_logit)(X), ood.max_logit(draw(X)), rtol=1e-6)
    several = ood.through(lambda x: {"a": x, "b": 2 * x}, lambda layers: (layers["a"] + layers["b"]).sum(-1))
    np.testing.assert_allclose(several(X), 3 * X.sum(-1), rtol=1e-5, atol=1e-6)


def test_through_refuses_what_cannot_be_called():
    with pytest.raises(TypeError, match=r"expected a bdl\.Network or a function"):
        ood.through(3, ood.energy)
    with pytest.raises(TypeError, match="expected a Detector or a function as `detector`"):
        ood.through(NETWORK, "energy")


@pytest.mark.parametrize(
    "make", [lambda f: ood.through(f, ood.energy, batch_size=3), ood.odin], ids=["through", "odin"]
)
def test_a_network_is_not_traced_again(make):
    calls = []

    def function(p, x):
        calls.append(1)
        return x @ p["w"]

    detector = make(bdl.network(function, {"w": jnp.ones((2, 2))}))
    detector(X[:5])
    before = len(calls)
    detector(2 * X[:5])
    make(bdl.network(function, {"w": 2 * jnp.ones((2, 2))}))(X[:5])
    assert len(calls) == before


def test_detectors_are_saved_and_transformed(tmp_path):
    logits = np.float32(X @ np.asarray(NETWORK.params["w"]))
    detectors = {
        "kl": (ood.kl_matching(logits).held_out(logits[:9]), logits),
        "odin": (ood.odin(NETWORK, epsilon=0.1), X),
        "draws": (ood.from_draws(KEY, POSTERIOR, CLASSIFIER, ood.predictive_entropy, num_samples=30), X),
    }
    write_tree(tmp_path / "detectors.npz", {name: detector for name, (detector, _) in detectors.items()})
    like = {name: jax.tree.map(lambda a: a, detector) for name, (detector, _) in detectors.items()}
    loaded = read_tree(tmp_path / "detectors.npz", like)
    for name, (detector, x) in detectors.items():
        scores = np.asarray(detector(x))
        np.testing.assert_array_equal(loaded[name](x), scores)
        jitted = eqx.filter_jit(lambda detector, x: detector(x))(loaded[name], x)
        np.testing.assert_allclose(jitted, scores, rtol=1e-4, atol=1e-6)
    pairs = jax.vmap(detectors["odin"][0].score)(X.reshape(40, 2, 2))
    np.testing.assert_allclose(pairs.reshape(-1), detectors["odin"][0](X), rtol=1e-5)


# Decisions


def identity(x):
    return jnp.asarray(x)


def test_the_threshold_is_the_smallest_that_keeps_the_share():
    inliers = np.random.default_rng(2).normal(size=37).astype(np.float32)
    detector = ood.Detector(identity).held_out(inliers)
    for tpr in (0.02, 0.5, 0.9, 0.95, 1.0):
        threshold = float(detector.threshold(tpr))
        assert np.mean(inliers <= threshold) >= tpr > np.mean(inliers < threshold)
        np.testing.assert_array_equal(detector.flag(inliers, tpr), inliers > threshold)


def test_p_values_of_inliers_are_uniform_and_with_ties_larger():
    """19 held-out inliers and a new one, 4,000 times: p is 1/20, …, 1, equally often."""
    scores = np.random.default_rng(3).normal(size=(4_000, 20)).astype(np.float32)
    p_value = eqx.filter_jit(eqx.filter_vmap(lambda held_out, new: ood.Detector(identity, held_out).p_value(new)))
    for tied in (False, True):
        drawn = scores.round() if tied else scores
        found = np.asarray(p_value(np.sort(drawn[:, 1:], -1), drawn[:, :1]))[:, 0]
        by_hand = (1 + (drawn[:, 1:] >= drawn[:, :1]).sum(-1)) / 20
        np.testing.assert_allclose(found, by_hand, rtol=1e-6)
        counts = np.bincount(np.rint(20 * found).astype(int), minlength=21)[1:]
        error = np.sqrt(np.arange(1, 21) * (20 - np.arange(1, 21)) / 400 / 4_000)
        share = counts.cumsum() / 4_000
        assert (share <= np.arange(1, 21) / 20 + 5 * error + 1e-12).all()
        if not tied:
            assert (np.abs(share - np.arange(1, 21) / 20) <= 5 * error + 1e-12).all()


def test_a_detector_without_inliers_or_with_bad_scores_says_so():
    detector = ood.Detector(identity)
    for decide in (detector.threshold, lambda: detector.flag(np.ones(2)), lambda: detector.p_value(np.ones(2))):
        with pytest.raises(ValueError, match=r"no held-out inliers to decide by\. .* detector\.held_out"):
            decide()
    for tpr in (0.0, 1.5, -1):
        with pytest.raises(ValueError, match="expected `tpr` in"):
            detector.held_out(np.ones(3)).threshold(tpr)
    with pytest.raises(ValueError, match="1 of 3 scores are not finite"):
        detector(np.array([1.0, np.nan, 2.0]))


# The report


def test_the_report_has_the_three_of_each_input(predictions):
    detector = ood.through(NETWORK, ood.energy).held_out(INLIERS)
    for kind, unit in (("classes", "nats"), ("numbers", "variance")):
        prediction = predictions[kind]
        found = ood.report(prediction, detector, X)
        np.testing.assert_array_equal(found.aleatoric, prediction.aleatoric)
        np.testing.assert_array_equal(found.epistemic, prediction.epistemic)
        np.testing.assert_allclose(found.score, detector(X), rtol=1e-6)
        np.testing.assert_allclose(found.p_value, detector.p_value(X), rtol=1e-6)
        lines = str(found).splitlines()
        assert lines[0].split() == f"input aleatoric [{unit}] epistemic [{unit}] out-of-distribution p-value".split()
        assert len(lines) == 22
        assert lines[-1] == "and 60 more"
        numbers = [float(cell) for cell in lines[4].split()]
        parts = [np.asarray(a[3]).mean() for a in (found.aleatoric, found.epistemic, found.score, found.p_value)]
        np.testing.assert_allclose(numbers, [3, *parts], rtol=5e-3)


def test_the_report_without_inliers_has_no_p_value_and_bad_arguments_are_refused(predictions):
    detector = ood.through(NETWORK, ood.energy)
    found = ood.report(predictions["classes"], detector, X)
    assert found.p_value is None
    assert "p-value" not in str(found)
    with pytest.raises(ValueError, match="expected one score for each of the prediction's"):
        ood.report(predictions["classes"], detector, X[:5])
    with pytest.raises(TypeError, match="expected what bdl.predict returns"):
        ood.report(X, detector, X)
    with pytest.raises(TypeError, match="expected a detector"):
        ood.report(predictions["classes"], ood.energy, X)
