"""Confusion matrices, what is read from them, and bootstrap intervals, against scikit-learn and by hand."""

import itertools
from fractions import Fraction

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from bdl.metrics import _bootstrap, _confusion, _ratios
from bdl.metrics._auroc import auroc
from bdl.metrics._bootstrap import bootstrap
from bdl.metrics._confusion import confusion_at_thresholds, confusion_matrix
from bdl.metrics._from_confusion import (
    accuracy,
    balanced_accuracy,
    cohen_kappa,
    f1,
    g_mean,
    matthews_correlation,
    precision,
    recall,
)
from bdl.metrics._segmentation import iou, mean_iou
from bdl.metrics._skill import (
    critical_success_index,
    false_alarm_ratio,
    gilbert_skill_score,
    heidke_skill_score,
    heidke_skill_score_1,
    probability_of_detection,
    true_skill_statistic,
)

SETTINGS = hypothesis.settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)


def draw(classes=4, size=60):
    rng = np.random.default_rng(2)
    labels = rng.integers(0, classes, size)
    probs = rng.dirichlet(np.ones(classes), size).astype(np.float32)
    probs[np.arange(size), labels] += 0.4
    return probs / probs.sum(-1, keepdims=True), labels


def test_confusion_matrix_against_scikit_learn(strict_dtypes):
    probs, labels = draw()
    probs[:3] = (0, 1, 0, 0), (0.5, 0, 0.5, 0), (0.25, 0.25, 0.25, 0.25)
    predicted = probs.argmax(-1)
    truth = sklearn.metrics.confusion_matrix(labels, predicted)
    np.testing.assert_array_equal(confusion_matrix(probs, labels), truth)
    np.testing.assert_array_equal(confusion_matrix(predicted.astype(np.uint8), labels, 4), truth)
    np.testing.assert_array_equal(jax.jit(confusion_matrix)(probs, labels), truth)
    np.testing.assert_array_equal(confusion_matrix(probs.reshape(3, 20, 4), labels.reshape(3, 20)), truth)
    streamed = sum(np.asarray(confusion_matrix(probs[i:j], labels[i:j])) for i, j in ((0, 25), (25, 50), (50, 60)))
    np.testing.assert_array_equal(streamed, truth)
    void = np.where(np.arange(60) % 7 == 3, 255, labels)
    mask = void != 255
    masked = sklearn.metrics.confusion_matrix(labels[mask], predicted[mask])
    probs[~mask] = np.nan
    np.testing.assert_array_equal(confusion_matrix(probs, void, mask=mask), masked)
    np.testing.assert_array_equal(confusion_matrix(predicted, void, 4, mask=mask), masked)
    # Under a trace nobody looks at labels: what is no class is counted nowhere, and not as its neighbour.
    inside = jax.jit(lambda p, y: confusion_matrix(p, y, 4))(predicted, np.where(mask, labels, -1))
    np.testing.assert_array_equal(inside, masked)


def test_thresholds_against_a_loop(strict_dtypes):
    rng = np.random.default_rng(4)
    scores, labels = np.round(rng.random(40), 1).astype(np.float32), rng.random(40) < 0.3
    thresholds = np.array([0.5, 0.0, 1.1, 0.3, 0.3, -1.0, 1.0, np.inf], np.float32)
    truth = [
        sklearn.metrics.confusion_matrix(labels, scores >= threshold, labels=[False, True]) for threshold in thresholds
    ]
    found = confusion_at_thresholds(scores, labels, thresholds)
    np.testing.assert_array_equal(found, truth)
    mask = np.arange(40) % 3 != 0
    dirty = np.where(mask, scores, np.nan)
    parts = [confusion_at_thresholds(dirty, labels, thresholds, mask=m) for m in (mask & (scores < 0.4), mask)]
    rest = jax.jit(lambda m: confusion_at_thresholds(scores, labels, thresholds, mask=m))(~mask)
    np.testing.assert_array_equal(np.asarray(parts[1]) + np.asarray(rest), truth)
    assert parts[0].sum() == len(thresholds) * (mask & (scores < 0.4)).sum()


