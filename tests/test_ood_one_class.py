"""Deep SVDD and Deep SAD: the loss and its step by hand, draws of the distance, centres, and what can collapse."""

import dataclasses
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import logsumexp

import bdl
import bdl.testing
from bdl import networks, ood
from bdl._paths import named_leaves
from bdl.metrics import detection
from bdl.ood.training import DeepSAD, deep_sad_centre, expected_distance
from bdl.ood.training._collapse import added_arrays, is_bounded
from tests.arrays import filled, normals
from tests.finite_differences import gradient

KEY = jax.random.key(0)
N, D, L, SIGMA, ETA, EPSILON, DATA_SIZE = 6, 3, 2, 0.8, 2.5, 1e-3, 30
X, Y = normals(0, N, D), jnp.array([0, 1, -1, 0, -1, 1])
CENTRE = np.array([0.7, -0.4], np.float32)
LIKELIHOOD = DeepSAD(CENTRE, eta=ETA, epsilon=EPSILON)
LINEAR = bdl.network(lambda params, x: x @ params["w"], {"w": normals(1, D, L)})
PRIOR = bdl.priors.normal(scale=SIGMA)


def losses(outputs, y=Y, eta=ETA, epsilon=EPSILON):
    """Equation 7 of Ruff et al. (2020), in float64."""
    square = ((np.asarray(outputs, np.float64) - CENTRE.astype(np.float64)) ** 2).sum(-1)
    return np.where(np.asarray(y) == 0, square, eta * (square + epsilon) ** np.asarray(y, np.float64))


def start(families=bdl.families.point, likelihood=LIKELIHOOD):
    return bdl.variational(LINEAR.params, families), bdl.Model(LINEAR, likelihood, PRIOR)


@pytest.mark.usefixtures("strict_dtypes")
def test_loss_and_gradient_are_those_by_hand():
    """Faults guarded against: a squared distance squared again, no ε, no η."""
    # One of each label; then all three at the centre itself, and far away.
    outputs = np.array([[3.0, 1.0], [1.0, 0.0], [0.2, -1.0], *[CENTRE] * 3, *[[1e3, -1e3]] * 3], np.float32)
    labels = jnp.array([0, 1, -1] * 3)
    model = bdl.Model(LINEAR, LIKELIHOOD)
    value = jax.jit(lambda outputs: model.log_likelihood(None, outputs, labels))
    np.testing.assert_allclose(value(outputs), -losses(outputs, labels), rtol=1e-6)
    # d² of the first is 2.3² + 1.4², of the second 0.3² + 0.4², of the third 0.5² + 0.6².
    by_hand = [7.25, 2.5 * 0.251, 2.5 / 0.611]
    np.testing.assert_allclose(value(outputs)[:3], -np.array(by_hand), rtol=1e-6)
    np.testing.assert_allclose(value(outputs)[3:6], [0, -ETA * EPSILON, -ETA / EPSILON], rtol=1e-6)
    slope = jax.jit(jax.grad(lambda outputs: value(outputs).sum()))(jnp.asarray(outputs))
    by_hand = gradient(lambda o: -losses(o, labels[:3]).sum(), outputs[:3].astype(np.float64), 1e-6)
    np.testing.assert_allclose(slope[:3], by_hand, rtol=1e-5)
    np.testing.assert_array_equal(slope[3:6], 0)
    assert np.isfinite(slope).all()
    bdl.testing.check_likelihood(LIKELIHOOD, outputs, labels)


