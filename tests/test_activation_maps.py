"""Class activation maps: the formula of the paper, on networks of any kind, over the draws of `predict`."""

import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from flax import nnx

import bdl
import bdl.plots
from bdl._activation_maps import _activation_maps
from bdl._keys import derive
from bdl.networks._activation_maps import check_error, with_activation_maps
from tests.arrays import filled

KEY = jax.random.key(0)
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # to compile
X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 6, 2)), jnp.float32)
PIXELS, CLASSES = 24, 4


class Plain(nn.Module):
    """As most are written: functions between the layers, `mean`, a dense layer of any name."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(5, (3, 3), name="conv")(x))
        return nn.Dense(CLASSES, name="last")(x.mean(axis=(1, 2)))


class AveragePool(nn.Module):
    """A pooling layer over the whole image, whose pixels are then left out."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(5, (3, 3), name="conv")(x))
        return nn.Dense(CLASSES, name="last")(nn.avg_pool(x, x.shape[1:3]).squeeze((1, 2)))


class Flattened(nn.Module):
    """Pixels in one axis, a layer under remat, the mean as a sum of shares."""

    @nn.compact
    def __call__(self, x):
        x = nn.remat(nn.Conv)(5, (3, 3), name="conv")(x)
        x = nn.relu(x).reshape(len(x), -1, 5) / PIXELS
        return nn.Dense(CLASSES, name="last")(x.sum(1))


class OneByOne(nn.Module):
    """The dense layer at each pixel, and then the mean: the maps are the layer's outputs, its bias in them."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(5, (3, 3), name="conv")(x))
        return nn.Dense(CLASSES, name="last")(x).mean((1, 2))


class Pair(nn.Module):
    """Two heads; the second is no matter."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(5, (3, 3), name="conv")(x)).mean((1, 2))
        return {"logits": nn.Dense(CLASSES, name="last")(x), "noise": nn.Dense(CLASSES, name="noise")(x)}