AVERAGES = ("macro", "micro", "weighted", None)


def test_averages_against_scikit_learn(strict_dtypes):
    classes = 4
    probs, labels = draw(classes)
    predicted = probs.argmax(-1)
    matrix = confusion_matrix(probs, labels)
    scores = {
        precision: sklearn.metrics.precision_score,
        recall: sklearn.metrics.recall_score,
        f1: sklearn.metrics.f1_score,
    }
    for ours, theirs in scores.items():
        for average in AVERAGES:
            truth = theirs(labels, predicted, average=average)
            np.testing.assert_allclose(ours(matrix, average=average), truth, rtol=1e-6, err_msg=f"{ours} {average}")
    recalls = sklearn.metrics.recall_score(labels, predicted, average=None)
    whole = {
        accuracy: sklearn.metrics.accuracy_score(labels, predicted),
        balanced_accuracy: sklearn.metrics.balanced_accuracy_score(labels, predicted),
        matthews_correlation: sklearn.metrics.matthews_corrcoef(labels, predicted),
        cohen_kappa: sklearn.metrics.cohen_kappa_score(labels, predicted),
        g_mean: np.prod(recalls) ** (1 / classes),
        mean_iou: sklearn.metrics.jaccard_score(labels, predicted, average="macro"),
        iou: sklearn.metrics.jaccard_score(labels, predicted, average=None),
    }
    for ours, truth in whole.items():
        np.testing.assert_allclose(ours(matrix), truth, rtol=1e-6, err_msg=str(ours))


def skills(tn, fp, fn, tp):
    """By the formulas of Bobra and Couvidat (2015) and Schaefer (1990), as fractions; None where one divides by 0."""
    tn, fp, fn, tp = (Fraction(int(count)) for count in (tn, fp, fn, tp))
    positive, negative = tp + fn, tn + fp
    chance = (tp + fp) * (tp + fn) / (positive + negative)
    formulas = {
        true_skill_statistic: lambda: tp / positive - fp / negative,
        heidke_skill_score: lambda: (
            2 * (tp * tn - fn * fp) / (positive * (fn + tn) + (tp + fp) * negative)
        ),
        heidke_skill_score_1: lambda: (tp + tn - negative) / positive,
        gilbert_skill_score: lambda: (tp - chance) / (tp + fp + fn - chance),
        probability_of_detection: lambda: tp / positive,
        false_alarm_ratio: lambda: fp / (tp + fp),
        critical_success_index: lambda: tp / (tp + fp + fn),
    }  # fmt: skip
    found = {}
    for ours, formula in formulas.items():
        try:
            found[ours] = float(formula())
        except ZeroDivisionError:
            found[ours] = None
    return found


SKILLS = tuple(skills(1, 1, 1, 1))
COUNTS = st.one_of(st.sampled_from([0, 1, 2, 999_999_937]), st.integers(0, 5000))
JITTED_SKILLS = jax.jit(lambda matrix: [skill(matrix) for skill in SKILLS])


@SETTINGS
@hypothesis.given(st.tuples(COUNTS, *[st.integers(0, 5000)] * 3).filter(any))
def test_skill_against_fractions(strict_dtypes, cells):
    matrix = np.array(cells, np.int32).reshape(2, 2)
    truth = skills(*cells)
    for skill, inside in zip(SKILLS, JITTED_SKILLS(matrix), strict=True):
        if truth[skill] is None:
            assert np.isnan(inside), skill
            with pytest.raises(ValueError, match="undefined=0.0"):
                skill(matrix)
            assert skill(matrix, undefined=-0.5) == -0.5
        else:
            np.testing.assert_allclose(inside, truth[skill], rtol=2e-6, atol=2e-7, err_msg=str(skill))
            np.testing.assert_allclose(skill(matrix), inside, rtol=1e-6, atol=1e-7)


