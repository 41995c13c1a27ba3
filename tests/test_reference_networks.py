"""Reference networks: shapes, initial weights, the main path, batch statistics, features, the autoencoder's bound."""

import re
import warnings
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import bdl
from bdl import networks
from bdl._paths import named_leaves
from tests.arrays import filled, normals
from tests.linear_vae import exact_params
from tests.slow import slow

KEY = jax.random.key(0)


IMAGES, SEQUENCES, ROWS = normals(2, 6, 4, 4, 2), normals(3, 6, 5, 2), normals(4, 6, 3)
LABELS = jnp.arange(6) % 3
CATEGORICAL, NORMAL = bdl.likelihoods.Categorical(), bdl.likelihoods.Normal(scale=0.5)
CASES = {
    "mlp": (networks.MLP(3, (8,)), ROWS, LABELS, CATEGORICAL),
    "lenet": (networks.LeNet(3), IMAGES, LABELS, CATEGORICAL),
    "resnet": (networks.ResNet(3, 8, 2), IMAGES, LABELS, CATEGORICAL),
    "resnet, filter response": (networks.ResNet(3, 8, 2, norm="filter_response"), IMAGES, LABELS, CATEGORICAL),
    "unet": (networks.UNet(3, (2, 3)), IMAGES, jnp.zeros((6, 4, 4), int), CATEGORICAL),
    "lstm": (networks.LSTM(1, 4), SEQUENCES, SEQUENCES[..., :1], NORMAL),
    "autoencoder": (networks.Autoencoder(networks.MLP(2, ()), networks.MLP((4, 4, 2), (4,))), IMAGES, IMAGES, NORMAL),
}
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # to compile
OPTIMIZER = bdl.inference.vi(optax.adam(1e-3))


SLOW = ("lenet", "resnet", "resnet, filter response", "unet", "lstm")


@pytest.mark.parametrize("case", [slow(c) if c in SLOW else c for c in CASES])
def test_main_path(case):
    """Dropout by path into a network that has none, a Normal head, a step with local noise, and a prediction."""
    module, x, y, likelihood = CASES[case]
    network = filled(module, x)
    rest = "encoder/*" if case == "autoencoder" else "head/*"
    families = {rest: bdl.families.normal(scale=0.1), "*/kernel": bdl.families.bernoulli_dropout(rate=0.2)}
    posterior = bdl.variational(network.params, families)
    assert any("rate" in dir(family) for family in posterior.families.values())
    posterior, model = bdl.bind(posterior, bdl.Model(network, likelihood), x)
    state = OPTIMIZER.init(KEY, posterior, model, num_data=6)

    def step_and_predict(state, x, y):
        after, info = OPTIMIZER.step(KEY, state, (x, y))
        return after, info, bdl.predict(KEY, after.posterior, after.model, x, num_samples=4)

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a layer whose noise were shared would be named in a warning
        after, info, prediction = jax.jit(step_and_predict, compiler_options=QUICK)(state, x, y)
    assert np.isfinite([info.elbo, info.kl, info.gradient_norm]).all()
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), network.state, after.model.network.state)
    assert all(jax.tree.leaves(moved)), "a training step updates batch statistics"
    assert float(np.max(prediction.epistemic)) > 0
    assert np.shape(prediction.aleatoric) == y.shape


def test_prediction_with_batch_normalisation_takes_each_image_by_itself():
    """Fault guarded against: prediction in train mode, where the other images of a batch change the answer."""
    module, x, _, _ = CASES["resnet"]
    network = filled(module, x)
    apply = jax.jit(lambda *arguments: network.apply(*arguments), compiler_options=QUICK)
    whole, state = apply(network.params, network.state, x)
    other, _ = apply(network.params, network.state, x.at[1:].add(5.0))
    np.testing.assert_allclose(whole[:1], other[:1], rtol=1e-5)
    assert not np.allclose(whole[1:], other[1:])
    jax.tree.map(np.testing.assert_array_equal, state, network.state)


