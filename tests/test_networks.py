"""Networks: the two switches, weights and state apart, one trace for equal modules, clear errors."""

import dataclasses
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import freeze

from bdl.networks import Network, from_linen, from_nnx, network, stochastic
from tests.arrays import normals

X = normals(0, 64, 3)


class CallFlag(nn.Module):
    """One flag of the call drives both layers, as in most Linen code."""

    @nn.compact
    def __call__(self, x, train=True):
        x = nn.BatchNorm(use_running_average=not train, name="norm")(nn.Dense(8, name="hidden")(x))
        return nn.Dense(1, name="out")(nn.Dropout(0.5, deterministic=not train)(x))


class RequiredFlag(nn.Module):
    """The flag has no default and reaches the layers as arguments, by name and by position."""

    def setup(self):
        self.hidden, self.norm, self.drop, self.out = nn.Dense(8), nn.BatchNorm(), nn.Dropout(0.5), nn.Dense(1)

    def __call__(self, x, training):
        x = self.norm(self.hidden(x), use_running_average=not training)
        return self.out(self.drop(x, not training))


class ConstructorFlag(nn.Module):
    """The flag is an attribute, and so are the layers'."""

    train: bool = False

    def setup(self):
        self.hidden, self.norm = nn.Dense(8), nn.BatchNorm(use_running_average=not self.train)
        self.drop, self.out = nn.Dropout(0.5, deterministic=not self.train), nn.Dense(1)

    def __call__(self, x):
        return self.out(self.drop(self.norm(self.hidden(x))))


class Deterministic(nn.Module):
    """The flag is called `deterministic`, and switches batch normalisation too."""

    @nn.compact
    def __call__(self, x, deterministic):
        x = nn.BatchNorm(use_running_average=deterministic, name="norm")(nn.Dense(8, name="hidden")(x))
        return nn.Dense(1, name="out")(nn.Dropout(0.5)(x, deterministic=deterministic))


class OwnFlag(nn.Module):
    """A layer of the user's own that has the flag as attribute and as argument."""

    deterministic: bool | None = None

    @nn.compact
    def __call__(self, x, deterministic=None):
        deterministic = nn.merge_param("deterministic", self.deterministic, deterministic)
        return x if deterministic else nn.Dropout(0.5, deterministic=False)(x)


class Lifted(nn.Module):
    """Both layers stand inside of `nn.remat`."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(8, name="hidden")(x)
        x = nn.remat(nn.BatchNorm)(use_running_average=not train, name="norm")(x)
        return nn.Dense(1, name="out")(nn.remat(OwnFlag)(deterministic=not train)(x))


class Separate(nn.Module):
    """The reference: the two flags apart."""

    average: bool
    drop: bool

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=self.average, name="norm")(nn.Dense(8, name="hidden")(x))
        return nn.Dense(1, name="out")(nn.Dropout(0.5, deterministic=not self.drop)(x))


class NNX(nnx.Module):
    """The layers' own flags, which `nnx.view` sets."""

    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(3, 8, rngs=rngs), nnx.Linear(8, 1, rngs=rngs)])
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.layers[1](self.drop(self.norm(self.layers[0](x))))


class NNXCallFlag(NNX):
    """One flag of the call is handed to both layers, over their own."""

    def __call__(self, x, *, train=True):
        x = self.norm(self.layers[0](x), use_running_average=not train)
        return self.layers[1](self.drop(x, deterministic=not train))


LINEN = [CallFlag(), RequiredFlag(), ConstructorFlag(), Deterministic(), Lifted()]


def variables(seed: int = 1) -> dict[str, Any]:
    """Of all the Linen modules alike, with statistics that are not the batch's."""
    made = Separate(average=True, drop=False).init(jax.random.key(seed), X)
    stats = {"norm": {"mean": jnp.full(8, 0.3), "var": jnp.full(8, 2.0)}}
    return {"params": made["params"], "batch_stats": stats}


