"""What the model says before the data: draws from the prior, their moments, and how they are drawn."""

import dataclasses

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro.distributions as dist
import pytest

import bdl
from bdl import plots, testing

KEY = jax.random.key(0)
X = jnp.array([[1.0, 2.0, -1.0], [0.5, 0.0, 3.0], [0.0, 0.0, 0.0]])


def linear(prior, dtype=jnp.float32):
    network = bdl.network(lambda p, x: x @ p["w"] + p["b"], {"w": jnp.zeros((3, 2), dtype), "b": jnp.zeros(2, dtype)})
    return bdl.Model(network, bdl.likelihoods.Normal(scale=0.5), prior)


def test_moments_of_a_linear_network_are_those_of_its_closed_form():
    count = 40_000
    rows = jnp.array([[1.0], [0.5], [2.0]])  # an array of scales, one for each row, that broadcasts
    priors = {"w": bdl.priors.normal(scale=rows), "b": dist.Laplace(0.3, 0.2)}
    found = bdl.prior_predictive(KEY, linear(priors), X, num_samples=count, return_draws=True)
    # Var f = Σᵢ xᵢ² sᵢ² + 2 b²
    epistemic = np.asarray((X**2) @ rows**2) + 2 * 0.2**2
    assert np.all(np.abs(found.mean - 0.3) < 5 * np.sqrt(epistemic / count))
    centred = np.asarray(found.draws - 0.3, np.float64) ** 2
    assert np.all(np.abs(found.epistemic - epistemic) < 5 * centred.std(0) / np.sqrt(count))
    np.testing.assert_allclose(found.aleatoric, 0.25, rtol=1e-6)
    # The two outputs have weights of their own: what they share is nothing.
    correlation = np.corrcoef(found.draws[:, 0], rowvar=False)[0, 1]
    assert abs(correlation) < 5 / np.sqrt(count)


def test_a_draw_is_that_of_predict_and_of_function_draw():
    model = linear(bdl.priors.normal(scale=0.3))
    posterior = bdl.posteriors.from_prior(model)
    found = bdl.prior_predictive(KEY, model, X, num_samples=5, chunk_size=2, return_draws=True)
    again = bdl.predict(KEY, posterior, model, X, num_samples=5, chunk_size=5, return_draws=True)
    np.testing.assert_allclose(found.draws, again.draws, rtol=1e-6, atol=1e-6)
    function = bdl.function_draw(KEY, posterior, model, index=3)
    np.testing.assert_allclose(function(X), found.draws[3], rtol=1e-6, atol=1e-6)
    testing.check_posterior(posterior, posterior.weights.zeros())
    params = posterior.sample(KEY)
    np.testing.assert_allclose(posterior.log_prob(params), model.log_prior(params))


def test_an_array_is_drawn_by_its_path_whatever_else_there_is():
    small, prior = linear(bdl.priors.normal()), bdl.priors.normal()
    network = bdl.network(lambda p, x: x @ p["w"], {"a": jnp.zeros(7), "w": jnp.zeros((3, 2))})
    other = bdl.Model(network, bdl.likelihoods.Normal(), prior)
    draws = [bdl.posteriors.from_prior(model).sample(KEY) for model in (small, other)]
    np.testing.assert_array_equal(draws[0]["w"], draws[1]["w"])
    assert not np.array_equal(draws[0]["w"], bdl.posteriors.from_prior(small).sample(jax.random.key(1))["w"])