def test_a_step_is_that_of_the_loss_with_weight_decay():
    """(1/N) Σ loss + (λ/2) ‖w‖² with λ = 1 / (N σ²), on a batch of data that are five times as many."""
    posterior, model = start()
    algorithm = bdl.inference.map(optax.sgd(0.1))
    state = algorithm.init(KEY, posterior, model, num_data=DATA_SIZE)
    step = jax.jit(algorithm.step)
    after, info = step(KEY, state, (X, Y))
    x, w = np.asarray(X, np.float64), np.asarray(LINEAR.params["w"], np.float64)
    decay = 1 / (DATA_SIZE * SIGMA**2)
    objective = lambda w: losses(x @ w).mean() + decay / 2 * (w**2).sum()
    np.testing.assert_allclose(after.posterior.tree["w"], w - 0.1 * gradient(objective, w, 1e-6), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(info.log_likelihood, -DATA_SIZE * losses(x @ w).mean(), rtol=1e-6)

    # Without labels it is Deep SVDD: of a linear network a ridge regression to the centre.
    ridge = np.linalg.solve(x.T @ x / N + decay / 2 * np.eye(D), x.T @ np.tile(CENTRE, (N, 1)) / N)
    posterior = bdl.variational({"w": jnp.asarray(ridge, jnp.float32)}, bdl.families.point)
    state = algorithm.init(KEY, posterior, model, num_data=DATA_SIZE)
    after, info = step(KEY, state, (X, jnp.zeros(N, Y.dtype)))
    assert info.gradient_norm < 2e-6
    np.testing.assert_allclose(info.log_likelihood, -DATA_SIZE * losses(x @ ridge, np.zeros(N)).mean(), rtol=1e-6)


def test_what_is_predicted_is_the_distance_over_draws():
    posterior, model = start(bdl.families.normal(scale=0.2))
    count = 3
    prediction = bdl.predict(KEY, posterior, model, X, num_samples=count)
    draw = jax.jit(lambda s: bdl.function_draw(KEY, posterior, model, index=s)(X))
    draws = [np.asarray(draw(s), np.float64) for s in range(count)]
    distances = np.stack([((outputs - CENTRE) ** 2).sum(-1) for outputs in draws])
    np.testing.assert_allclose(prediction.mean, distances.mean(0), rtol=1e-5)
    np.testing.assert_allclose(prediction.epistemic, distances.var(0, ddof=1), rtol=1e-4)
    np.testing.assert_array_equal(prediction.aleatoric, 0)
    detector = ood.from_draws(KEY, posterior, model, expected_distance, num_samples=count)
    np.testing.assert_array_equal(detector(X), prediction.mean)

    # A log mean of exp(−loss) over the draws.
    found = bdl.log_predictive(KEY, posterior, model, (X, Y), num_samples=count)
    terms = np.stack([-losses(outputs) for outputs in draws])
    np.testing.assert_allclose(found, logsumexp(terms, 0) - np.log(count), rtol=1e-5)
    terms = jax.eval_shape(lambda: bdl.elbo(KEY, posterior, model, (X, Y), num_data=N))
    assert not terms.is_bound, "exp(−loss) is no density"

    many = bdl.predict(KEY, posterior, model, X, num_samples=4_000)
    # E‖x w − c‖² = ‖x E[w] − c‖² + L Var(w) ‖x‖²
    x = np.asarray(X, np.float64)
    mean = losses(x @ np.asarray(LINEAR.params["w"], np.float64), np.zeros(N)) + L * 0.2**2 * (x**2).sum(-1)
    assert (np.abs(many.mean - mean) < 5 * np.asarray(many.standard_error)).all()


def test_what_a_loss_cannot_answer_says_so():
    posterior, model = start(bdl.families.normal(scale=0.2))
    with pytest.raises(TypeError, match="no distribution over labels, so that it has no quantiles"):
        jax.eval_shape(lambda x: bdl.predict(KEY, posterior, model, x, num_samples=3, quantiles=(0.5,)), X)
    with pytest.raises(TypeError, match="squared_distance"):
        model.distribution(None, jnp.zeros((2, L))).sample(KEY)
    with pytest.raises(TypeError, match="expected the prediction of a model whose likelihood is DeepSAD"):
        expected_distance(jnp.zeros(3))


def test_the_score_is_the_distance_and_is_traced_once():
    traces = []

    def apply(params, x):
        traces.append(1)
        return x @ params["w"]

    network = bdl.network(apply, LINEAR.params)
    detector = ood.through(network, LIKELIHOOD.squared_distance)
    expected = losses(np.asarray(X, np.float64) @ np.asarray(LINEAR.params["w"], np.float64), np.zeros(N))
    np.testing.assert_allclose(detector(X), expected, rtol=1e-5)
    other = ood.through(network, DeepSAD(CENTRE + 1).squared_distance)(2 * X)
    assert (np.asarray(other) != expected).all()
    assert len(traces) == 1, "another centre, other inputs: the same program"


def test_known_anomalies_are_told_from_what_is_like_them():
    """Anomalies in a corner of the normal data, which nothing but labels can tell: chance without them."""
    rng = np.random.default_rng(3)
    normal = rng.normal(size=(220, 2)).astype(np.float32)
    anomalies = (np.array([0.8, 0.6]) + 0.15 * rng.normal(size=(120, 2))).astype(np.float32)
    network = bdl.networks.mlp(KEY, normal, 8, widths=(32,), use_bias=False)
    likelihood = DeepSAD(deep_sad_centre(network, normal))
    model = bdl.Model(network, likelihood, bdl.priors.normal(scale=1.0))
    posterior, algorithm = bdl.variational(network.params, bdl.families.point), bdl.inference.map(optax.adam(1e-2))
    auroc = []
    for label, others in ((0, normal), (-1, anomalies)):
        x, y = np.concatenate([normal[20:], others[:20]]), np.repeat([0, label], [200, 20])
        fitted = bdl.fit(KEY, algorithm, posterior, model, (x, y), num_steps=200, progress=False)
        detector = ood.through(dataclasses.replace(network, params=fitted.posterior.mean), likelihood.squared_distance)
        auroc.append(float(detection(detector(normal[20:]), detector(anomalies[20:]), positive="in")["auroc"]))
    assert auroc[0] < 0.6, "what lies inside of the data is not far from them"
    assert auroc[1] > 0.75


def test_the_centre_is_the_mean_pushed_off_zero():
    network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.array([[3.0, 0.05, -0.05, 0.0, -2.0, 0.1]])})
    x = jnp.array([[0.5], [2.0], [0.5]])
    expected = np.array([3.0, 0.1, -0.1, 0.1, -2.0, 0.1], np.float32)
    np.testing.assert_allclose(deep_sad_centre(network, x), expected, rtol=1e-6)
    np.testing.assert_allclose(deep_sad_centre(network, x, batch_size=2), expected, rtol=1e-6)
    wider = deep_sad_centre(lambda x: x @ network.params["w"], x, margin=2.5)
    np.testing.assert_allclose(wider, [3.0, 2.5, -2.5, 2.5, -2.5, 2.5], rtol=1e-6)
    with pytest.raises(ValueError, match="expected a finite `margin` above 0, got 0"):
        deep_sad_centre(network, x, margin=0)
    with pytest.raises(ValueError, match=r"deep_sad_centre: expected features \[N, D\], .* got shape \(3,\)"):
        deep_sad_centre(lambda x: x[:, 0], x)
    with pytest.raises(TypeError, match="expected a bdl.Network or a function"):
        deep_sad_centre(network.params, x)
    with pytest.raises(ValueError, match="has no weights"):
        deep_sad_centre(bdl.Model(network, LIKELIHOOD).network, x)