def nnx_network(kind: type[NNX]) -> Network:
    """The NNX network with the Linen one's weights and statistics."""
    made, own = from_nnx(kind(nnx.Rngs(0))), variables()
    params = {
        "layers": {"0": own["params"]["hidden"], "1": own["params"]["out"]},
        "norm": own["params"]["norm"],
    }
    return dataclasses.replace(made, params=params, state=own["batch_stats"])


def both() -> list[Any]:
    linen = [pytest.param(lambda m=m: from_linen(m, variables()), id=type(m).__name__) for m in LINEN]
    return linen + [pytest.param(lambda k=k: nnx_network(k), id=k.__name__) for k in (NNX, NNXCallFlag)]


@pytest.mark.parametrize("make", both())
def test_the_two_switches_never_move_together(make):
    """Fault guarded against: dropout off at prediction, or batch normalisation dragged into train mode with it."""
    net = make()
    own = variables()

    @jax.jit
    def all_four(net, x):
        first, second = jax.random.key(1), jax.random.key(2)
        runs = {"off": (None, False), "train": (None, True), "key": (first, False), "both": (first, True)}
        runs |= {"again": (first, False), "other": (second, False)}
        return {n: net.apply(net.params, net.state, x, key=k, train=t) for n, (k, t) in runs.items()}

    got = all_four(net, X)
    eager = net.apply(net.params, net.state, X)
    assert jax.tree.all(jax.tree.map(lambda a, b: a is b, eager[1], net.state)), "the very same state"
    np.testing.assert_allclose(got["off"][0], Separate(True, False).apply(own, X), rtol=1e-5)
    trained, updated = Separate(False, False).apply(own, X, mutable=["batch_stats"])
    np.testing.assert_allclose(got["train"][0], trained, rtol=2e-5, atol=1e-6)
    for name, (_, state) in got.items():
        state = state.get("batch_stats", state)["norm"]
        expected = updated if name in ("train", "both") else own
        for statistic in ("mean", "var"):
            np.testing.assert_allclose(state[statistic], expected["batch_stats"]["norm"][statistic], rtol=1e-5)
    np.testing.assert_array_equal(got["key"][0], got["again"][0])
    for noisy, quiet in (("key", "off"), ("other", "off"), ("other", "key"), ("both", "train")):
        assert np.mean(np.abs(got[noisy][0] - got[quiet][0]) > 1e-3) > 0.9, (noisy, quiet)


@pytest.mark.parametrize("make", both())
def test_dropout_of_a_stochastic_network_averages_out(make):
    """The output is linear in the dropped units, so the mean over draws is the network without dropout."""
    net = stochastic(make())
    assert net.stochastic
    keys = jax.random.split(jax.random.key(3), 2_000)
    draws = jax.jit(jax.vmap(lambda k: net.apply(net.params, net.state, X[:2], key=k)[0]))(keys)
    error = draws.std(0) / np.sqrt(len(keys))
    assert np.all(error > 0)
    assert np.all(np.abs(draws.mean(0) - net.apply(net.params, net.state, X[:2])[0]) < 5 * error)


@pytest.mark.parametrize("make", both())
def test_gradients_and_vmap_over_weights(make):
    net = make()
    loss = lambda params: net.apply(params, net.state, X, key=jax.random.key(4), train=True)[0].sum()
    gradient = jax.jit(jax.grad(loss))(net.params)
    assert all(bool(np.isfinite(g).all()) for g in jax.tree.leaves(gradient))
    assert sum(float(np.abs(g).sum()) for g in jax.tree.leaves(gradient)) > 0
    pair = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), net.params)
    outputs, _ = jax.jit(jax.vmap(lambda p: net.apply(p, net.state, X)))(pair)
    single, _ = net.apply(jax.tree.map(lambda a: 2 * a, net.params), net.state, X)
    np.testing.assert_allclose(outputs[1], single, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [lambda seed: from_linen(CallFlag(), variables(seed)), lambda seed: from_nnx(NNXCallFlag(nnx.Rngs(seed)))],
    ids=["linen", "nnx"],
)
def test_equal_modules_share_one_trace(make):
    traces = []

    @jax.jit
    def outputs(net, x):
        traces.append(None)
        return net.apply(net.params, net.state, x, train=True)

    results = [outputs(make(seed), X)[0] for seed in (1, 2)]
    assert len(traces) == 1
    assert not np.allclose(*results)


