"""What the pictures show is what the predictions say."""

import runpy
import sys

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest

import bdl
from bdl import plots


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def regression(num_columns: int = 2) -> bdl.Prediction:
    """Five predictions of each of `num_columns` targets; their variances are 1, 4, ..."""
    mean = jnp.array([3.0, 1.0, 2.0, 5.0, 4.0])[:, None] + 10 * jnp.arange(num_columns)
    variance = jnp.broadcast_to(jnp.arange(1.0, num_columns + 1) ** 2, mean.shape)
    return bdl.Prediction(mean, variance, 0.75 * variance, 0.25 * variance, 0 * variance, jnp.array(10))


@pytest.fixture(scope="module")
def classes() -> bdl.ClassPrediction:
    network = bdl.network(lambda params, x: x @ params["w"], {"w": jnp.array([[2.0, 0.0, -2.0], [0.0, 1.0, 0.0]])})
    posterior = bdl.variational(network.params, bdl.families.normal(scale=1.0))
    model = bdl.Model(network, bdl.likelihoods.Categorical())
    x = jnp.array([[1.0, 0.0], [2.0, 1.0], [0.0, 0.5]])
    return bdl.predict(jax.random.key(3), posterior, model, x, num_samples=50, return_draws=True)


@pytest.mark.parametrize("column", [0, 1])
def test_bands_reach_1_96_standard_deviations(column):
    x = np.array([2.0, 0.0, 1.0, 4.0, 3.0])
    ax = plots.bands(x, regression(), column=column)
    (line,) = ax.lines
    np.testing.assert_allclose(line.get_xdata(), np.arange(5.0))
    mean = np.arange(1.0, 6.0) + 10 * column
    np.testing.assert_allclose(line.get_ydata(), mean)
    std = column + 1
    inner, lower, upper = (collection.get_paths()[0].vertices for collection in ax.collections)
    for band, bottom, top in ((inner, -0.5, 0.5), (lower, -1, -0.5), (upper, 0.5, 1)):
        first = band[band[:, 0] == 0, 1]
        np.testing.assert_allclose(
            [first.min(), first.max()], mean[0] + 1.96 * std * np.array([bottom, top]), rtol=1e-6
        )


def test_a_column_alone_may_have_no_axis():
    prediction = jax.tree.map(lambda a: a[:, 0] if a.ndim else a, regression(1))
    with_axis = plots.bands(np.arange(5.0), regression(1))
    np.testing.assert_array_equal(
        plots.bands(np.arange(5.0), prediction).lines[0].get_ydata(), with_axis.lines[0].get_ydata()
    )


def test_intervals_stand_at_their_means_and_count_what_they_hold():
    prediction = regression()
    mean = np.asarray(prediction.mean)
    y = mean + 1.96 * np.array([[1.1, 0.9], [-1.1, 0.9], [0.0, 2.0], [0.9, 2.1], [-0.9, -2.2]])
    ax = plots.intervals(y, prediction, column=1)
    labels = ax.get_legend_handles_labels()[1]
    assert labels[:2] == ["3 of 5 observed inside", "2 of 5 outside"]
    inside, outside, bars = ax.collections
    np.testing.assert_allclose(outside.get_offsets(), np.stack([mean[3:, 1], y[3:, 1]], 1))
    assert len(inside.get_offsets()) == 3
    for segment, centre in zip(bars.get_segments(), mean[:, 1], strict=True):
        np.testing.assert_allclose(segment, [[centre, centre - 3.92], [centre, centre + 3.92]], rtol=1e-6)


def test_whiskers_are_the_standard_deviation_over_draws(classes):
    ax = plots.probabilities(classes, 1, classes="abc")
    draws = jax.nn.softmax(classes.draws[:, 1])
    probs, std = np.asarray(draws.mean(0)), np.asarray(draws.std(0, ddof=1))
    bars = ax.patches
    np.testing.assert_allclose([bar.get_height() for bar in bars], probs, atol=1e-5)
    (whiskers,) = ax.collections
    ends = np.array(whiskers.get_segments())[:, :, 1]
    np.testing.assert_allclose(ends[:, 0], np.maximum(probs - std, 0), atol=1e-4)
    np.testing.assert_allclose(ends[:, 1], np.minimum(probs + std, 1), atol=1e-4)
    assert (probs < std).any(), "no whisker was cut at 0, and the test says less than it means to"


def test_the_parts_of_a_bar_add_up_to_the_entropy(classes):
    ax = plots.uncertainty(classes, names=["one", "two", "three"])
    aleatoric, epistemic = ax.containers
    np.testing.assert_allclose([bar.get_width() for bar in aleatoric], classes.aleatoric, rtol=1e-6)
    ends = [bar.get_x() + bar.get_width() for bar in epistemic]
    np.testing.assert_allclose(ends, classes.entropy, rtol=1e-5)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["one", "two", "three"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1], "the first input is on top"


def test_axes_that_are_given_are_used(classes):
    _, (first, second) = plt.subplots(1, 2)
    assert plots.uncertainty(classes, ax=first) is first
    assert plots.probabilities(classes, ax=second) is second
    assert len(plt.get_fignums()) == 1


def test_bad_arguments(classes):
    with pytest.raises(ValueError, match=r"as many values as predictions, got shapes \(4,\) and \(5, 2\)"):
        plots.bands(np.arange(4), regression())
    with pytest.raises(ValueError, match="as many values as predictions"):
        plots.intervals(np.zeros((3, 2)), regression())
    with pytest.raises(ValueError, match="expected 3 classes, one for each bar, got 2"):
        plots.probabilities(classes, classes=["a", "b"])
    with pytest.raises(ValueError, match="expected 3 names"):
        plots.uncertainty(classes, names=["a"])


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    module = runpy.run_path(plots.__file__)  # importing it takes no matplotlib
    with pytest.raises(ImportError, match=r"pip install 'bdl\[plots\]'"):
        module["bands"](np.arange(5), regression())
