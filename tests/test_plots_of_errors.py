"""What the pictures of errors, rankings and fits show is what the numbers say."""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn import metrics

import bdl
from bdl import plots
from bdl.fit import History
from bdl.inference._base import StepInfo

N = 60


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def ranked():
    random = np.random.default_rng(0)
    labels = random.random(N) < 0.3
    return np.round(random.normal(size=N) + labels, 1), labels  # rounded: there are ties


def test_roc_is_that_of_scikit_learn(ranked):
    false, true, _ = metrics.roc_curve(ranked[1], ranked[0], drop_intermediate=False)
    ax = plots.roc(*ranked, name="a")
    curve, diagonal = ax.lines
    np.testing.assert_allclose(curve.get_xydata(), np.stack([false, true], 1), atol=1e-12)
    assert curve.get_label() == f"a: area {metrics.roc_auc_score(ranked[1], ranked[0]):.3f}"
    np.testing.assert_array_equal(diagonal.get_xydata(), [[0, 0], [1, 1]])


def test_precision_recall_is_that_of_scikit_learn(ranked):
    precision, recall, _ = metrics.precision_recall_curve(ranked[1], ranked[0])
    (curve,) = plots.precision_recall(*ranked).lines
    corners = curve.get_xydata()
    for point in zip(recall[:-1], precision[:-1], strict=True):
        assert np.isclose(corners, point).all(1).any(), point
    average = metrics.average_precision_score(ranked[1], ranked[0])
    assert curve.get_label() == f"score: average precision {average:.3f}"


def test_risk_is_the_mean_loss_of_the_most_certain_and_equals_go_together():
    uncertainty, losses = np.array([3.0, 1.0, 1.0, 2.0]), np.array([5.0, 0.0, 2.0, 1.0])
    ax = plots.risk_coverage(uncertainty, losses, name="first")
    best, mean, curve = ax.lines
    np.testing.assert_allclose(curve.get_xydata(), [[0.25, 1], [0.5, 1], [0.75, 1], [1, 2]])
    np.testing.assert_allclose(best.get_ydata(), [0, 0.5, 1, 2])
    np.testing.assert_allclose(mean.get_ydata(), 2.0)
    plots.risk_coverage(-uncertainty, losses, name="second", ax=ax)
    assert ax.get_legend_handles_labels()[1] == ["best order", "random order", "first: AURC 1.25", "second: AURC 3.08"]
    assert len({line.get_color() for line in ax.lines[2:]}) == 2


def test_histograms_have_area_one_and_the_same_bins(ranked):
    scores, labels = ranked
    inside, outside = plots.scores(scores[labels], scores[~labels], num_bins=7).patches
    for patch in (inside, outside):
        corners = patch.get_xy()
        np.testing.assert_allclose(np.abs(np.trapezoid(corners[:, 1], corners[:, 0])), 1, rtol=1e-9)
        np.testing.assert_allclose([corners[:, 0].min(), corners[:, 0].max()], [scores.min(), scores.max()])


def test_histograms_of_several_kinds_have_the_same_bins_and_each_its_colour(ranked):
    scores, labels = ranked
    kinds = {"near": scores[~labels], "far": scores[~labels] + 2}
    ax = plots.scores(scores[labels], kinds, num_bins=5)
    assert [text.split(" (")[0] for text in ax.get_legend_handles_labels()[1]] == ["in", "near", "far"]
    assert len({patch.get_edgecolor() for patch in ax.patches}) == 3
    for patch in ax.patches:
        corners = patch.get_xy()
        np.testing.assert_allclose([corners[:, 0].min(), corners[:, 0].max()], [scores.min(), kinds["far"].max()])