def convolution(params, x):
    hidden = jax.lax.conv_general_dilated(
        x, params["conv"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return hidden[:, 0, 0] @ params["head"]


def test_scales_that_depend_on_the_network_are_found():
    x = jnp.ones((2, 3, 3, 2))
    network = bdl.network(convolution, {"conv": jnp.zeros((3, 3, 2, 4)), "head": jnp.zeros((4, 3))})
    model = bdl.Model(network, bdl.likelihoods.Categorical())
    posterior = bdl.posteriors.from_prior(model)
    with pytest.raises(ValueError, match=r"priors\.fan_in\(\) does not know which axes of 'conv'"):
        posterior.sample(KEY)
    found = bdl.prior_predictive(KEY, model, x, num_samples=400)
    assert np.abs(found.probs - 1 / 3).max() < 0.15
    bound, model = bdl.bind(posterior, model, x)
    assert bound.bound
    assert model.weights == posterior.weights
    kernel = jax.jit(jax.vmap(bound.sample))(jax.random.split(jax.random.key(1), 400))["conv"]
    assert abs(float(kernel.std()) / np.sqrt(2 / 18) - 1) < 5 / np.sqrt(2 * kernel.size)


def test_a_model_knows_its_weights_through_every_rebuilding():
    model = linear(bdl.priors.normal(), jnp.bfloat16)
    assert model.weights.arrays == (("b", (2,), "bfloat16"), ("w", (3, 2), "bfloat16"))
    swapped = dataclasses.replace(model, prior=bdl.priors.laplace())
    for rebuilt in (model.with_state({}), swapped, jax.tree.map(lambda a: a, model)):
        assert rebuilt.weights == model.weights
    assert bdl.posteriors.from_prior(swapped).sample(KEY)["w"].dtype == jnp.bfloat16
    stacked = bdl.network(lambda p, x: x @ p[0]["w"] @ p[1]["w"], [{"w": jnp.ones((3, 3))}, {"w": jnp.ones((3, 1))}])
    draw = bdl.posteriors.from_prior(bdl.Model(stacked, bdl.likelihoods.Normal())).sample(KEY)
    assert jax.tree.map(jnp.shape, draw) == [{"w": (3, 3)}, {"w": (3, 1)}]


def test_learned_scales_are_drawn_at_their_values_and_have_gradients():
    model = linear(bdl.priors.normal(scale=bdl.learned(0.7)))
    free, fixed = bdl.partition(bdl.posteriors.from_prior(model))

    def spread(free):
        posterior = jax.tree.map(lambda a, b: b if a is None else a, free, fixed, is_leaf=lambda a: a is None)
        return jnp.mean(jax.vmap(posterior.sample)(jax.random.split(jax.random.key(2), 200))["w"] ** 2)

    value, slope = jax.jit(jax.value_and_grad(spread))(free)
    # d s² / d log s = 2 s²
    np.testing.assert_allclose(jax.tree.leaves(slope)[0], 2 * value, rtol=1e-5)


class Improper(dist.Normal):
    improper = True


class Drawless(dist.Distribution):
    support = dist.constraints.real
    arg_constraints = {}  # noqa: RUF012

    def log_prob(self, value):
        return -jnp.abs(value)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (lambda params: -jnp.sum(params["w"] ** 2), "FunctionPrior has a log_prob, but no `distribution` to draw from"),
        ({"w": dist.Normal(0.0, 1.0)}, "the prior of 'b' is flat, and has no draws. Give that path"),
        (bdl.priors.iid(Improper(0.0, 1.0)), "the prior of 'b' is improper"),
        (bdl.priors.iid(Drawless()), "the prior of 'b' is a Drawless without `sample`"),
        ({"*": bdl.priors.normal(scale=jnp.ones(3))}, r"'b' has batch shape \(3,\), which does not broadcast"),
    ],
)
def test_what_cannot_be_drawn_is_refused(prior, message):
    with pytest.raises(ValueError, match=message):
        bdl.prior_predictive(KEY, linear(prior), X, num_samples=2)


def test_a_model_of_another_models_network_does_not_know_the_shapes():
    model = linear(bdl.priors.normal())
    again = bdl.Model(model.network, model.likelihood, bdl.priors.normal())
    with pytest.raises(ValueError, match="does not know the shapes of its weights"):
        bdl.posteriors.from_prior(again)


@pytest.mark.parametrize("column", [0, 1])
def test_functions_are_lines_along_the_input(column):
    x, draws = np.array([2.0, 0.0, 1.0]), np.arange(36.0).reshape(6, 3, 2)
    ax = plots.functions(x, draws, column=column)
    assert len(ax.lines) == 6
    for line, draw in zip(ax.lines, draws, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), [0.0, 1.0, 2.0])
        np.testing.assert_array_equal(line.get_ydata(), draw[[1, 2, 0], column])
    assert ax.get_legend_handles_labels()[1] == ["some of them", "6 draws of the function"]
    assert plots.functions(x[:, None], draws[..., column], ax=ax) is ax
    plt.close("all")
    with pytest.raises(ValueError, match=r"draws of shape \[S, 4\] or \[S, 4, K\] for 4 inputs, got \(6, 3, 2\)"):
        plots.functions(np.arange(4), draws)