class OfNNX(nnx.Module):
    """A user's own."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv, self.last = nnx.Conv(2, 5, (3, 3), rngs=rngs), nnx.Linear(5, CLASSES, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.last(nnx.relu(self.conv(x)).mean((1, 2)))


def convolved(params: Any, x: Any) -> np.ndarray:
    """relu(conv(x)) in float64, by hand."""
    kernel, x = np.asarray(params["kernel"], np.float64), np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))  # [N, H, W, C, 3, 3]
    return np.maximum(np.einsum("nhwcij,ijck->nhwk", windows, kernel) + np.asarray(params["bias"]), 0)


def by_hand(params: Any, x: Any) -> np.ndarray:
    return convolved(params["conv"], x) @ np.asarray(params["last"]["kernel"], np.float64)


def of_one_draw(network: Any, x: Any = X, logits: Any = None, classes: Any = None) -> Any:
    mapping = with_activation_maps(network, logits, classes, None)
    return mapping.apply(network.params, network.state, x)[0]


def quickly(function: Any) -> Any:
    return jax.jit(function, compiler_options=QUICK)()


def pick(outputs: Any) -> Any:
    return outputs["logits"]


@pytest.mark.parametrize(
    "make",
    [lambda m=m: filled(m, X) for m in (Plain(), AveragePool(), Flattened(), OneByOne(), Pair())]
    + [lambda: bdl.from_nnx(OfNNX(nnx.Rngs(1)))],
    ids=["plain", "average pool", "flattened", "one by one", "pair", "nnx"],
)
def test_formula_of_the_paper(make):
    network = make()
    logits, _ = network.apply(network.params, network.state, X)
    picked = pick if isinstance(logits, dict) else None
    logits = pick(logits) if picked else logits
    found, some = quickly(
        lambda: (of_one_draw(network, logits=picked), of_one_draw(network, logits=picked, classes=(2, 0)))
    )
    expected, bias = by_hand(network.params, X), np.asarray(network.params["last"]["bias"])
    if network.function == bdl.from_linen(OneByOne(), {"params": network.params}).function:
        expected, bias = expected + bias, 0 * bias  # each pixel has it already
    np.testing.assert_allclose(found.maps, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.bias, np.broadcast_to(bias, found.bias.shape), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(expected.mean((1, 2)) + bias, logits, rtol=1e-4, atol=1e-4)
    assert float(found.error) < 1e-3, "of what rounding may be"
    np.testing.assert_allclose(some.maps, found.maps[..., [2, 0]], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(some.bias, found.bias[:, [2, 0]], rtol=1e-5, atol=1e-5)


def test_half_precision_is_told_from_another_end():
    class Half(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(5, (3, 3), name="conv", dtype=jnp.bfloat16)(x)).mean((1, 2))
            return nn.Dense(CLASSES, name="last", dtype=jnp.bfloat16)(x)

    network = filled(Half(), X)
    found = of_one_draw(network)
    check_error(float(found.error))
    expected = by_hand(network.params, X)
    np.testing.assert_allclose(found.maps, expected, atol=0.02 * np.abs(expected).max())


POSTERIORS = {"*/kernel": bdl.families.bernoulli_dropout(rate=0.3), "last/bias": bdl.families.normal(scale=0.2)}
MODEL = filled(Plain(), X)
POSTERIOR, MODEL = bdl.bind(
    bdl.variational(MODEL.params, POSTERIORS), bdl.Model(MODEL, bdl.likelihoods.Categorical()), X
)


def test_moments_over_the_draws_of_predict():
    """In float64 over the weights that `predict` draws; and its logits are the maps' means and the bias."""
    maps, other, prediction = quickly(
        lambda: (
            bdl.activation_maps(KEY, POSTERIOR, MODEL, X, num_samples=7, chunk_size=3),
            bdl.activation_maps(KEY, POSTERIOR, MODEL, X, num_samples=7, chunk_size=1),
            bdl.predict(KEY, POSTERIOR, MODEL, X, num_samples=7, return_draws=True, check=False),
        )
    )
    draws = [by_hand(POSTERIOR.sample(derive(KEY, "predict", s)), X) for s in range(7)]
    np.testing.assert_allclose(maps.mean, np.mean(draws, 0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(maps.standard_deviation, np.std(draws, 0, ddof=1), rtol=1e-4, atol=1e-4)
    assert float(maps.standard_deviation.min()) >= 0
    assert int(maps.num_samples) == 7
    np.testing.assert_allclose(maps.mean.mean((1, 2)) + maps.bias, prediction.draws.mean(0), rtol=1e-4, atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), maps, other)


def test_upsampling_is_linear_and_of_each_draw():
    strided = bdl.networks.ResNet(CLASSES, 8, 2, norm="none")
    network = filled(strided, X)
    sized = with_activation_maps(network, None, None, X.shape[1:3])
    small, (large, _) = quickly(lambda: (of_one_draw(network), sized.apply(network.params, {}, X)))
    assert small.maps.shape == (3, 1, 2, CLASSES)
    # By hand along the width of six: pixel centres at −0.25, 0.08, 0.42, 0.58, 0.92 and 1.25 of two, ends repeated.
    share = np.clip((np.arange(6) + 0.5) / 3 - 0.5, 0, 1)[None, None, :, None]
    expected = (1 - share) * small.maps[:, :, :1] + share * small.maps[:, :, 1:]
    np.testing.assert_allclose(large.maps, np.repeat(expected, 4, 1), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(large.bias, small.bias)


def test_a_network_with_dropout_of_its_own_has_the_masks_of_predict():
    class Dropped(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dropout(0.4, deterministic=True)(nn.relu(nn.Conv(5, (3, 3), name="conv")(x)))
            return nn.Dense(CLASSES, name="last")(nn.Dropout(0.4, deterministic=True)(x.mean((1, 2))))

    network = bdl.networks.stochastic(filled(Dropped(), X))
    weights, model = bdl.variational(network.params, {}), bdl.Model(network, bdl.likelihoods.Categorical())
    maps = quickly(lambda: bdl.activation_maps(KEY, weights, model, X, num_samples=3))
    keys = [derive(derive(KEY, "predict", s), "network") for s in range(3)]
    outputs = np.stack([network.apply(network.params, {}, X, key=k)[0] for k in keys])
    np.testing.assert_allclose(maps.mean.mean((1, 2)) + maps.bias, outputs.mean(0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(maps.bias[0], network.params["last"]["bias"], rtol=1e-3, atol=1e-4)
    assert float(maps.standard_deviation.max()) > 0


def test_members_are_enumerated_and_points_have_no_spread():
    network = filled(Plain(), X)
    model = bdl.Model(network, bdl.likelihoods.Categorical())
    one = bdl.activation_maps(KEY, bdl.variational(network.params, {}), model, X)
    np.testing.assert_allclose(one.mean, by_hand(network.params, X), rtol=1e-4, atol=1e-4)
    assert not np.any(one.standard_deviation)
    families = {"last/kernel": bdl.families.batch_ensemble(members=2)}
    two = bdl.activation_maps(KEY, bdl.variational(network.params, families), model, X)
    assert int(two.num_samples) == 2


def test_memory_does_not_grow_with_draws():
    bytes_of = lambda count: (
        _activation_maps.lower(KEY, POSTERIOR, MODEL, X, count, 1, None, None, False)
        .compile()
        .memory_analysis()
        .temp_size_in_bytes
    )
    assert abs(bytes_of(1_000) / bytes_of(10) - 1) < 0.1


class Ends(nn.Module):
    """Networks that do not end as they must."""

    end: str

    @nn.compact
    def __call__(self, x):
        first = nn.relu(nn.Conv(5, (3, 3))(x))
        pooled, dense = first.mean((1, 2)), nn.Dense(CLASSES)
        if self.end == "flat":
            return dense(first.reshape(len(x), -1))
        if self.end == "softmax":
            return nn.softmax(dense(pooled))
        if self.end == "hidden":
            return dense(nn.relu(nn.Dense(3)(pooled)))
        if self.end == "maximum":
            return dense(first.max((1, 2)))
        if self.end == "two scales":
            return dense(jnp.concatenate([pooled, nn.relu(nn.Conv(2, (3, 3))(first)).mean((1, 2))], -1))
        return dense(nn.relu(nn.Dense(6)(x.reshape(len(x), -1))))


@pytest.mark.parametrize("end", ["flat", "softmax", "hidden", "maximum", "two scales", "none"])
def test_other_ends_are_refused(end):
    """Maps of them would be pictures without meaning."""
    with pytest.raises(ValueError, match="the mean over all pixels and one dense layer") as error:
        check_error(float(of_one_draw(filled(Ends(end), X)).error))
    assert "Pass logits=" in str(error.value)


def test_the_check_runs_where_it_can():
    network = filled(Ends("softmax"), X)
    weights, model = bdl.variational(network.params, {}), bdl.Model(network, bdl.likelihoods.Categorical())
    with pytest.raises(ValueError, match=re.escape("the mean of this one's maps differs from its logits")):
        bdl.activation_maps(KEY, weights, model, X)
    unchecked = bdl.activation_maps(KEY, weights, model, X, check=False)
    traced = jax.jit(lambda x: bdl.activation_maps(KEY, weights, model, x))(X)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), unchecked, traced)


def test_errors_say_what_to_pass():
    network = filled(Pair(), X)
    with pytest.raises(ValueError, match=re.escape("such as `lambda outputs: outputs[0]`")):
        of_one_draw(network)
    for classes in ((0, 4), (-1,), ()):
        with pytest.raises(ValueError, match=re.escape("classes= in 0 to 3, got")):
            of_one_draw(network, logits=pick, classes=classes)
    with pytest.raises(ValueError, match=re.escape("expected images [N, H, W, C], got inputs of shape (3, 4)")):
        bdl.activation_maps(KEY, POSTERIOR, MODEL, X[:, :, 0, 0], num_samples=2)
    with pytest.raises(ValueError, match="num_samples"):
        bdl.activation_maps(KEY, POSTERIOR, MODEL, X)
    with pytest.raises(ValueError, match="x is nan at row 1"):
        bdl.activation_maps(KEY, POSTERIOR, MODEL, X.at[1].set(jnp.nan), num_samples=2)


def test_sequences_have_maps_along_time():
    class Temporal(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(CLASSES, name="last")(nn.tanh(nn.Conv(5, (3,), name="conv")(x)).mean(1))

    x = X[:, :, 0]
    network = filled(Temporal(), x)
    maps = of_one_draw(network, x).maps
    (_, layers), _ = bdl.networks.features(network, "conv").apply(network.params, {}, x)
    expected = jnp.tanh(layers["conv"]) @ network.params["last"]["kernel"]
    np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-5)


def test_picture_of_a_map():
    image, values = np.ones((4, 6, 3)), np.array([[0.0, 1.0], [-2.0, 0.5]])
    ax = bdl.plots.activation_map(image, values)
    grey, coloured = ax.images
    assert np.shape(grey.get_array()) == (4, 6)
    np.testing.assert_array_equal(coloured.get_array(), values)
    assert (coloured.get_clim(), list(coloured.get_extent())) == ((-2, 2), [-0.5, 5.5, 3.5, -0.5])
    assert coloured.get_alpha()[0, 0] == 0, "where nothing speaks for or against a class, the image shows"
    assert coloured.get_alpha().argmax() == 2
    spread = bdl.plots.activation_map(image, np.abs(values), spread=True, limit=4.0).images[1]
    assert spread.get_clim() == (0, 4)
    with pytest.raises(ValueError, match=re.escape("got shapes (3, 4, 6) and (4, 6, 3)")):
        bdl.plots.activation_map(image, np.ones((3, 4, 6)))
    plt.close("all")