class Normalised(nn.Module):
    """A convolution and a dense layer without biases, and batch normalisation between them."""

    shift: bool
    activation: bool = False

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(2, (3, 3), use_bias=False)(x)
        x = nn.leaky_relu(nn.BatchNorm(use_running_average=not train, use_bias=self.shift)(x))
        x = nn.Dense(2, use_bias=False)(x.reshape(len(x), -1))
        return nn.tanh(x) if self.activation else x


IMAGES = normals(4, 3, 4, 4, 1)


FUNCTION = bdl.network(lambda p, x: jax.nn.relu(x * p["w"] * p["s"] - p["t"]), dict.fromkeys("wst", jnp.ones(1)))
NETWORKS = {
    "mlp": (filled(networks.MLP(2), IMAGES), ["Dense_0/bias", "head/bias"]),
    "mlp without": (filled(networks.MLP(2, use_bias=False), IMAGES), []),
    "lenet": (
        filled(networks.LeNet(2), IMAGES),
        [f"{n}/bias" for n in ("Conv_0", "Conv_1", "Dense_0", "Dense_1", "head")],
    ),
    "lenet without": (filled(networks.LeNet(2, use_bias=False), IMAGES), []),
    "shift": (filled(Normalised(shift=True), IMAGES), ["BatchNorm_0/bias"]),
    "scale": (filled(Normalised(shift=False), IMAGES), []),
    "function": (FUNCTION, ["t"]),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_numbers_that_are_added_are_named(name):
    network, expected = NETWORKS[name]
    assert added_arrays(network, jax.ShapeDtypeStruct(IMAGES.shape, IMAGES.dtype)) == tuple(expected)


def test_numbers_that_are_added_in_a_loop_are_named():
    x = normals(5, 2, 4, 3)
    lstm = filled(networks.LSTM(2), x)
    assert added_arrays(lstm, x) == tuple(p for p in named_leaves(lstm.params) if p.endswith("bias"))


def test_networks_that_can_collapse_are_warned_of():
    biased = filled(networks.MLP(2, ()), IMAGES)
    with pytest.warns(UserWarning, match="adds head/bias whatever the input.*use_bias=False") as caught:
        centre = deep_sad_centre(biased, IMAGES)
    assert caught[0].filename == __file__, "where it was called"
    assert centre.shape == (2,)
    with pytest.warns(UserWarning, match="outputs of the network are bounded"):
        deep_sad_centre(filled(Normalised(shift=False, activation=True), IMAGES), IMAGES)
    dead = bdl.network(lambda p, x: jax.nn.relu(x.reshape(3, -1) @ p["w"]), {"w": -jnp.ones((16, 1))})
    assert not is_bounded(dead, lambda n: n.apply(n.params, {}, jnp.abs(IMAGES))[0]), "0 is no bound"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        deep_sad_centre(filled(Normalised(shift=False), IMAGES), IMAGES)


@pytest.mark.parametrize("name", ["mlp without", "lenet without"])
def test_networks_without_biases_take_nothing_to_nothing(name):
    network, _ = NETWORKS[name]
    made = jax.eval_shape(lambda: getattr(networks, name.split()[0])(KEY, IMAGES, 2, use_bias=False).params)
    assert list(named_leaves(made)) == list(named_leaves(network.params))
    assert all(path.endswith("/kernel") for path in named_leaves(made))
    outputs = jax.jit(lambda x: network.apply(network.params, {}, x)[0])
    np.testing.assert_array_equal(outputs(jnp.zeros_like(IMAGES)), 0)
    np.testing.assert_allclose(outputs(2 * IMAGES), 2 * outputs(IMAGES), rtol=1e-5)  # ReLU without biases
    assert np.any(outputs(IMAGES))


def test_weights_may_come_from_an_autoencoder():
    encoder = networks.MLP(4, (5,), use_bias=False)
    module = networks.Autoencoder(encoder, networks.MLP(IMAGES.shape[1:], (5,)))
    whole = filled(module, IMAGES)
    network = bdl.from_linen(encoder, {"params": whole.params["encoder"]})
    codes = module.apply({"params": whole.params}, IMAGES, method=lambda m, x: m.encoder(x))
    centre = deep_sad_centre(network, IMAGES, margin=1e-6)
    np.testing.assert_allclose(centre, np.mean(codes, 0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (np.array([0, 2, -1]), ValueError, r"got 2 at row 1"),
        (np.array([True, False, True]), TypeError, r"got bool. Of flags .* jnp.where\(is_anomaly, -1, 0\)"),
        (np.array([0.0, 1.0, -1.0]), TypeError, r"expected integer labels.* got float"),
        (np.array([[0], [1], [-1]]), ValueError, r"the targets have shape \(3, 1\).* Pass y\[:, 0\]"),
    ],
)
def test_labels_that_are_none_are_refused(labels, error, message):
    posterior, model = start()
    algorithm = bdl.inference.map(optax.sgd(0.1))
    with pytest.raises(error, match=message):
        bdl.fit(KEY, algorithm, posterior, model, (X[:3], labels), num_steps=1, progress=False)
    if labels.ndim > 1 or error is TypeError:
        with pytest.raises(error, match=message):
            jax.eval_shape(lambda y: model.log_likelihood(None, jnp.zeros((3, L)), y), jnp.asarray(labels))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: DeepSAD(np.zeros(3)), ValueError, "a finite centre other than 0"),
        (lambda: DeepSAD([1.0, np.nan]), ValueError, "a finite centre"),
        (lambda: DeepSAD(np.ones((3, 1))), ValueError, r"expected a centre \[D\], got shape \(3, 1\)"),
        (lambda: DeepSAD(CENTRE, eta=0.0), ValueError, "expected a finite `eta` above 0, got 0.0"),
        (lambda: DeepSAD(CENTRE, epsilon=-1e-6), ValueError, "expected a finite `epsilon` above 0"),
        (lambda: DeepSAD(bdl.learned(CENTRE)), TypeError, "`centre` cannot be learned"),
        (lambda: LIKELIHOOD(jnp.zeros((4, 3))), ValueError, r"expected outputs \[N, 2\], .* got the shape \(4, 3\)"),
        (lambda: LIKELIHOOD.squared_distance(jnp.zeros(2)), ValueError, r"got the shape \(2,\)"),
    ],
)
def test_what_cannot_be_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.slow
def test_labels_help_on_the_table_of_the_benchmark(load_benchmark, tmp_path):
    study = load_benchmark("deep_sad")
    arguments = ["--studies", "cancer", "--seeds", "1", "--data", str(tmp_path), "--output", str(tmp_path)]
    rows = study.main(arguments)["cancer, 400 steps"]["0"]
    assert rows["Deep SAD, 20 %"]["labelled"] > rows["Deep SVDD"]["labelled"] + 0.01
    again = study.main(arguments)["cancer, 400 steps"]["0"]
    assert again == rows, "what is there is not run again"
