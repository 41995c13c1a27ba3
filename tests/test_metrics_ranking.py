"""Metrics of a ranking, of selection and of fidelity, against scikit-learn, scipy and every order there is."""

import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import wasserstein_distance
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from bdl.metrics import _auroc, _selective
from bdl.metrics._auroc import auroc
from bdl.metrics._detection import detection, detection_error, error_detection, fpr_at_tpr, tnr_at_tpr
from bdl.metrics._fidelity import agreement, total_variation, wasserstein_1, wasserstein_2
from bdl.metrics._precision_recall import average_precision
from bdl.metrics._selective import (
    augrc,
    aurc,
    coverage_at_risk,
    excess_aurc,
    risk_coverage,
    sparsification_error,
)

SIZE = 24
METRICS = {
    "auroc": auroc,
    "average_precision": average_precision,
    "balanced": lambda *a, **k: average_precision(*a, balanced=True, **k),
    "fpr_at_tpr": fpr_at_tpr,
    "fpr_at_half": lambda *a, **k: fpr_at_tpr(*a, tpr=0.5, **k),
    "tnr_at_tpr": tnr_at_tpr,
    "detection_error": detection_error,
}
JITTED = jax.jit(lambda scores, labels, mask: {n: f(scores, labels, mask=mask) for n, f in METRICS.items()})
NUMBERS = st.one_of(st.sampled_from([0.0, -0.0, 1.0, 0.5, -1e30, 1e-38]), st.integers(-2, 2).map(float))
SETTINGS = hypothesis.settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)


def oracle(scores, labels):
    """By scikit-learn, in float64."""
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    share = np.mean(labels)
    even = np.where(labels, 1 - share, share)
    return {
        "auroc": roc_auc_score(labels, scores),
        "average_precision": average_precision_score(labels, scores),
        "balanced": average_precision_score(labels, scores, sample_weight=even),
        "fpr_at_tpr": fpr[np.argmax(tpr >= 0.95)],
        "fpr_at_half": fpr[np.argmax(tpr >= 0.5)],
        "tnr_at_tpr": 1 - fpr[np.argmax(tpr >= 0.95)],
        "detection_error": np.min(0.5 * (1 - tpr) + 0.5 * fpr),
    }


def draw(case):
    rng = np.random.default_rng(3)
    labels = rng.random(SIZE) < 0.4
    scores = rng.normal(size=SIZE).astype(np.float32) + labels.astype(np.float32)
    mask = rng.random(SIZE) < 0.8
    if case == "ties":
        scores = np.round(scores)
    if case == "constant":
        scores[:] = -0.0
        scores[::2] = 0.0
    if case == "probabilities":
        scores = np.clip(np.round(scores, 1), 0, 1)
    if case == "one positive":
        labels = np.arange(SIZE) == np.argmax(mask)
    return scores, labels, mask


@pytest.mark.parametrize("case", ["distinct", "ties", "constant", "probabilities", "one positive"])
def test_ranking_against_scikit_learn(strict_dtypes, case):
    scores, labels, mask = draw(case)
    dirty, odd = np.where(mask, scores, np.float32("nan")), np.where(mask, labels.astype(np.int32), np.int32(7))
    truth = oracle(scores[mask], labels[mask])
    inside = JITTED(dirty, odd, mask)
    for name, metric in METRICS.items():
        np.testing.assert_allclose(metric(dirty, odd, mask=mask), truth[name], rtol=2e-6, atol=1e-7, err_msg=name)
        np.testing.assert_allclose(inside[name], truth[name], rtol=2e-6, atol=1e-7, err_msg=name)
    if case == "distinct":
        np.testing.assert_allclose(auroc(scores, labels), roc_auc_score(labels, scores), rtol=1e-6)
        images = [array.reshape(2, 3, 4) for array in (dirty, odd, mask)]
        np.testing.assert_allclose(auroc(*images[:2], mask=images[2]), truth["auroc"], rtol=1e-6)