def test_weights_are_those_of_the_papers():
    lenet = jax.eval_shape(networks.LeNet(10).init, KEY, jnp.ones((1, 4, 4, 1)))["params"]
    shapes = {path: a.shape for path, a in named_leaves(lenet).items() if path.endswith("kernel")}
    assert shapes == {
        "Conv_0/kernel": (5, 5, 1, 6), "Conv_1/kernel": (5, 5, 6, 16), "Dense_0/kernel": (16, 120),
        "Dense_1/kernel": (120, 84), "head/kernel": (84, 10),
    }  # fmt: skip
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(networks.ResNet(10, 20).init, KEY, x)
    count = lambda tree: sum(int(np.prod(a.shape)) for a in jax.tree.leaves(tree))
    assert count(variables["params"]) == 269_722, "0.27 million in the paper's table 6, with shortcuts without weights"
    assert sum(a.ndim > 1 for a in jax.tree.leaves(variables["params"])) == 20, "layers with weights"


@pytest.mark.parametrize(("init", "gain"), [("he", lambda m, n: 2 / m), ("xavier", lambda m, n: 2 / (m + n))])
def test_variances_of_the_initial_weights(init, gain):
    """Within the 5 standard errors of Normals; the weights are truncated ones, whose variances are surer."""
    made = networks.mlp(KEY, jnp.ones((1, 200)), 30, widths=(100,), init=init).params
    arrays = {"Dense_0": (200, 100), "head": (100, 30)}
    for name, (fan_in, fan_out) in arrays.items():
        kernel, expected = np.asarray(made[name]["kernel"], np.float64), gain(fan_in, fan_out)
        assert abs(kernel.mean()) < 5 * np.sqrt(expected / kernel.size)
        assert abs(kernel.var() / expected - 1) < 5 * np.sqrt(2 / kernel.size)
        assert not np.any(made[name]["bias"])


def test_variances_of_convolutions_count_the_pixels():
    for name, fan in (("he", 9 * 16), ("xavier", 9 * (16 + 32))):
        draw = networks._reference.initialiser(name)
        kernel = np.asarray(draw(jax.random.fold_in(KEY, fan), (3, 3, 16, 32), jnp.float32), np.float64)
        assert abs(kernel.var() * fan / 2 - 1) < 5 * np.sqrt(2 / kernel.size)


def test_filter_response_norm_by_hand():
    x = normals(5, 2, 3, 4, 2)
    scale, bias = np.array([1.5, 0.5]), np.array([0.1, -0.2])
    got = networks.FilterResponseNorm().apply({"params": {"scale": jnp.array(scale), "bias": jnp.array(bias)}}, x)
    squares = (np.asarray(x, np.float64) ** 2).mean((1, 2), keepdims=True)
    np.testing.assert_allclose(got, scale * x / np.sqrt(squares + 1e-6) + bias, rtol=1e-5)
    raised = networks.ThresholdedLinearUnit().apply({"params": {"threshold": jnp.array([0.5, -9.0])}}, x)
    np.testing.assert_allclose(raised, np.maximum(x, [0.5, -9.0]))


def test_shortcuts_carry_the_input_through_blocks_whose_weights_are_zero():
    block = networks.ResidualBlock(4, stride=2, norm="none")
    x = jnp.abs(IMAGES)
    zero = jax.tree.map(lambda a: jnp.zeros(a.shape), jax.eval_shape(block.init, KEY, x))
    expected = np.concatenate([x[:, ::2, ::2], np.zeros((6, 2, 2, 2))], -1)
    np.testing.assert_array_equal(block.apply(zero, x), expected)
    plain = networks.ResidualBlock(4, stride=2, norm="none", shortcut=False)
    assert not np.any(plain.apply(zero, x))