def test_rare_events_keep_their_digits(strict_dtypes):
    """Counts of 10⁹ and of 10: N² − Σ p², in float32, is noise."""
    cells = (999_999_000, 13, 7, 29)
    matrix = np.array(cells).reshape(2, 2)
    for skill, truth in skills(*cells).items():
        np.testing.assert_allclose(skill(matrix), truth, rtol=1e-6, err_msg=str(skill))
    tn, fp, fn, tp = (float(count) for count in cells)
    matthews = (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    np.testing.assert_allclose(matthews_correlation(matrix), matthews, rtol=1e-6)
    np.testing.assert_allclose(cohen_kappa(matrix), skills(*cells)[heidke_skill_score], rtol=1e-6)
    # Counts that 32 bits do not hold are rounded, and not cut off.
    np.testing.assert_allclose(precision(1000 * matrix), precision(matrix), rtol=1e-6)


def test_sweep_of_thresholds_and_leading_axes(strict_dtypes):
    rng = np.random.default_rng(6)
    scores, labels = rng.random(40).astype(np.float32), rng.random(40) < 0.3
    matrices = np.asarray(confusion_at_thresholds(scores, labels, np.linspace(0, 0.9, 6, dtype=np.float32)))
    for skill in SKILLS:
        each = [skills(*matrix.ravel())[skill] for matrix in matrices]
        each = [np.nan if value is None else value for value in each]
        np.testing.assert_allclose(skill(matrices, undefined=jnp.nan), each, rtol=2e-6, atol=1e-7)
    found = f1(matrices.reshape(2, 3, 2, 2), average=None)
    assert found.shape == (2, 3, 2)
    np.testing.assert_allclose(found[1, 0], f1(matrices[3], average=None), rtol=1e-6)


def test_what_is_undefined_says_so(strict_dtypes):
    matrix = np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    metrics = (precision, recall, f1, mean_iou, iou, balanced_accuracy, g_mean)
    inside = jax.jit(lambda matrix: [metric(matrix) for metric in metrics])(matrix)
    for metric, found in zip(metrics, inside, strict=True):
        assert np.isnan(found).any()
        with pytest.raises(ValueError, match=r"undefined at \[2\]"):
            metric(matrix)
    np.testing.assert_allclose(precision(matrix, undefined=0.0), (1 + 0.8) / 3, rtol=1e-6)
    np.testing.assert_allclose(precision(matrix, undefined="skip"), 0.9, rtol=1e-6)
    np.testing.assert_allclose(precision(matrix, average=None, undefined=jnp.nan), [1, 0.8, np.nan], rtol=1e-6)
    np.testing.assert_allclose(precision(matrix, average="micro"), 7 / 8, rtol=1e-6)
    # A class without labels has no weight.
    np.testing.assert_allclose(precision(matrix, average="weighted"), 0.9, rtol=1e-6)
    np.testing.assert_allclose(mean_iou(matrix, undefined="skip"), (0.75 + 0.8) / 2, rtol=1e-6)
    np.testing.assert_allclose(recall(matrix, undefined="skip"), 0.875, rtol=1e-6)
    never = np.array([[0, 2], [0, 3]])
    with pytest.raises(ValueError, match="never predicted"):
        precision(never, average="weighted")
    np.testing.assert_allclose(precision(never, average="weighted", undefined="skip"), 0.6, rtol=1e-6)
    np.testing.assert_allclose(f1(never, average=None), [0, 0.75], rtol=1e-6)
    assert g_mean(never) == 0
    for metric in (matthews_correlation, cohen_kappa):
        with pytest.raises(ValueError, match="of one class"):
            metric(np.array([[5, 0], [0, 0]]))
        assert metric(np.array([[5, 0], [0, 0]]), undefined=0.0) == 0


def test_confusion_says_what_is_wrong():
    probs, labels = draw()
    with pytest.raises(ValueError, match="num_classes of at least 2"):
        confusion_matrix(labels, labels)
    with pytest.raises(ValueError, match="of one shape"):
        confusion_matrix(labels[:3], labels, 4)
    with pytest.raises(ValueError, match="integers in predicted"):
        confusion_matrix(probs[:, 0], labels, 4)
    with pytest.raises(ValueError, match="labels in 0, …, 3, got 255"):
        confusion_matrix(labels, np.full(60, 255), 4)
    with pytest.raises(ValueError, match="Leave out num_classes"):
        confusion_matrix(probs, labels, 5)
    with pytest.raises(ValueError, match="thresholds"):
        confusion_at_thresholds(probs[:, 0], labels == 0, 0.5)
    with pytest.raises(ValueError, match="threshold is NaN"):
        confusion_at_thresholds(probs[:, 0], labels == 0, np.array([np.nan]))
    with pytest.raises(ValueError, match="labels of 0 and 1"):
        confusion_at_thresholds(probs[:, 0], labels, np.array([0.5]))
    with pytest.raises(ValueError, match=r"\[\.\.\., K, K\]"):
        accuracy(probs)
    with pytest.raises(ValueError, match=r"\[\.\.\., 2, 2\]"):
        true_skill_statistic(np.ones((3, 3)))
    with pytest.raises(ValueError, match="at least 0"):
        accuracy(-np.ones((2, 2)))
    with pytest.raises(ValueError, match="no example"):
        accuracy(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="average="):
        f1(np.ones((2, 2)), average="binary")
    with pytest.raises(ValueError, match="skip"):
        f1(np.ones((2, 2)), average=None, undefined="skip")
    with pytest.raises(ValueError, match='"skip"'):
        f1(np.ones((2, 2)), undefined="ignore")


def test_second_call_compiles_nothing(strict_dtypes):
    probs, labels = draw()
    call = lambda p: (f1(confusion_matrix(p, labels), undefined=0.5), mean_iou(confusion_matrix(p, labels)))
    call(probs)
    sizes = lambda: (_confusion._count._cache_size(), _ratios._divide._cache_size())
    before = sizes()
    call(probs[::-1].copy())
    assert before == sizes()


def weighted(values, *, mask=None):
    kept = jnp.ones_like(values) if mask is None else mask.astype(jnp.float32)
    return (values * kept).sum() / kept.sum()


def test_bootstrap_of_a_mean(strict_dtypes):
    values = np.random.default_rng(7).exponential(size=60).astype(np.float32)
    found = bootstrap(jax.random.key(0), weighted, values)
    error = values.std() / np.sqrt(60)
    # The standard error of a standard deviation of 1,000 is 2.2 %, that of the 2.5 % quantile 8.5 % of the deviation.
    np.testing.assert_allclose(found.estimate, values.mean(), rtol=1e-6)
    np.testing.assert_allclose(found.standard_error, error, rtol=5 * 0.023)
    assert abs(found.lower - (values.mean() - 1.96 * error)) < (5 * 0.085 + 0.2) * error
    assert abs(found.upper - (values.mean() + 1.96 * error)) < (5 * 0.085 + 0.2) * error
    assert found.num_undefined == 0
    chunked = bootstrap(jax.random.key(0), weighted, values, chunk_size=7)
    np.testing.assert_allclose(chunked.standard_error, found.standard_error, rtol=1e-5)
    narrow = bootstrap(jax.random.key(0), weighted, values, level=0.5)
    assert found.lower < narrow.lower < narrow.upper < found.upper


def test_bootstrap_of_groups(strict_dtypes):
    rng = np.random.default_rng(8)
    of_group = rng.normal(size=30).astype(np.float32)
    # Copies say nothing new: the error is that of 30 values, and not of 120.
    found = bootstrap(jax.random.key(1), jnp.mean, np.tile(of_group, 4), groups=np.tile(np.arange(30), 4))
    np.testing.assert_allclose(found.standard_error, of_group.std() / np.sqrt(30), rtol=5 * 0.023)
    groups = np.repeat(np.array([f"patient {i}" for i in range(30)]), rng.integers(1, 9, 30))
    values = rng.normal(size=len(groups)).astype(np.float32) + 2
    _, member = np.unique(groups, return_inverse=True)
    sums, sizes = np.bincount(member, values), np.bincount(member)
    drawn = rng.integers(0, 30, (20_000, 30))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    found = bootstrap(jax.random.key(2), weighted, values, groups=groups)
    np.testing.assert_allclose(found.standard_error, means.std(), rtol=5 * 0.024)
    assert abs(found.lower - np.quantile(means, 0.025)) < 5 * 0.087 * means.std()
    assert abs(found.upper - np.quantile(means, 0.975)) < 5 * 0.087 * means.std()
    # Wrong by a whole group's size, were the rows not those of the groups.
    np.testing.assert_allclose(found.estimate, values.mean(), rtol=1e-6)
    with pytest.raises(ValueError, match="must take `mask=`"):
        bootstrap(jax.random.key(2), jnp.mean, values, groups=groups)


def test_bootstrap_counts_what_is_undefined(strict_dtypes):
    scores, labels = np.arange(12, dtype=np.float32), np.arange(12) == 9
    both = lambda scores, labels: {"auroc": auroc(scores, labels), "mean": scores.mean()}
    found = bootstrap(jax.random.key(3), both, scores, labels)
    # The only positive is not drawn in a share of (11/12)¹² of the resamples.
    share = (11 / 12) ** 12
    assert abs(int(found.num_undefined["auroc"]) - 1000 * share) < 5 * np.sqrt(1000 * share * (1 - share))
    assert found.num_undefined["mean"] == 0
    assert 0 <= found.lower["auroc"] < found.upper["auroc"] <= 1
    assert np.isfinite(found.standard_error["auroc"])


def test_bootstrap_says_what_is_wrong():
    key, values = jax.random.key(4), np.ones(4, np.float32)
    with pytest.raises(ValueError, match="same number of rows"):
        bootstrap(key, weighted, values, values[:2])
    with pytest.raises(ValueError, match="two examples"):
        bootstrap(key, weighted, values[:1])
    with pytest.raises(ValueError, match="level in"):
        bootstrap(key, weighted, values, level=95)
    with pytest.raises(ValueError, match="num_resamples"):
        bootstrap(key, weighted, values, num_resamples=1)
    with pytest.raises(ValueError, match="expected groups"):
        bootstrap(key, weighted, values, groups=np.ones(3))
    with pytest.raises(ValueError, match="two groups"):
        bootstrap(key, weighted, values, groups=np.ones(4))
    with pytest.raises(ValueError, match="NaN in all resamples"):
        bootstrap(key, lambda values: jnp.log(-values).mean(), values, num_resamples=3)


@pytest.mark.slow
def test_bootstrap_in_memory_that_does_not_grow(strict_dtypes):
    size = lambda number: _bootstrap._of_examples.lower(
        jax.random.key(5), weighted, (np.ones(500, np.float32),), number, 5
    ).compile().memory_analysis().temp_size_in_bytes  # fmt: skip
    few, many = size(10), size(1000)
    assert many < 1.1 * few + 4 * 1000


def test_matrices_of_uneven_batches_add_up_to_the_whole():
    random = np.random.default_rng(5)
    predicted, labels, scores = random.integers(0, 3, 103), random.integers(0, 3, 103), random.random(103)
    cuts, thresholds = list(itertools.pairwise([0, 25, 50, 75, 100, 103])), np.array([0.2, 0.5, 0.9])
    whole = confusion_matrix(predicted, labels, 3)
    np.testing.assert_array_equal(sum(confusion_matrix(predicted[i:j], labels[i:j], 3) for i, j in cuts), whole)
    swept = confusion_at_thresholds(scores, labels == 1, thresholds)
    parts = [confusion_at_thresholds(scores[i:j], labels[i:j] == 1, thresholds) for i, j in cuts]
    np.testing.assert_array_equal(sum(parts), swept)