@SETTINGS
@hypothesis.given(st.lists(st.tuples(NUMBERS, st.booleans()), min_size=1, max_size=SIZE))
def test_ranking_of_any_scores(strict_dtypes, pairs):
    count = len(pairs)
    scores, labels, mask = np.full(SIZE, np.nan, np.float32), np.full(SIZE, -1, np.int32), np.arange(SIZE) < count
    scores[:count], labels[:count] = zip(*pairs, strict=True)
    found = JITTED(scores, labels, mask)
    if 0 < labels[:count].sum() < count:
        for name, truth in oracle(scores[:count], labels[:count]).items():
            np.testing.assert_allclose(found[name], truth, rtol=2e-6, atol=1e-7, err_msg=name)
        return
    for name, metric in METRICS.items():
        assert np.isnan(found[name]), name
        with pytest.raises(ValueError, match="both 0 and 1"):
            metric(scores, labels, mask=mask)


def test_nan_under_a_trace_is_nan_and_outside_an_error(strict_dtypes):
    scores, labels, mask = draw("distinct")
    scores[np.argmax(mask)] = -np.float32("nan")
    assert all(np.isnan(value) for value in JITTED(scores, labels, mask).values())
    with pytest.raises(ValueError, match="finite scores"):
        auroc(scores, labels, mask=mask)


def test_rows_at_once_and_other_dtypes(strict_dtypes):
    scores, labels, _ = draw("ties")
    rows = np.stack([scores, -scores])
    found = jax.jit(jax.vmap(auroc, in_axes=(0, None)))(rows, labels)
    np.testing.assert_allclose(found, [roc_auc_score(labels, row) for row in rows], rtol=1e-6)
    for dtype in (jnp.bfloat16, jnp.float16, np.float64, np.int32):
        # Small whole numbers are exact in all of them.
        converted = np.asarray(scores).astype(dtype)
        np.testing.assert_allclose(auroc(converted, labels), found[0], rtol=1e-6, err_msg=str(dtype))


@pytest.mark.slow
def test_a_million_examples_lose_no_digits(strict_dtypes):
    rng = np.random.default_rng(0)
    labels = rng.random(1_000_000) < 0.01
    scores = np.round(rng.normal(size=labels.size) + labels, 4).astype(np.float32)
    np.testing.assert_allclose(auroc(scores, labels), roc_auc_score(labels, scores), rtol=1e-6)
    np.testing.assert_allclose(average_precision(scores, labels), average_precision_score(labels, scores), rtol=1e-6)
    distinct = rng.permutation(labels.size).astype(np.float32)
    losses = rng.random(labels.size).astype(np.float32)
    sums = np.cumsum(losses[np.argsort(distinct)].astype(np.float64)) / np.arange(1, labels.size + 1)
    np.testing.assert_allclose(aurc(distinct, losses), sums.mean(), rtol=1e-6)


def test_second_call_compiles_nothing(strict_dtypes):
    scores, labels, mask = draw("distinct")
    call = lambda s: (auroc(s, labels, mask=mask), aurc(s, labels, mask=mask))
    call(scores)
    before = _auroc._auroc._cache_size(), _selective._aurc._cache_size()
    call(scores + np.float32(1))
    assert before == (_auroc._auroc._cache_size(), _selective._aurc._cache_size())


@pytest.mark.parametrize("balanced", [False, True])
def test_detection_in_both_conventions(strict_dtypes, balanced):
    rng = np.random.default_rng(1)
    inside, outside = np.round(rng.normal(size=40), 1), np.round(rng.normal(size=25) + 1.5, 1)
    scores, labels = np.concatenate([inside, outside]).astype(np.float32), np.repeat([0, 1], (40, 25))
    out, of_in = oracle(scores, labels), oracle(-scores, 1 - labels)
    precision = "balanced" if balanced else "average_precision"
    for positive, rates in (("in", of_in), ("out", out)):
        padded = np.append(inside, np.nan)
        found = detection(padded, outside, positive=positive, balanced=balanced, mask_in=~np.isnan(padded))
        truth = {
            "auroc": out["auroc"], "aupr_in": of_in[precision], "aupr_out": out[precision],
            "fpr95": rates["fpr_at_tpr"], "tnr95": rates["tnr_at_tpr"], "detection_error": out["detection_error"],
        }  # fmt: skip
        assert found.keys() == truth.keys()
        for name, value in truth.items():
            np.testing.assert_allclose(found[name], value, rtol=2e-6, err_msg=name)
    assert abs(out["fpr_at_tpr"] - of_in["fpr_at_tpr"]) > 0.03