@pytest.mark.parametrize(
    ("module", "shape", "message"),
    [
        (networks.UNet(2, (2, 2, 2)), (1, 90, 120, 3), "are 90 × 120. Pad them to 92 × 120 or crop them to 88 × 120."),
        (networks.UNet(2, (2, 2, 2)), (1, 3, 8, 3), "are 3 × 8. Pad them to 4 × 8."),
        (networks.LeNet(2), (5, 28, 28), "got inputs of shape (5, 28, 28). Pass x[..., None]"),
        (networks.LeNet(2), (5, 30, 28, 1), "multiples of 4, and these images are 30 × 28"),
        (networks.ResNet(2, depth=18), (1, 8, 8, 1), "expected a depth of 6 n + 2 layers, got 18. The nearest is 20."),
        (networks.ResNet(2, depth=2), (1, 8, 8, 1), "got 2. The nearest is 8."),
        (networks.ResNet(2, norm="layer"), (1, 8, 8, 1), "norm=\"none\", got 'layer'"),
        (networks.MLP(2, weight_init="lecun"), (1, 8), "got 'lecun'"),
        (networks.LSTM(2), (4, 9), "got inputs of shape (4, 9). Pass x[..., None]"),
    ],
)
def test_errors_say_what_to_change(module, shape, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        jax.eval_shape(module.init, KEY, jax.ShapeDtypeStruct(shape, jnp.float32))


class OfNNX(nnx.Module):
    """A user's own, with a layer that is called twice."""

    def __init__(self, rngs: nnx.Rngs):
        self.layers = nnx.List([nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 4, rngs=rngs)])
        self.norm = nnx.BatchNorm(4, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = nnx.relu(self.layers[0](x))
        return self.norm(self.layers[1](self.layers[1](x)))


class OfLinen(nn.Module):
    """The same, with a value that it sows."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        twice = nn.Dense(4, name="twice")
        x = nn.relu(nn.Dense(4, name="first")(x))
        self.sow("intermediates", "active", x)
        return nn.BatchNorm(use_running_average=True, name="norm")(twice(twice(x)))


@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_features_are_what_layers_return(kind):
    if kind == "linen":
        network, first, twice = filled(OfLinen(), ROWS), "first", "twice"
    else:
        network, first, twice = bdl.from_nnx(OfNNX(nnx.Rngs(0))), "layers/0", "layers/1"
    found = networks.features(network, [first, "[!f]*" if kind == "linen" else "layers/1", "norm"])
    get = lambda path: network.params[path] if kind == "linen" else network.params["layers"][path[-1]]
    dense = lambda path, x: x @ get(path)["kernel"] + get(path)["bias"]
    for wrap in (lambda f: f, jax.jit):
        (outputs, layers), state = wrap(lambda *arguments: found.apply(*arguments))(network.params, network.state, ROWS)
        np.testing.assert_allclose(outputs, network.apply(network.params, network.state, ROWS)[0], rtol=1e-5)
        jax.tree.map(np.testing.assert_array_equal, state, network.state)
        np.testing.assert_allclose(layers[first], dense(first, ROWS), rtol=1e-4, atol=1e-6)
        active = np.maximum(layers[first], 0)
        np.testing.assert_allclose(layers[twice][0], dense(twice, active), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(layers[twice][1], dense(twice, layers[twice][0]), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(layers["norm"], outputs)
        assert set(layers) == {first, twice, "norm"} | ({"active"} if kind == "linen" else set())
    (_, layers), state = found.apply(network.params, network.state, ROWS, train=True)
    assert jax.tree.structure(state) == jax.tree.structure(network.state)
    assert not jax.tree.all(jax.tree.map(lambda a, b: bool(np.all(a == b)), state, network.state))
    wrong = networks.features(network, "hidden*")
    paths = ", ".join(sorted({first, twice, "norm"} | ({"active"} if kind == "linen" else set())))
    with pytest.raises(ValueError, match=re.escape(f"'hidden*' matches no layer; the paths are {paths}.")):
        wrong.apply(network.params, network.state, ROWS)


def test_features_of_equal_modules_share_a_trace_and_differ_from_the_plain_network():
    network = filled(networks.MLP(3, (8,)), ROWS)
    first, second = networks.features(network, "head"), networks.features(network, ["head"])
    assert first.function == second.function
    assert hash(first.function) == hash(second.function)
    assert first.function != networks.features(network, "*").function
    assert first.function.function != network.function
    with pytest.raises(TypeError, match="its layers are not known"):
        networks.features(bdl.network(lambda p, x: x @ p["w"], {"w": jnp.ones((3, 1))}), "*")
    with pytest.raises(TypeError, match="in one call"):
        networks.features(first, "*")


class LinearVAE:
    """Probabilistic principal components, x = A z + b + noise: everything is known in closed form."""

    dim, latents, scale = 5, 2, 0.7
    rng = np.random.default_rng(6)
    # Orthogonal columns: the posterior of z is then a product, as q is.
    weights = np.linalg.qr(rng.normal(size=(dim, latents)))[0] * [1.5, 0.6]
    bias = rng.normal(size=dim)
    x = rng.normal(size=(40, latents)) @ weights.T + bias + scale * rng.normal(size=(40, dim))

    @classmethod
    def log_evidence(cls) -> np.ndarray:
        covariance = cls.weights @ cls.weights.T + cls.scale**2 * np.eye(cls.dim)
        residual = cls.x - cls.bias
        squared = np.einsum("nd,nd->n", residual, np.linalg.solve(covariance, residual.T).T)
        return -0.5 * (squared + np.linalg.slogdet(covariance)[1] + cls.dim * np.log(2 * np.pi))

    @classmethod
    def params(cls) -> dict[str, Any]:
        return exact_params(cls.weights, cls.bias, cls.scale)


def test_bound_of_the_autoencoder_against_the_closed_form():
    """Equal to the log evidence for every draw where q is the posterior; below it by KL(q || p(z | x)) elsewhere."""
    case = LinearVAE
    x = jnp.asarray(case.x, jnp.float32)
    network = networks.vae(KEY, x, case.latents, widths=())
    assert jax.tree.map(jnp.shape, network.params) == jax.tree.map(jnp.shape, case.params())
    model = bdl.Model(network, bdl.latent(bdl.likelihoods.Normal(scale=case.scale)), lambda params: 0.0)
    truth = case.log_evidence()

    @jax.jit
    def terms(params, rows, keys):
        weights = bdl.variational(params, {})
        return jax.vmap(lambda k: bdl.elbo(k, weights, model, (rows, rows), num_data=40).elbo)(keys)

    keys = jax.random.split(jax.random.key(7), 1_000)
    few_keys = jax.random.split(jax.random.key(8), 5)
    for rows, expected in ((x, truth.sum()), (x[:10], 4 * truth[:10].sum())):
        np.testing.assert_allclose(terms(case.params(), rows, jax.random.clone(few_keys)), expected, rtol=2e-5)

    # Wrong by d in the mean and by a factor r in the scale: KL = Σ [d²/σ² + r² − 1 − log r²] / 2 for each example.
    wrong = case.params()
    offset = wrong["encoder"]["head"]["bias"]
    wrong["encoder"]["head"]["bias"] = offset + jnp.array([0.2, 0.0, 0.0, np.log(1.5)])
    gap = 40 * 0.5 * (0.2**2 / np.exp(2 * float(offset[2])) + 1.5**2 - 1 - 2 * np.log(1.5))
    found = np.asarray(terms(wrong, x, keys), np.float64)
    assert abs(found.mean() - (truth.sum() - gap)) < 5 * found.std() / np.sqrt(len(keys))
    assert gap > 20 * found.std() / np.sqrt(len(keys)), "a bound without its gap would be found out"

    weights = bdl.variational(wrong, {})
    few, many = (bdl.log_predictive(KEY, weights, model, (x, x), num_samples=s).sum() for s in (1, 1_000))
    assert few < many
    np.testing.assert_allclose(many, truth.sum(), atol=1.0)  # the importance-weighted bound closes a gap of 24 nats
    prediction = bdl.predict(KEY, weights, model, x, num_samples=10)
    assert prediction.mean.shape == x.shape
    np.testing.assert_allclose(prediction.aleatoric, case.scale**2, rtol=1e-5)


def test_an_autoencoder_without_a_key_takes_the_mean():
    network = filled(networks.VAE(networks.MLP(4, (5,)), networks.MLP((3,), (5,))), ROWS)
    outputs, _ = network.apply(network.params, network.state, ROWS)
    module = network.function.module
    mean, log_scale = module.apply({"params": network.params}, ROWS, method="encode")
    np.testing.assert_allclose(outputs.outputs, module.apply({"params": network.params}, mean, method="decode"))
    np.testing.assert_allclose(outputs.log_weight, (log_scale - 0.5 * mean**2).sum(-1), rtol=1e-5)
    drawn, _ = network.apply(network.params, network.state, ROWS, key=KEY)
    assert not np.allclose(outputs.outputs, drawn.outputs)


def test_a_likelihood_of_latents_needs_a_network_that_draws_them():
    weighted = bdl.likelihoods.class_weighted(CATEGORICAL, [1.0, 3.0])
    with pytest.raises(ValueError, match="no bound of the evidence"):
        bdl.latent(weighted)
    with pytest.raises(TypeError, match="LatentOutputs, got"):
        bdl.latent(NORMAL)(jnp.zeros((3, 1)))
