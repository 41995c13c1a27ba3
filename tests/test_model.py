"""The model: the joint of its parts, in float32, and every mismatch of data and likelihood."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from flax import nnx
from scipy import stats

from bdl import likelihoods, priors
from bdl._data_checks import check_data
from bdl.model import Model
from bdl.networks import from_nnx, network, stochastic

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 3)).astype(np.float32)
KEY = jax.random.key(0)


def linear(columns: int):
    return network(lambda params, x: x @ params["w"], {"w": jnp.ones((3, columns))})


def test_log_joint_is_the_sum_of_its_parts():
    net, y = linear(2), RNG.normal(size=(6, 2)).astype(np.float32)
    model = Model(net, likelihoods.Normal(scale=0.5), dist.Laplace(0.0, 2.0))
    assert model.network.params is None, "the weights are the posterior's"
    params = {"w": jnp.asarray(RNG.normal(size=(3, 2)), jnp.float32)}
    prior = stats.laplace.logpdf(params["w"], 0.0, 2.0).sum()
    likelihood = stats.norm.logpdf(y, X @ np.asarray(params["w"]), 0.5).sum(1)
    outputs, _ = model.apply(params, X)
    np.testing.assert_allclose(model.log_likelihood(KEY, outputs, y), likelihood, rtol=1e-4)
    np.testing.assert_allclose(model.log_prior(params), prior, rtol=1e-5)
    np.testing.assert_allclose(model.log_joint(KEY, params, (X, y)), prior + likelihood.sum(), rtol=1e-5)
    # Fault guarded against: the KL scaled by the batch. Two halves, each scaled to the whole, average to the whole.
    halves = [model.log_joint(KEY, params, (X[i : i + 3], y[i : i + 3]), num_data=6) for i in (0, 3)]
    np.testing.assert_allclose(np.mean(halves), prior + likelihood.sum(), rtol=1e-5)


def test_an_example_is_summed_over_all_its_axes():
    logits, labels = RNG.normal(size=(4, 5, 2, 3)).astype(np.float32), RNG.integers(0, 3, (4, 5, 2))
    model = Model(linear(1), likelihoods.Categorical())
    log_probs = jax.nn.log_softmax(logits)
    exact = np.take_along_axis(np.asarray(log_probs), labels[..., None], -1).sum((1, 2, 3))
    np.testing.assert_allclose(model.log_likelihood(KEY, logits, labels), exact, rtol=1e-5)
    model = Model(linear(1), lambda outputs: dist.MultivariateNormal(outputs, jnp.eye(3)))
    assert model.log_likelihood(KEY, jnp.zeros((4, 3)), jnp.ones((4, 3))).shape == (4,)


def test_half_precision_outputs_are_judged_in_float32():
    outputs = jnp.linspace(0, 1, 6, dtype=jnp.bfloat16)[:, None]
    y = np.linspace(0, 1, 6, dtype=np.float32)[:, None]
    found = Model(linear(1), likelihoods.Normal(0.01)).log_likelihood(KEY, outputs, y)
    assert found.dtype == jnp.float32
    exact = stats.norm.logpdf(y, np.asarray(outputs, np.float32), 0.01)[:, 0]
    np.testing.assert_allclose(found, exact, rtol=1e-4)


def test_one_trace_for_other_scales_and_data():
    traces = []

    @jax.jit
    def log_joint(model, params, data):
        traces.append(None)
        return model.log_joint(KEY, params, data)

    fn = lambda params, x: x @ params["w"]
    for seed, scale in enumerate((0.1, 1.0, 2.0)):
        net = network(fn, {"w": jnp.full((3, 1), seed, jnp.float32)})
        log_joint(Model(net, likelihoods.Normal(scale), priors.normal(scale=scale)), net.params, (X + seed, X[:, :1]))
    assert len(traces) == 1


def test_stochastic_networks_and_likelihoods_get_keys_of_their_own():
    fn = lambda params, x, key=None: x @ params["w"] + (0.0 if key is None else jax.random.normal(key))

    def likelihood(outputs, *, key):
        return dist.Normal(outputs + jax.random.normal(key), 1.0)

    net, y = network(fn, {"w": jnp.ones((3, 1))}), X[:, :1]
    quiet, noisy = Model(net, likelihoods.Normal()), Model(stochastic(net), likelihoods.Normal())
    keys = jax.random.split(KEY, 3)
    joints = [[float(m.log_joint(k, net.params, (X, y))) for k in keys] for m in (quiet, noisy)]
    assert len(set(joints[0])) == 1
    assert len(set(joints[1])) == 3
    assert len({float(Model(net, likelihood).log_joint(k, net.params, (X, y))) for k in keys}) == 3


def test_state_is_carried_by_the_model():
    class Net(nnx.Module):
        def __init__(self):
            self.norm, self.out = nnx.BatchNorm(3, rngs=nnx.Rngs(0)), nnx.Linear(3, 1, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.out(self.norm(x))

    net = from_nnx(Net())
    model = Model(net, likelihoods.Normal(), {"out/*": priors.fan_in()})
    _, state = model.apply(net.params, X, train=True)
    moved = model.with_state(state)
    assert moved.network.state is state
    assert moved.prior is model.prior
    assert not np.allclose(moved.apply(net.params, X)[0], model.apply(net.params, X)[0])


@pytest.mark.parametrize(
    ("likelihood", "outputs", "y", "error", "message"),
    [
        # Fault guarded against: [N] against [N, 1] broadcasts to [N, N] in silence.
        (likelihoods.Normal(), (6, 1), np.zeros(6), ValueError, "shape (6,), but the likelihood of the outputs has"),
        (likelihoods.Normal(), (6, 1), np.zeros(6), ValueError, "Pass y[:, None], or let"),
        (likelihoods.Normal(), (6,), np.zeros((6, 1)), ValueError, "Pass y[:, 0]."),
        (
            likelihoods.Normal(),
            (6, 1),
            np.zeros((5, 1)),
            ValueError,
            "(5, 1), but the likelihood of the outputs has (6,",
        ),
        (likelihoods.HeteroscedasticNormal(), (6, 2), np.zeros((6, 2)), ValueError, "has (6, 1)"),
        (likelihoods.Categorical(), (6, 3), np.zeros((6, 3), int), ValueError, "has (6,)"),
        (likelihoods.Categorical(), (6, 3), np.zeros(6), TypeError, "are float64. Pass y.astype(int)"),
    ],
)
def test_targets_that_do_not_fit_the_outputs(likelihood, outputs, y, error, message):
    model = Model(linear(1), likelihood)
    with pytest.raises(error, match=re.escape(message)):
        model.check_targets(jax.ShapeDtypeStruct(outputs, jnp.float32), y)
    with pytest.raises(error, match=re.escape(message.replace("float64", "float32"))):
        jax.eval_shape(lambda: model.log_likelihood(KEY, jnp.zeros(outputs), y))


@pytest.mark.parametrize(
    ("likelihood", "y", "message"),
    [
        (likelihoods.Categorical(), [0, 1, 2, 3, 0, 0], "3 at row 3, outside of [0, 2]"),
        (likelihoods.Categorical(), [0, -1, 2, 3, 0, 0], "-1 at row 1, outside of [0, 2]"),
        (likelihoods.Normal(), [[1, 2, 3]] * 4 + [[1, np.inf, 3]] * 2, "the targets is inf at row 4, column 1"),
        (lambda o: dist.Gamma(jnp.exp(o), 1.0), [[1.0, 2.0, 3.0]] * 5 + [[1.0, 2.0, -3.0]], "-3.0 at row 5, column 2"),
    ],
)
def test_targets_outside_of_the_support(likelihood, y, message):
    model = Model(linear(3), likelihood)
    with pytest.raises(ValueError, match=re.escape(message)):
        model.check_targets(jnp.zeros((6, 3)), np.asarray(y))


def test_targets_inside_of_the_support():
    Model(linear(3), likelihoods.Categorical()).check_targets(jnp.zeros((6, 3)), np.array([0, 1, 2, 2, 1, 0]))
    Model(linear(1), likelihoods.Normal()).check_targets(jnp.zeros((6, 1)), np.ones((6, 1), int))
    pair = (jnp.zeros((6, 1)), jnp.zeros((6, 1)))
    Model(linear(1), likelihoods.HeteroscedasticNormal()).check_targets(pair, np.ones((6, 1)))


def test_errors_of_construction():
    with pytest.raises(TypeError, match="expected a bdl network as the first argument, got function"):
        Model(lambda x: x, likelihoods.Normal())
    with pytest.raises(ValueError, match="the paths are w"):
        Model(linear(1), likelihoods.Normal(), {"*/kernel": dist.Normal(0.0, 1.0)})
    with pytest.raises(TypeError, match="expected a likelihood"):
        Model(linear(1), dist.Normal)


def bad(index, value=np.nan):
    array = np.ones((4, 3))
    array[index] = value
    return array


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (bad((2, 1)), None, ValueError, "x is nan at row 2, column 1"),
        (X[:4], bad((0, 2), -np.inf), ValueError, "y is -inf at row 0, column 2"),
        ({"a": X[:4], "b": bad((3, 0))}, None, ValueError, "x[b] is nan at row 3, column 0"),
        (jnp.full((2, 2), jnp.inf, jnp.bfloat16), None, ValueError, "x is inf at row 0, column 0"),
        (X, X[:4], ValueError, "6 for x, 4 for y"),
        (X[:0], X[:0], ValueError, "the data set is empty: x, y of 0 rows"),
        (X[0, 0], None, ValueError, "x must have its examples along axis 0"),
        (np.array(["a", "b"]), None, TypeError, "x must hold numbers, got dtype <U1"),
    ],
)
def test_bad_data_are_named(x, y, error, message):
    with pytest.raises(error, match=re.escape(message)):
        check_data(x, y)


def test_good_data_pass():
    check_data(X)
    check_data({"image": X, "mask": X > 0}, np.arange(6))