def test_saturated_scores_keep_all_of_their_area(strict_dtypes):
    """A sum over thresholds that leaves out the first, of ties at the maximum, gives 0.46 here."""
    inside, outside = np.repeat([-1.0, -0.5], (80, 20)), np.repeat([-1.0, -0.6], (50, 50))
    wins = np.mean(outside[:, None] > inside) + 0.5 * np.mean(outside[:, None] == inside)
    np.testing.assert_allclose(detection(inside, outside)["auroc"], wins, rtol=1e-6)


def test_error_detection_against_scikit_learn(strict_dtypes):
    uncertainty, wrong, mask = draw("ties")
    found = error_detection(np.where(mask, uncertainty, np.nan), ~wrong, mask=mask)
    error, success = oracle(uncertainty[mask], wrong[mask]), oracle(-uncertainty[mask], ~wrong[mask])
    truth = (error["auroc"], error["average_precision"], success["average_precision"], success["fpr_at_tpr"])
    names = ("auroc", "aupr_error", "aupr_success", "fpr95")
    for name, value in zip(names, truth, strict=True):
        np.testing.assert_allclose(found[name], value, rtol=2e-6, err_msg=name)


def test_detection_says_what_is_wrong():
    three = np.arange(3.0)
    with pytest.raises(ValueError, match='"in" or "out"'):
        detection(three, three, positive="ood")
    with pytest.raises(ValueError, match="no example in scores_out"):
        detection(three, np.zeros(0))
    with pytest.raises(ValueError, match="mask_in of shape"):
        detection(three, three, mask_in=np.ones(2, bool))
    with pytest.raises(ValueError, match="that mask_out keeps"):
        detection(three, three, mask_out=np.zeros(3, bool))
    with pytest.raises(ValueError, match="labels of 0 and 1, or bool, got 2"):
        auroc(three, np.arange(3))
    with pytest.raises(ValueError, match="correct of 0 and 1"):
        error_detection(three, np.arange(3))
    with pytest.raises(ValueError, match="shape"):
        average_precision(three, np.ones(2, int))
    with pytest.raises(ValueError, match="tpr in"):
        fpr_at_tpr(three, np.array([0, 1, 1]), tpr=95)


def orders(uncertainty, losses):
    """The risks [orders, N] of every order that sorts the uncertainty."""
    every = np.array(list(itertools.permutations(range(len(losses)))))
    sorts = (np.diff(uncertainty[every], axis=1) >= 0).all(1)
    return np.cumsum(losses[every[sorts]], axis=1) / np.arange(1, len(losses) + 1)


SELECTIVE = jax.jit(
    lambda uncertainty, losses, mask: {
        "aurc": aurc(uncertainty, losses, mask=mask),
        "excess": excess_aurc(uncertainty, losses, mask=mask),
        "augrc": augrc(uncertainty, losses, mask=mask),
        "coverage": coverage_at_risk(uncertainty, losses, risk=0.4, mask=mask),
        "sparsification": sparsification_error(uncertainty, losses, mask=mask),
        "root": sparsification_error(uncertainty, losses, root=True, relative=False, mask=mask),
        "curve": risk_coverage(uncertainty, losses, mask=mask),
    }
)


