"""The table of an evaluation: every row is the metric it says, and what is undefined says why."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

import bdl

N = 103


@pytest.fixture(scope="module")
def three():
    """Probabilities of three classes, labels, and which of them count."""
    random = np.random.default_rng(0)
    probs = random.dirichlet(np.ones(3), N).astype(np.float32)
    labels = np.array([random.choice(3, p=p / p.sum()) for p in probs.astype(np.float64)])
    return probs, labels, random.random(N) < 0.8


@pytest.fixture(scope="module")
def normal():
    """Means, standard deviations, targets."""
    random = np.random.default_rng(1)
    mean, scale = random.normal(size=(2, N, 1))
    scale = np.exp(scale / 2)
    return mean, scale, mean + scale * random.normal(size=(N, 1))


def test_rows_of_classes(three):
    probs, labels, _ = three
    found = bdl.evaluate(probs, labels).as_dict()
    predicted, picked = probs.argmax(1), probs[np.arange(N), labels]
    expected = {
        "accuracy": sk.accuracy_score(labels, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, predicted),
        "f1": sk.f1_score(labels, predicted, average="macro"),
        "matthews_correlation": sk.matthews_corrcoef(labels, predicted),
        "log_likelihood": np.log(picked).mean(),
        "brier": ((probs - np.eye(3)[labels]) ** 2).sum(1).mean(),
        "error_auroc": sk.roc_auc_score(predicted != labels, stats.entropy(probs, axis=1)),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)
    assert set(found) == {*expected, "expected_calibration_error", "classwise_calibration_error", "aurc"}


def test_rows_of_two_classes_of_every_form(three):
    probs, labels = three[0][:, 1], (three[1] == 1).astype(np.int32)
    pairs = np.stack([1 - probs, probs], 1)
    found = bdl.evaluate(pairs, labels).as_dict()
    np.testing.assert_allclose(found["auroc"], sk.roc_auc_score(labels, probs), rtol=1e-6)
    np.testing.assert_allclose(found["average_precision"], sk.average_precision_score(labels, probs), rtol=1e-5)
    recalls = sk.recall_score(labels, probs > 0.5, average=None)
    np.testing.assert_allclose(found["true_skill_statistic"], recalls.sum() - 1, rtol=1e-5)
    zero = 0 * probs
    bernoulli = bdl.ClassPrediction(jnp.asarray(probs), zero, zero, zero, zero, np.array(9))
    for name, value in bdl.evaluate(bernoulli, labels.astype(np.float32)).as_dict().items():
        np.testing.assert_allclose(value, found[name], rtol=1e-5, err_msg=name)


def test_rows_of_numbers(normal):
    mean, scale, y = normal
    found = bdl.evaluate((mean, scale), y).as_dict()
    z = (y - mean) / scale
    crps = scale * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))
    expected = {
        "rmse": np.sqrt(np.mean((mean - y) ** 2)),
        "mae": np.mean(np.abs(mean - y)),
        "normal_log_likelihood": stats.norm.logpdf(y, mean, scale).mean(),
        "crps_normal": crps.mean(),
        "coverage": np.mean(np.abs(z) <= stats.norm.ppf(0.975)),
        "interval_width": 2 * stats.norm.ppf(0.975) * scale.mean(),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)
    prediction = bdl.Prediction(mean, scale**2, scale**2, 0 * scale, 0 * scale, np.array(9))
    for name, value in bdl.evaluate(prediction, y).as_dict().items():
        np.testing.assert_allclose(value, found[name], rtol=1e-4, err_msg=name)


def test_a_mask_leaves_out_what_it_says(three):
    probs, labels, mask = three
    spoilt, void = np.where(mask[:, None], probs, np.nan), np.where(mask, labels, 255)
    found, expected = bdl.evaluate(spoilt, void, mask=mask), bdl.evaluate(probs[mask], labels[mask])
    for name, score in expected.items():
        np.testing.assert_allclose(found[name].value, score.value, rtol=1e-5, err_msg=name)
        assert found[name].note == score.note


def test_standard_errors_are_those_of_the_bootstrap(three, normal):
    probs, labels, _ = three
    found = bdl.evaluate(probs, labels, key=jax.random.key(0))
    right = probs.argmax(1) == labels
    np.testing.assert_allclose(found["accuracy"].standard_error, right.std() / np.sqrt(N), rtol=0.2)
    log = np.log(probs[np.arange(N), labels])
    np.testing.assert_allclose(found["log_likelihood"].standard_error, log.std() / np.sqrt(N), rtol=0.2)
    assert all(score.standard_error > 0 for score in found.values())
    mean, scale, y = normal
    error = bdl.evaluate((mean, scale), y, key=jax.random.key(0))["mae"].standard_error
    np.testing.assert_allclose(error, np.abs(mean - y).std() / np.sqrt(N), rtol=0.2)


def test_what_is_undefined_says_why(three):
    found = bdl.evaluate(three[0], np.zeros(N, int))
    assert math.isnan(found["balanced_accuracy"].value)
    assert "a class has no label" in found["balanced_accuracy"].note
    assert math.isfinite(found["accuracy"].value)
    assert re.search(r"balanced_accuracy +undefined", str(found))


def test_a_label_that_was_impossible_is_told():
    found = bdl.evaluate(np.array([[1.0, 0.0], [0.5, 0.5], [0.2, 0.8]]), np.array([1, 0, 1]), key=jax.random.key(0))
    assert found["log_likelihood"] == (-math.inf, "higher", "nats", None, "1 of the labels had a probability of 0")


def test_the_table_prints_the_noise_floor_beside_the_error(three):
    probs, labels, _ = three
    lines = str(bdl.evaluate(probs, labels)).splitlines()
    assert lines[0].split() == ["metric", "value", "better", "unit"]
    (line,) = (line for line in lines if line.startswith("expected_calibration_error"))
    floor = float(bdl.metrics.calibration_noise_floor(probs))
    assert line.endswith(f"{floor:.4g} if calibrated")
    assert "± s.e." in str(bdl.evaluate(probs, labels, key=jax.random.key(1), num_resamples=20))


def test_as_a_frame(three):
    pandas = pytest.importorskip("pandas")
    frame = bdl.evaluate(*three[:2]).as_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert frame.loc["brier", "better"] == "lower"


@pytest.mark.parametrize(
    ("prediction", "targets", "error", "message"),
    [
        (np.full((4, 3), 2.0), np.zeros(4, int), ValueError, "If these are logits"),
        (np.full((4, 2), 0.5), np.zeros(5, int), ValueError, r"got shapes \(4, 2\) and \(5,\)"),
        ((np.zeros(4), np.ones(4)), np.zeros(3), ValueError, r"expected mean of the shape \(3,\)"),
        ((np.zeros(4),), np.zeros(4), ValueError, r"a pair \(mean, standard deviation\), got 1 array"),
        (np.full((2, 2), 0.5), np.array(["ant", "bee"]), ValueError, "Number the names: np.unique"),
        ("probs", np.zeros(4), TypeError, "expected a prediction of `bdl.predict`"),
        ((np.zeros(2), np.ones(2)), np.array([0, np.nan]), ValueError, "expected finite targets"),
        (
            (np.zeros(2), np.ones(2)),
            (np.zeros(2), np.ones(2, bool)),
            TypeError,
            r"evaluate\(prediction, y, mask=observed",
        ),
    ],
)
def test_bad_arguments(prediction, targets, error, message):
    with pytest.raises(error, match=message):
        bdl.evaluate(prediction, targets)