class Table(nn.Module):
    """Holds what has no hash: a list and an array."""

    table: Any
    widths: Any

    @nn.compact
    def __call__(self, x):
        for width in [*self.widths, 1]:
            x = nn.Dense(width)(x * self.table.mean())
        return x


def test_modules_that_hold_lists_and_arrays():
    traces = []

    @jax.jit
    def outputs(net, x):
        traces.append(None)
        return net.apply(net.params, net.state, x)[0]

    table = np.full(2, 3.0, np.float32)
    made = Table(table, [4, 4]).init(jax.random.key(0), X)
    module = Table(table, [4, 4])
    for _ in range(2):
        outputs(from_linen(module, made), X)
    assert len(traces) == 1
    doubled = outputs(from_linen(Table(2 * table, [4, 4]), made), X)
    np.testing.assert_allclose(doubled, Table(2 * table, [4, 4]).apply(made, X), rtol=1e-5)
    sequential = nn.Sequential([nn.Dense(2), nn.relu])
    assert float(outputs(from_linen(sequential, sequential.init(jax.random.key(0), X)), X).min()) == 0.0


class Streams(nn.Module):
    """Draws from streams of its own names."""

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, (1,))
        return scale * jnp.stack([jax.random.normal(self.make_rng(name)) for name in ("dropout", "noise", "noise")])


def test_any_random_stream_is_served_from_the_key():
    net = from_linen(Streams(), {"params": {"scale": jnp.ones(1)}})
    draws, _ = net.apply(net.params, net.state, X, key=jax.random.key(5))
    assert len(np.unique(draws)) == 3
    other, _ = net.apply(net.params, net.state, X, key=jax.random.key(6))
    assert not np.any(draws == other)