@SETTINGS
@hypothesis.given(st.lists(st.tuples(NUMBERS, st.sampled_from([0.0, 1.0, 0.25])), min_size=1, max_size=5))
def test_selection_is_the_mean_over_all_orders(strict_dtypes, pairs):
    count, size = len(pairs), 6
    uncertainty, losses, mask = (
        np.full(size, np.nan, np.float32),
        np.full(size, np.nan, np.float32),
        np.ones(size, bool),
    )
    uncertainty[:count], losses[:count] = zip(*pairs, strict=True)
    mask[count:] = False
    found = SELECTIVE(uncertainty, losses, mask)
    uncertainty, losses = uncertainty[:count], losses[:count].astype(np.float64)
    risks, best = orders(uncertainty, losses), orders(losses, losses)
    expected, k = risks.mean(0), np.arange(1, count + 1)
    sums = np.concatenate([[0.0], expected * k]) / count
    root = np.sqrt(expected).mean() - np.sqrt(best[0]).mean()
    accepted = [losses[uncertainty <= t].mean() <= 0.4 and np.mean(uncertainty <= t) for t in uncertainty]
    close = lambda name, truth: np.testing.assert_allclose(found[name], truth, rtol=2e-6, atol=2e-7, err_msg=name)
    close("aurc", expected.mean())
    close("excess", expected.mean() - orders(np.zeros(count), losses).mean(1).min())
    close("augrc", np.mean(sums[1:] + sums[:-1]) / 2)
    close("coverage", max(accepted))
    with np.errstate(invalid="ignore"):
        close("sparsification", (expected.mean() - best[0].mean()) / losses.mean())
    close("root", root)
    np.testing.assert_allclose(found["curve"][0][:count], k / count, rtol=1e-6)
    np.testing.assert_allclose(found["curve"][1][:count], expected, rtol=1e-6)


def test_selection_of_errors_in_closed_form(strict_dtypes):
    uncertainty, wrong, mask = draw("ties")
    masked, losses = np.where(mask, uncertainty, np.nan), np.where(mask, wrong, np.nan)
    error = wrong[mask].mean()
    detected = roc_auc_score(wrong[mask], uncertainty[mask])
    closed = (1 - detected) * error * (1 - error) + 0.5 * error**2
    np.testing.assert_allclose(augrc(masked, losses, mask=mask), closed, rtol=1e-6)
    np.testing.assert_allclose(aurc(np.zeros(SIZE), wrong), wrong.mean(), rtol=1e-6)
    np.testing.assert_allclose(excess_aurc(wrong, wrong), 0, atol=1e-7)
    coverage, risk = risk_coverage(masked, losses, mask=mask)
    assert coverage.shape == risk.shape == (mask.sum(),)
    np.testing.assert_allclose(risk.mean(), aurc(masked, losses, mask=mask), rtol=1e-6)
    assert coverage_at_risk(uncertainty, np.ones(SIZE)) == 0
    # 1 of 20 is a risk of 0.05, although 0.05 is no float32.
    assert coverage_at_risk(np.arange(20), np.arange(20) == 3) == 1


def test_selection_says_what_is_wrong():
    two = np.array([1.0, 2.0])
    with pytest.raises(ValueError, match="finite uncertainty"):
        aurc(np.array([1.0, np.nan]), two)
    with pytest.raises(ValueError, match="shape"):
        risk_coverage(np.ones((2, 1)), two)
    with pytest.raises(ValueError, match="at least 0"):
        sparsification_error(two, -two)
    with pytest.raises(ValueError, match="relative=False"):
        sparsification_error(two, 0 * two)
    with pytest.raises(ValueError, match="no example"):
        augrc(two, two, mask=np.zeros(2, bool))
    with pytest.raises(ValueError, match="finite risk"):
        coverage_at_risk(two, two, risk=np.nan)
    traced = jax.jit(lambda u: (aurc(u, two), coverage_at_risk(u, two, risk=9.0), risk_coverage(u, two)[1]))
    assert all(np.isnan(found).all() for found in traced(np.array([np.nan, 1.0])))