def test_a_reliability_diagram_has_bars_gaps_and_a_histogram():
    probs, labels = np.array([0.95, 0.92, 0.7, 0.65, 0.55]), np.array([1, 1, 0, 1, 0])
    ax = plots.reliability(np.stack([1 - probs, probs], 1), labels, num_bins=5)
    bars, gaps = ax.containers[0], ax.containers[1]
    np.testing.assert_allclose([bar.get_x() for bar in bars], [0.4, 0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose([bar.get_height() for bar in bars], [0, 0.5, 1])
    np.testing.assert_allclose([gap.get_height() for gap in gaps], [0.55, 0.175, -0.065], rtol=1e-5)
    (above,) = ax.child_axes
    np.testing.assert_allclose([bar.get_height() for bar in above.patches], [0, 0, 0.2, 0.4, 0.4], rtol=1e-6)
    np.testing.assert_allclose([line.get_xdata()[0] for line in above.lines], [probs.mean(), 0.6], rtol=1e-6)
    with pytest.raises(ValueError, match="a diagram is of one class"):
        plots.reliability(np.stack([1 - probs, probs], 1), labels, of="classes")


def test_quantiles_are_shares_of_targets_below():
    values = np.array([0.1, 0.2, 0.6, 0.95])
    ax = plots.quantile_calibration(values, name="a")
    curve = ax.lines[-1].get_xydata()
    np.testing.assert_allclose(curve[[9, 15, 50, 99], 1], [0, 0.25, 0.5, 1.0])
    plots.quantile_calibration(values**2, name="b", ax=ax)
    assert ax.get_legend_handles_labels()[1] == ["95 % if calibrated (N = 4)", "a", "b"]
    with pytest.raises(ValueError, match="expected"):
        plots.quantile_calibration(np.array([0.5, 1.5]))


def test_a_confusion_matrix_has_the_shares_of_its_rows():
    matrix = np.array([[90, 10, 0], [1, 1, 2], [0, 0, 0]])
    ax = plots.confusion(matrix, classes=["many", "few", "none"])
    np.testing.assert_allclose(ax.images[0].get_array(), [[0.9, 0.1, 0], [0.25, 0.25, 0.5], [0, 0, 0]])
    assert [text.get_text() for text in ax.texts] == [".90", ".10", ".25", ".25", ".50"], "empty cells are empty"
    assert [text.get_text() for text in plots.confusion(matrix, share=False).texts] == ["90", "10", "1", "1", "2"]
    assert ax.get_xlabel() == "predicted"


def test_a_history_shows_every_step_and_held_out_scores():
    steps = jnp.arange(1.0, 401.0)
    info = StepInfo(elbo=steps, log_likelihood=2 * steps, kl=steps.at[7].set(jnp.nan), gradient_norm=steps)
    ax = plots.history(History(info, jnp.array([-3.0, -2.0]), jnp.array([200, 400])), figure="log_likelihood")
    each, mean = ax.lines
    np.testing.assert_array_equal(each.get_xydata(), np.stack([steps, 2 * steps], 1))
    np.testing.assert_allclose(mean.get_xydata()[:2], [[1, 3], [3, 7]])
    (held_out,) = ax.figure.axes[1].lines
    np.testing.assert_array_equal(held_out.get_xydata(), [[200, -3], [400, -2]])
    with pytest.raises(ValueError, match="no figure 'loss'; it has elbo, log_likelihood, kl, gradient_norm"):
        plots.history(History(info, jnp.zeros(0), jnp.zeros(0)), figure="loss")


@pytest.fixture(scope="module")
def posterior():
    params = {"a": jnp.full((4, 5), 2.0), "b": jnp.ones((3, 2)), "c": jnp.ones((6, 2)), "d": jnp.ones(2)}
    family = bdl.families
    return bdl.variational(
        params,
        {"a": family.normal(0.5), "b": family.bernoulli_dropout(0.25), "c": family.concrete_dropout(initial_rate=0.1)},
    )


def test_signal_to_noise_of_arrays_with_a_scale(posterior):
    ax = plots.signal_to_noise(posterior)
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels[0] == "a"
    assert "d" not in labels, "a point mass has no scale"
    ends = np.concatenate([line.get_xdata() for line in ax.lines if 0.8 < np.mean(line.get_ydata()) < 1.2])
    np.testing.assert_allclose(ends, 4.0, rtol=1e-6)  # all of the first box: |2| / 0.5
    with pytest.raises(ValueError, match="no weight array of this posterior has a scale"):
        plots.signal_to_noise(bdl.variational({"w": jnp.ones((2, 2))}, bdl.families.point))


def test_rates_of_dropout(posterior):
    ax = plots.rates(posterior)
    np.testing.assert_allclose(ax.collections[0].get_offsets(), [[0.25, 0], [0.1, 1]], atol=1e-4)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["b", "c"]
    with pytest.raises(ValueError, match="no weight array of this posterior has a dropout rate"):
        plots.rates(bdl.variational({"w": jnp.ones((2, 2))}, bdl.families.normal(0.1)))


def test_maps_of_classes_and_of_values():
    random = np.random.default_rng(1)
    image, label = random.random((4, 6, 3)), random.integers(0, 3, (4, 6))
    probs = random.dirichlet(np.ones(3), (2, 4, 6))
    aleatoric, epistemic = random.random((2, 2, 4, 6))
    classes = bdl.ClassPrediction(probs, aleatoric + epistemic, aleatoric, epistemic, 0 * probs, np.array(9))
    shown, given, found, noise, doubt = plots.uncertainty_maps(image, classes, index=1, label=label)
    for ax, values in ((shown, image), (given, label), (found, probs[1].argmax(-1)), (noise, aleatoric[1])):
        np.testing.assert_allclose(ax.images[0].get_array(), values)
    assert given.images[0].get_clim() == found.images[0].get_clim() == (0, 2)
    assert doubt.images[0].get_clim() == (0, epistemic[1].max())
    values = bdl.Prediction(*(random.random((2, 4, 6, 1)) for _ in range(5)), np.array(9))
    _, found, noise, _ = plots.uncertainty_maps(image[..., 0], values)
    np.testing.assert_allclose(found.images[0].get_array(), values.mean[0, ..., 0])
    assert noise.get_title() == "aleatoric variance"
    with pytest.raises(ValueError, match=r"a prediction for each pixel of an image \(5, 6\), got one of \(4, 6\)"):
        plots.uncertainty_maps(np.ones((5, 6)), classes)
    with pytest.raises(ValueError, match="expected 4 axes for image, prediction, aleatoric .*; got 2"):
        plots.uncertainty_maps(image, classes, ax=plt.subplots(1, 2)[1])


@pytest.mark.parametrize("name", ["roc", "precision_recall"])
def test_one_kind_alone_has_no_curve(name):
    with pytest.raises(ValueError, match="labels of both 0 and 1, got 3 that are all 1"):
        getattr(plots, name)(np.arange(3), np.ones(3))


def test_numbers_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="1 of 3 that are not"):
        plots.scores(np.array([1.0, np.nan, 2.0]), np.ones(2))
    with pytest.raises(ValueError, match="at least one; got none"):
        plots.scores(np.ones(2), np.ones(0))
    with pytest.raises(ValueError, match=r"expected uncertainty of the shape \(2,\) of losses, got \(3,\)"):
        plots.risk_coverage(np.arange(3), np.arange(2))
    with pytest.raises(ValueError, match=r"confusion matrix \[K, K\], got shape \(2, 3\)"):
        plots.confusion(np.ones((2, 3)))
