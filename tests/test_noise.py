"""Local noise: its own draw of the weights for each example, in unmodified networks."""

import warnings

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import bdl
from bdl._family import is_family
from bdl._paths import map_named
from bdl.noise import find_uses, local
from tests.arrays import filled, normals
from tests.slow import slow

S = 2000
FAMILIES = {"dropout": bdl.families.bernoulli_dropout(rate=0.3), "normal": bdl.families.normal(scale=0.1)}


def linen(module, x):
    network = filled(module, x)
    return lambda p, x: network.apply(p, network.state, x)[0], network.params, x


def of_nnx(module, x):
    network = bdl.from_nnx(module)
    return lambda p, x: network.apply(p, network.state, x)[0], network.params, x


class Tied(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(11, 8)
        return embed.attend(embed(tokens))


class Remat(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.remat(nn.Dense)(3)(x)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.tanh(nn.Dense(8)(x)), None


class ScanOverLayers(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)()(x, None)[0]


@jax.custom_vjp
def identity(x):
    return x


identity.defvjp(lambda x: (x, None), lambda _, g: (-g,))


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(8, 6, rngs=rngs)
        self.second = nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x):
        return self.second(nnx.tanh(self.first(x)))


sequence, picture, row = normals(1, 4, 7, 8), normals(2, 4, 8, 8, 4), normals(3, 4, 8)
w83, w783, w38 = normals(4, 8, 3), normals(5, 7, 8, 3), normals(6, 3, 8)
tokens = jax.random.randint(jax.random.key(7), (4, 7), 0, 11)

NETWORKS = {
    "Dense": lambda: linen(nn.Dense(3), row),
    "Dense over time": lambda: linen(nn.Dense(3), sequence),
    "Dense bfloat16": lambda: linen(nn.Dense(3, dtype=jnp.bfloat16), sequence),
    "Einsum": lambda: linen(nn.Einsum((8, 2, 5), "btd,dhk->bthk"), sequence),
    "einsum with a batch axis": lambda: (lambda p, x: jnp.einsum("bhd,hdk->bhk", x, p["w"]), {"w": w783}, sequence),
    "Conv": lambda: linen(nn.Conv(6, (3, 3)), picture),
    "Conv strided, dilated, grouped": lambda: linen(
        nn.Conv(6, (3, 3), strides=2, kernel_dilation=2, feature_group_count=2), picture
    ),
    "Conv depthwise": lambda: linen(nn.Conv(4, (3, 3), feature_group_count=4), picture),
    "ConvTranspose": lambda: linen(nn.ConvTranspose(6, (3, 3), strides=(2, 2)), picture),
    "ConvTranspose, transposed kernel": lambda: linen(
        nn.ConvTranspose(6, (3, 3), strides=(2, 2), transpose_kernel=True), picture
    ),
    "OptimizedLSTMCell": lambda: linen(nn.RNN(nn.OptimizedLSTMCell(6)), sequence),
    "LSTMCell, reversed": lambda: linen(nn.RNN(nn.LSTMCell(6), reverse=True), sequence),
    "GRUCell": lambda: linen(nn.RNN(nn.GRUCell(6)), sequence),
    "attention": lambda: linen(nn.MultiHeadDotProductAttention(2), sequence),
    "tied embedding": lambda: linen(Tied(), tokens),
    "remat": lambda: linen(Remat(), sequence),
    "scan over layers": lambda: linen(ScanOverLayers(), sequence),
    "custom_vjp": lambda: (lambda p, x: identity(x @ p["w"]), {"w": w83}, sequence),
    "transposed kernel": lambda: (lambda p, x: jnp.tanh(x @ p["w"].T) + p["b"], {"w": w38, "b": jnp.ones(3)}, sequence),
    "reshape(B * T, D)": lambda: (
        lambda p, x: (x.reshape(-1, 8) @ p["w"]).reshape(x.shape[0], -1, 3), {"w": w83}, sequence
    ),
    "time-major": lambda: (
        lambda p, x: jnp.swapaxes((jnp.swapaxes(x, 0, 1).reshape(-1, 8) @ p["w"]).reshape(7, -1, 3), 0, 1),
        {"w": w83},
        sequence,
    ),
    "vmap inside": lambda: (lambda p, x: jax.vmap(lambda r: jnp.tanh(r @ p["w"]))(x), {"w": w83}, sequence),
    "cond and while": lambda: (
        lambda p, x: jax.lax.cond(
            x.sum() > -1e9,
            lambda x: jax.lax.while_loop(lambda c: c[0] < 1, lambda c: (c[0] + 1, c[1] @ p["w"]), (0, x))[1],
            lambda x: x,
            x,
        ),
        {"w": normals(8, 8, 8)},
        sequence,
    ),
    "jit inside": lambda: (lambda p, x: jax.jit(lambda w, x: x @ w)(p["w"], x), {"w": w83}, sequence),
    "LayerNorm": lambda: linen(nn.LayerNorm(), sequence),
    "NNX Linear": lambda: of_nnx(NnxNet(nnx.Rngs(0)), row),
    "NNX Conv": lambda: of_nnx(nnx.Conv(4, 5, (3, 3), rngs=nnx.Rngs(0)), picture),
    "NNX LSTM": lambda: of_nnx(nnx.RNN(nnx.OptimizedLSTMCell(8, 6, rngs=nnx.Rngs(0))), sequence),
    "NNX attention": lambda: of_nnx(
        nnx.MultiHeadAttention(2, 8, decode=False, rngs=nnx.Rngs(0)), sequence
    ),
}  # fmt: skip

# Where a Normal array enters an example more than once, local reparameterisation approximates.
REUSED = {
    "OptimizedLSTMCell",
    "LSTMCell, reversed",
    "GRUCell",
    "NNX LSTM",
    "attention",
    "NNX attention",
    "tied embedding",
}


def families_for(params, uses, initialiser):
    bound = lambda path, f: f.bind(uses[path]) if is_family(f) else f
    return map_named(lambda path, a: bound(path, initialiser(a)), params)


# Their rules are those of another network of the table.
ALIKE = {
    "Dense",
    "Conv",
    "Conv depthwise",
    "ConvTranspose",
    "LSTMCell, reversed",
    "GRUCell",
    "NNX Linear",
    "NNX Conv",
    "NNX LSTM",
    "NNX attention",
}


# What stands around a product of them is the same for both families.
WRAPPED = {
    "remat",
    "scan over layers",
    "custom_vjp",
    "transposed kernel",
    "reshape(B * T, D)",
    "time-major",
    "vmap inside",
    "cond and while",
    "jit inside",
}


def is_quick(name, family):
    return name not in ALIKE and not (name in WRAPPED and family == "normal")


@pytest.mark.parametrize(
    ("name", "family"),
    [(n, f) if is_quick(n, f) else slow(n, f) for n in NETWORKS for f in FAMILIES],
)
def test_local_noise_has_the_moments_of_shared_draws(name, family):
    apply, params, x = NETWORKS[name]()
    uses = find_uses(apply, params, x)
    assert not any(use.shared for use in uses.values())
    weights = families_for(params, uses, FAMILIES[family])
    posterior = bdl.posteriors.Factorised(weights)
    if not posterior.families:
        pytest.skip("only arrays of one axis, which dropout leaves alone")
    copies = jnp.repeat(x[:1], S, 0)

    @jax.jit
    def run(key, weights):
        shared = jax.vmap(lambda k: apply(bdl.posteriors.Factorised(weights).sample(k), x[:1])[0])
        loss = lambda w, k: local(k, apply, w, x).astype(jnp.float32).sum()
        if "while" in name:  # which has no reverse derivative
            loss = lambda w, k: sum(a.sum() for a in jax.tree.leaves(w))
        gradients = jax.vmap(jax.grad(loss), in_axes=(None, 0))(weights, jax.random.split(jax.random.key(4), 2))
        return local(key, apply, weights, copies), shared(jax.random.split(jax.random.key(5), S)), gradients

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a weight that falls back to shared noise would be named in a warning
        *draws, gradients = run(jax.random.key(3), weights)
    noisy, shared = (np.asarray(a, np.float64).reshape(S, -1) for a in draws)
    assert all(bool(np.isfinite(a).all()) for a in jax.tree.leaves(gradients))
    assert shared.std() > 0

    approximate = name in REUSED and family == "normal"
    error = 5 * np.sqrt((noisy.var(0) + shared.var(0)) / S) + 1e-3
    if approximate and name != "tied embedding":
        error += 0.1 * shared.std(0)
    if not (approximate and name == "tied embedding"):  # there E[w wᵀ] is not E[w] E[w]ᵀ
        assert np.all(np.abs(noisy.mean(0) - shared.mean(0)) < error)
    # The error of a mean variance over outputs, which are correlated: that of the noisiest output bounds it.
    spread = lambda draws: (draws.var(0).mean(), ((draws - draws.mean(0)) ** 2).mean(1).std() / np.sqrt(S))
    (a, error_a), (b, error_b) = spread(noisy), spread(shared)
    if approximate:
        assert 0.85 < np.sqrt(a / b) < 1.35
    else:
        assert abs(a - b) < 5 * np.hypot(error_a, error_b) + 1e-5 + (0.01 * b if "bfloat16" in name else 0)
    # Examples are independent: neighbouring rows of identical inputs do not correlate.
    centred = noisy - noisy.mean(0)
    lag = (centred[1:] * centred[:-1]).mean() / centred.var()
    assert abs(lag) < 5 / np.sqrt(S)


def test_weights_that_cannot_be_local_are_named_once_and_shared():
    apply = lambda p, x: x @ (p["kernel"] / jnp.linalg.norm(p["kernel"]))
    params = {"kernel": w83}
    uses = find_uses(apply, params, row)
    assert uses["kernel"].shared
    weights = families_for(params, uses, FAMILIES["normal"])
    with pytest.warns(UserWarning, match="kernel") as caught:
        noisy = local(jax.random.key(0), apply, weights, jnp.repeat(row[:1], 50, 0))
    assert len(caught) == 1
    assert float(noisy.std(0).max()) < 1e-6  # one draw for all
    posterior = bdl.posteriors.Factorised(weights)
    assert "shared" in str(bdl.summary(posterior))


def test_inputs_whose_examples_are_lost_are_noticed():
    apply = lambda p, x: jnp.sort(x.reshape(-1)).reshape(x.shape) @ p["kernel"]  # mixes the examples
    uses = find_uses(apply, {"kernel": w83}, row)
    assert "examples" in uses["kernel"].shared
    weights = families_for({"kernel": w83}, uses, FAMILIES["dropout"])
    with pytest.warns(UserWarning, match="kernel"):
        local(jax.random.key(0), apply, weights, row)


def test_a_custom_gradient_of_the_weights_is_kept():
    @jax.custom_vjp
    def straight_through(x, w):
        return x @ jnp.sign(w)

    straight_through.defvjp(
        lambda x, w: (straight_through(x, w), (x, w)), lambda res, g: (g @ res[1].T, 7.0 * res[0].T @ g)
    )
    weights = families_for({"w": w83}, {"w": bdl.networks.Use(in_axes=(0,))}, bdl.families.normal(scale=1e-9))
    with pytest.warns(UserWarning, match="custom_vjp"):
        gradient = jax.jit(
            jax.grad(lambda w: local(jax.random.key(0), lambda p, x: straight_through(x, p["w"]), w, row).sum())
        )(weights)
    assert np.allclose(gradient["w"].loc, 7.0 * row.sum(0)[:, None] * jnp.ones(3), rtol=1e-5)


def test_axes_and_fan_in_are_those_of_the_use():
    attention = nn.MultiHeadDotProductAttention(2)
    apply, params, x = linen(attention, sequence)
    uses = find_uses(apply, params, x)
    assert uses["query/kernel"].in_axes == (0,)
    assert uses["query/kernel"].fan_in == 8
    assert uses["out/kernel"].in_axes == (0, 1)
    assert uses["out/kernel"].fan_in == 8
    apply, params, x = NETWORKS["Conv strided, dilated, grouped"]()
    use = find_uses(apply, params, x)["kernel"]
    assert (use.in_axes, use.window_axes, use.groups, use.fan_in) == ((2,), (0, 1), 2, 18)
    apply, params, x = NETWORKS["scan over layers"]()
    use = find_uses(apply, params, x)["ScanBlock_0/Dense_0/kernel"]
    assert (use.in_axes, use.stack_axes, use.fan_in) == ((1,), (0,), 8)


def test_an_examples_noise_is_one_mask_for_all_its_time_steps():
    ones = jnp.ones((6, 9, 8))
    weights = {"w": bdl.families.bernoulli_dropout(rate=0.5)(jnp.eye(8))}
    noisy = local(jax.random.key(0), lambda p, x: x @ p["w"], weights, ones)
    assert np.array_equal(noisy, jnp.broadcast_to(noisy[:, :1], noisy.shape))
    assert not np.array_equal(noisy[0], noisy[1])


@pytest.mark.slow
def test_gradients_have_less_variance_with_local_noise():
    params = {"w": normals(9, 8, 16) / 3, "v": normals(10, 16, 1) / 4}
    network = bdl.network(lambda p, x: jnp.tanh(x @ p["w"]) @ p["v"], params)
    model = bdl.Model(network, bdl.likelihoods.Normal(scale=0.3), bdl.priors.normal())
    x = normals(11, 64, 8)
    data = (x, jnp.sin(x[:, :1]))
    for initialiser in FAMILIES.values():
        posterior = bdl.variational(params, initialiser)
        learned, fixed = bdl.partition(posterior)

        def variance(noise, learned=learned, fixed=fixed):
            one = lambda k: jax.jit(
                jax.grad(lambda q: bdl.elbo(k, eqx.combine(q, fixed), model, data, num_data=64, noise=noise).elbo)
            )(learned)
            gradients = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(12), 300))
            return sum(float(g.var(0).sum()) for g in jax.tree.leaves(gradients))

        assert variance("local") < 0.5 * variance("shared")