@pytest.mark.parametrize(("size", "other"), [(1, 1), (5, 5), (6, 4), (7, 3), (1, 4)])
def test_wasserstein_against_scipy(strict_dtypes, size, other):
    rng = np.random.default_rng(size)
    samples, reference = rng.normal(size=(size, 2, 3)), 2 * rng.normal(size=(other, 2, 3)) + 1
    reference[0] = np.round(reference[0])
    first, second = (f(samples, reference, average=False) for f in (wasserstein_1, wasserstein_2))
    for i, j in np.ndindex(2, 3):
        a, b = samples[:, i, j], reference[:, i, j]
        np.testing.assert_allclose(first[i, j], wasserstein_distance(a, b), rtol=2e-6)
        equal = np.sort(np.repeat(a, other)) - np.sort(np.repeat(b, size))
        np.testing.assert_allclose(second[i, j], np.sqrt(np.mean(equal**2)), rtol=2e-6)
    mask = np.arange(6).reshape(2, 3) % 4 != 1
    samples[:, ~mask] = np.nan
    np.testing.assert_allclose(wasserstein_1(samples, reference, mask=mask), np.asarray(first)[mask].mean(), rtol=1e-6)
    each = wasserstein_2(samples, reference, mask=mask, average=False)
    np.testing.assert_allclose(each, np.where(mask, second, 0), rtol=1e-6)
    if size == 6:
        traced = jax.jit(wasserstein_2)(samples, reference)
        assert np.isnan(traced)
        np.testing.assert_allclose(
            jax.jit(wasserstein_2)(1e-30 * reference, -1e-30 * reference),
            1e-30 * float(wasserstein_2(reference, -reference)), rtol=1e-5,
        )  # fmt: skip


def test_agreement_and_total_variation_by_hand(strict_dtypes):
    rng = np.random.default_rng(5)
    probs, reference = (rng.dirichlet(np.ones(3), (4, 6)).astype(np.float32) for _ in range(2))
    probs[0, 0], reference[0, 0] = (1, 0, 0), (0, 0, 1)
    probs[0, 1], reference[0, 1] = (0.5, 0.5, 0), (0.5, 0.5, 0)
    same = probs.argmax(-1) == reference.argmax(-1)
    apart = 0.5 * np.abs(probs.astype(np.float64) - reference).sum(-1)
    assert apart[0, 0] == 1
    np.testing.assert_array_equal(agreement(probs, reference, average=False), same)
    np.testing.assert_allclose(total_variation(probs, reference, average=False), apart, rtol=1e-6, atol=1e-7)
    mask = np.arange(24).reshape(4, 6) % 5 != 2
    dirty = np.where(mask[..., None], probs, np.nan)
    for metric, truth in ((agreement, same), (total_variation, apart)):
        np.testing.assert_allclose(metric(dirty, reference, mask=mask), truth[mask].mean(), rtol=1e-6)
        np.testing.assert_allclose(jax.jit(metric)(probs, reference), truth.mean(), rtol=1e-6)
        batches = [(probs[i:j], reference[i:j]) for i, j in ((0, 1), (1, 4))]
        streamed = np.average([metric(*batch) for batch in batches], weights=[1, 3])
        np.testing.assert_allclose(streamed, truth.mean(), rtol=1e-6)


def test_fidelity_says_what_is_wrong():
    probs = np.full((2, 3), 1 / 3)
    with pytest.raises(ValueError, match="of one shape"):
        agreement(probs, probs[:1])
    with pytest.raises(ValueError, match="softmax"):
        total_variation(probs, 9 * probs)
    with pytest.raises(ValueError, match="along axis 0"):
        wasserstein_1(probs, np.ones((2, 2)))
    with pytest.raises(ValueError, match="along axis 0"):
        wasserstein_2(np.zeros((0, 3)), probs)
    with pytest.raises(ValueError, match="finite reference"):
        wasserstein_1(probs, np.full((2, 3), np.inf))