def test_a_scan_over_layers_draws_anew_in_each():
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, deterministic):
            return nn.Dropout(0.5)(self.param("w", nn.initializers.ones, (1,)) * x, deterministic=deterministic), None

    class Deep(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            rngs = {"params": True, "dropout": True}
            layers = nn.scan(Layer, variable_axes={"params": 0}, split_rngs=rngs, in_axes=nn.broadcast, length=3)
            return layers()(x, not train)[0]

    x = jnp.ones((4_000, 1))
    net = from_linen(Deep(), Deep().init(jax.random.key(0), x))
    np.testing.assert_array_equal(net.apply(net.params, {}, x)[0], x)
    kept = net.apply(net.params, {}, x, key=jax.random.key(1), train=True)[0]
    # 1/8 of the units survive three masks; 5 standard errors of the share.
    assert abs(np.mean(kept == 8.0) - 1 / 8) < 5 * np.sqrt(1 / 8 * 7 / 8 / len(x))


def test_linen_variables_become_plain_dicts():
    class Sown(nn.Module):
        @nn.compact
        def __call__(self, x):
            kernel = nn.with_partitioning(nn.initializers.ones, ("in", "out"))
            x = nn.Dense(2, kernel_init=kernel)(x)
            self.sow("intermediates", "seen", x)
            return nn.BatchNorm(use_running_average=True)(x)

    made = Sown().init(jax.random.key(0), X)
    net = from_linen(Sown(), freeze(made))
    assert type(net.params) is type(net.params["Dense_0"]) is type(net.state) is dict
    assert isinstance(net.params["Dense_0"]["kernel"], jax.Array), "unboxed"
    assert set(net.state) == {"batch_stats"}, "what was sown is no state"
    _, state = net.apply(net.params, net.state, X, train=True)
    assert jax.tree.structure(state) == jax.tree.structure(net.state)
    assert not np.allclose(state["batch_stats"]["BatchNorm_0"]["mean"], 0.0)


def test_a_network_without_state():
    module = nn.Dense(2)
    net = from_linen(module, module.init(jax.random.key(0), X))
    for train in (False, True):
        outputs, state = net.apply(net.params, net.state, X, key=jax.random.key(1), train=train)
        assert state == {}
        np.testing.assert_allclose(outputs, module.apply({"params": net.params}, X))


def test_nnx_weights_and_state_are_plain_dicts_with_string_keys():
    module = NNX(nnx.Rngs(0))
    net = from_nnx(module)
    assert set(net.params["layers"]) == {"0", "1"}
    np.testing.assert_array_equal(net.params["layers"]["1"]["kernel"], module.layers[1].kernel[...])
    assert set(net.state) == {"norm"}, "neither keys nor counters are state"
    count = int(module.drop.rngs.count[...])
    net.apply(net.params, net.state, X, key=jax.random.key(1), train=True)
    assert int(module.drop.rngs.count[...]) == count, "the module is never changed"
    np.testing.assert_array_equal(module.norm.mean[...], np.zeros(8))
    assert (module.drop.deterministic, type(module.drop)) == (False, nnx.Dropout)


def test_nnx_layers_draw_independently():
    class Masks(nnx.Module):
        def __init__(self, rngs):
            self.drops = nnx.List([nnx.Dropout(0.5, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)])
            self.scale = nnx.Param(jnp.ones(1))

        def __call__(self, x):
            return jnp.stack([drop(x) for drop in self.drops] + [self.drops[0](x)]) * self.scale[...]

    net = from_nnx(Masks(nnx.Rngs(0)))
    masks, _ = net.apply(net.params, net.state, jnp.ones(4_000), key=jax.random.key(1))
    correlation = np.corrcoef(masks) - np.eye(3)
    assert np.abs(correlation).max() < 5 / np.sqrt(4_000), "other layers and later calls have masks of their own"


def test_function_networks():
    weights = {"w": np.ones((3, 1))}
    net = network(lambda p, x: x @ p["w"], weights)
    outputs, state = net.apply(net.params, net.state, X, train=True)
    np.testing.assert_allclose(outputs[:, 0], X.sum(1), rtol=1e-6)
    assert state == {}
    assert isinstance(net.params["w"], jax.Array)
    with pytest.raises(ValueError, match=re.escape("Write it as fn(params, x, key=None)")):
        stochastic(net)

    def noisy(p, x, key=None):
        return x @ p["w"] + (0.0 if key is None else jax.random.normal(key))

    net = stochastic(network(noisy, weights))
    quiet, _ = net.apply(net.params, net.state, X)
    loud, _ = net.apply(net.params, net.state, X, key=jax.random.key(0))
    assert not np.allclose(quiet, loud)


@pytest.mark.parametrize(
    ("leaf", "got"),
    [(np.ones(2, np.int32), "int32[2]"), (1.0, "float"), ("relu", "str"), (np.ones(3, np.complex64), "complex64[3]")],
)
def test_weights_that_are_no_floating_arrays_are_named(leaf, got):
    with pytest.raises(TypeError, match=re.escape(f"'head/b' is {got}")):
        network(lambda p, x: x, {"head": {"w": jnp.ones(2), "b": leaf}})


def test_errors_say_what_to_pass():
    with pytest.raises(ValueError, match=re.escape("its collections are hidden, norm, out. Pass what")):
        from_linen(CallFlag(), variables()["params"])

    with pytest.raises(ValueError, match=re.escape("has no nnx.Param")):
        from_nnx(nnx.Dropout(0.5))
    net = from_linen(CallFlag(), variables())
    with pytest.raises(TypeError, match="expected one random key"):
        net.apply(net.params, net.state, X, key=3)
