"""Prediction: moments, draws that are the same whatever the chunks, and errors instead of silent numbers."""

import os
import subprocess
import sys
import textwrap

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import bdl
from bdl._moments import Moments
from tests.arrays import normals
from tests.slow import slow

KEY = jax.random.key(0)
X = normals(1, 6, 3)
params = {
    "w": normals(2, 3, 8),
    "v": normals(3, 8, 2) / 3,
}


def two_layers(p, x):
    return jnp.tanh(x @ p["w"]) @ p["v"]


network = bdl.network(two_layers, params)
posterior = bdl.variational(params, {"w": bdl.families.bernoulli_dropout(0.2), "v": bdl.families.normal(0.1)})
regression = bdl.Model(network, bdl.likelihoods.HeteroscedasticNormal(), bdl.priors.normal())
classification = bdl.Model(network, bdl.likelihoods.Categorical(), bdl.priors.normal())


def outputs_of(seed_key, count):
    return bdl.predict(seed_key, posterior, regression, X, num_samples=count, return_draws=True).draws


def test_moments_keep_their_digits_far_from_zero():
    draws = 1e6 + np.random.default_rng(0).normal(size=(1000, 4)) * 2.0
    low = draws.astype(np.float32)
    exact = low.astype(np.float64).var(0, ddof=1)
    merged = jax.jit(lambda total, part, valid: total.merge(Moments.of(part, valid)))
    for chunk in (1, 7, 250):
        total = Moments.empty(jnp.asarray(low[0]))
        for start in range(0, 1000, chunk):
            index = start + np.arange(chunk)
            total = merged(total, low.take(index, axis=0, mode="clip"), index < 1000)
        assert int(total.count) == 1000
        np.testing.assert_allclose(total.variance(), exact, rtol=0.02)


def test_prediction_is_the_mixture_of_its_draws():
    count = 50
    found = bdl.predict(KEY, posterior, regression, X, num_samples=count, quantiles=(0.1, 0.9), return_draws=True)
    mean, log_variance = (np.asarray(a, np.float64) for a in np.split(found.draws, 2, axis=-1))
    components = dist.Normal(np.moveaxis(mean, 0, -1), np.exp(np.moveaxis(log_variance, 0, -1) / 2))
    mixture = dist.MixtureSameFamily(dist.Categorical(jnp.ones(count) / count), components)
    np.testing.assert_allclose(found.mean, mixture.mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.aleatoric, np.exp(log_variance).mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.epistemic, mean.var(0, ddof=1), rtol=1e-4)
    for level, quantile in zip((0.1, 0.9), found.quantiles, strict=True):
        np.testing.assert_allclose(mixture.cdf(quantile), level, atol=1e-4)
    y = jnp.zeros((6, 1))
    log_density = bdl.log_predictive(KEY, posterior, regression, (X, y), num_samples=count)
    np.testing.assert_allclose(log_density, mixture.log_prob(y)[:, 0], rtol=1e-4)


def test_classes_split_into_expected_entropy_and_mutual_information():
    found = bdl.predict(KEY, posterior, classification, X, num_samples=64, return_draws=True)
    p = np.asarray(jax.nn.softmax(found.draws), np.float64)
    entropy = lambda q: -(q * np.log(q)).sum(-1)
    np.testing.assert_allclose(found.probs, p.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.entropy, entropy(p.mean(0)), rtol=1e-4)
    np.testing.assert_allclose(found.aleatoric, entropy(p).mean(0), rtol=1e-4)
    np.testing.assert_allclose(found.epistemic, entropy(p.mean(0)) - entropy(p).mean(0), atol=1e-5)
    np.testing.assert_allclose(found.standard_error, p.std(0, ddof=1) / 8, rtol=1e-3)


@pytest.mark.parametrize("model", [regression, slow(classification)])
def test_chunks_batches_and_counts_do_not_change_the_draws(model):
    whole = bdl.predict(KEY, posterior, model, X, num_samples=64, chunk_size=64)
    for chunk in (1, 7):
        chex.assert_trees_all_close(
            bdl.predict(KEY, posterior, model, X, num_samples=64, chunk_size=chunk), whole, rtol=1e-4, atol=1e-5
        )
    part = bdl.predict(KEY, posterior, model, X[2:4], num_samples=64)
    chex.assert_trees_all_close(part.aleatoric, whole.aleatoric[2:4], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(outputs_of(KEY, 64)[:10], outputs_of(KEY, 10), rtol=1e-5, atol=1e-6)


def test_batches_of_examples_do_not_change_the_draws():
    settings = {"num_samples": 8, "quantiles": (0.1, 0.9), "return_draws": True}
    whole = bdl.predict(KEY, posterior, regression, X, **settings)
    for size in (4, 100):  # the last batch is filled up; one batch is enough
        found = bdl.predict(KEY, posterior, regression, X, batch_size=size, **settings)
        chex.assert_trees_all_close(found, whole, rtol=1e-5, atol=1e-6)
    classes = bdl.predict(KEY, posterior, classification, np.asarray(X), num_samples=8, batch_size=4)
    chex.assert_trees_all_close(
        classes, bdl.predict(KEY, posterior, classification, X, num_samples=8), rtol=1e-5, atol=1e-6
    )
    data = X, jnp.ones((6, 1))
    np.testing.assert_allclose(
        bdl.log_predictive(KEY, posterior, regression, data, num_samples=8, batch_size=4),
        bdl.log_predictive(KEY, posterior, regression, data, num_samples=8),
        rtol=1e-5,
    )


def test_a_drawn_function_is_draw_of_predict():
    draws = outputs_of(KEY, 5)
    for index in (0, 4):
        f = bdl.function_draw(KEY, posterior, regression, index)
        np.testing.assert_allclose(jax.jit(f)(X), draws[index], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(f(X[1:2]), draws[index][1:2], rtol=1e-5, atol=1e-6)


def test_memory_does_not_grow_with_the_draws():
    from bdl.predict import _predict

    sizes = []
    for count in (10, 1000):
        lowered = _predict.lower(KEY, posterior, regression, X, count, 1, "shared", None, False)
        sizes.append(lowered.compile().memory_analysis().temp_size_in_bytes)
    assert sizes[1] <= 1.1 * sizes[0]


def test_tolerance_stops_when_the_error_is_small_and_not_before():
    count = lambda tolerance, model: int(
        bdl.predict(KEY, posterior, model, X, num_samples=5000, chunk_size=8, tolerance=tolerance).num_samples
    )
    for model, loose, tight in ((regression, 0.2, 0.05), (classification, 0.1, 0.005)):
        few, many = count(loose, model), count(tight, model)
        assert 64 <= few < many < 5000
        assert count(1e-9, model) == 5000
    reference = bdl.predict(KEY, posterior, regression, X, num_samples=20_000)
    errors = []
    for seed in range(20):
        found = bdl.predict(jax.random.key(seed + 10), posterior, regression, X, num_samples=5000, tolerance=0.05)
        errors.append(np.abs(found.variance - reference.variance) / reference.variance)
    # The tolerance is one standard error of the worst output.
    assert np.sqrt(np.mean(np.square(errors), axis=0)).max() < 1.5 * 0.05


def test_a_second_call_does_not_trace_again():
    calls = []

    def counted(p, x):
        calls.append(1)
        return two_layers(p, x)

    net = bdl.network(counted, params)

    def run(seed, rate, scale, width):
        q = bdl.variational(params, {"w": bdl.families.bernoulli_dropout(rate), "v": bdl.families.normal(width)})
        model = bdl.Model(net, bdl.likelihoods.Normal(scale=scale), bdl.priors.normal(scale=scale))
        x = X + seed
        bdl.predict(jax.random.key(seed), q, model, x, num_samples=8)
        bdl.log_predictive(jax.random.key(seed), q, model, (x, jnp.zeros((6, 2))), num_samples=8)

    run(1, 0.1, 0.5, 0.1)
    before = len(calls)
    run(2, 0.3, 2.0, 0.2)
    assert len(calls) == before


class Normalised(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(x))
        return nn.Dense(1)(nn.Dropout(0.5, deterministic=not train)(nn.relu(x)))


def test_batch_norm_trains_and_predict_leaves_it_alone():
    import optax

    module = Normalised()
    x = 3.0 + 2.0 * normals(4, 64, 3)
    net = bdl.from_linen(module, module.init(jax.random.key(5), x, train=False))
    q = bdl.variational(net.params, {"*/kernel": bdl.families.bernoulli_dropout(0.1)})
    model = bdl.Model(net, bdl.likelihoods.Normal(scale=1.0))
    fitted = bdl.fit(
        jax.random.key(6), bdl.inference.vi(optax.adam(1e-2)), q, model, (x, x[:, :1]), num_steps=200, progress=False
    )
    before, after = (m.network.state["batch_stats"]["BatchNorm_0"]["mean"] for m in (model, fitted.model))
    assert float(np.abs(after - before).max()) > 0.1
    state = jax.tree.map(jnp.copy, fitted.model.network.state)
    found = bdl.predict(jax.random.key(7), fitted.posterior, fitted.model, x, num_samples=50)
    chex.assert_trees_all_equal(state, fitted.model.network.state)
    assert float(np.mean((found.mean - x[:, :1]) ** 2)) < 1.0  # the data's variance is 4
    # One example at a time gives what the batch gives: no batch statistics at prediction.
    alone = bdl.predict(jax.random.key(7), fitted.posterior, fitted.model, x[:1], num_samples=50)
    np.testing.assert_allclose(alone.mean, found.mean[:1], rtol=1e-4, atol=1e-4)


def test_a_networks_own_dropout_is_off_until_asked_for():
    module = Normalised()
    net = bdl.from_linen(module, module.init(jax.random.key(5), X, train=False))
    q = bdl.variational(net.params, bdl.families.point)
    model = bdl.Model(net, bdl.likelihoods.Normal())
    assert float(bdl.predict(KEY, q, model, X).epistemic.max()) == 0
    own = bdl.Model(bdl.networks.stochastic(net), bdl.likelihoods.Normal())
    assert float(bdl.predict(KEY, q, own, X, num_samples=20).epistemic.max()) > 0
    # Twenty draws of a network that is not random are not what was meant.
    with pytest.raises(ValueError, match=r"dropout layers are off.*networks.stochastic"):
        bdl.predict(KEY, q, model, X, num_samples=20)
    assert int(bdl.predict(KEY, q, model, X, num_samples=20, check=False).num_samples) == 1


def test_a_posterior_that_does_not_move_the_outputs_is_an_error():
    ignores = bdl.Model(bdl.network(lambda p, x: two_layers(params, x), params), bdl.likelihoods.Normal())
    with pytest.raises(ValueError, match="weights differ.*v"):
        bdl.predict(KEY, posterior, ignores, X, num_samples=4)
    bdl.predict(KEY, posterior, ignores, X, num_samples=4, check=False)
    still = bdl.variational(params, {"w": bdl.families.bernoulli_dropout(0.0)})
    with pytest.raises(ValueError, match=r"w \(rate 0\)"):
        bdl.predict(KEY, still, regression, X, num_samples=4)
    # Masks that happen to be the same are no error.
    rare = bdl.variational(params, {"w": bdl.families.bernoulli_dropout(1e-4)})
    bdl.predict(KEY, rare, regression, X, num_samples=2)


def test_point_masses_are_enumerated():
    q = bdl.variational(params, bdl.families.point)
    found = bdl.predict(KEY, q, regression, X)
    assert int(found.num_samples) == 1
    assert float(np.abs(found.epistemic).max()) == float(np.abs(found.standard_error).max()) == 0


def test_local_noise_predicts_the_same_moments():
    shared, local = (
        bdl.predict(KEY, posterior, regression, X, num_samples=4000, noise=noise) for noise in ("shared", "local")
    )
    assert np.all(np.abs(shared.mean - local.mean) < 5 * np.hypot(shared.standard_error, local.standard_error))
    np.testing.assert_allclose(shared.epistemic, local.epistemic, rtol=0.2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 0}, "num_samples"),
        ({"num_samples": 4, "chunk_size": 0}, "chunk_size"),
        ({}, "num_samples=100"),
        ({"num_samples": 4, "quantiles": (0.0,)}, "quantiles"),
        ({"num_samples": 4, "tolerance": 0.1, "return_draws": True}, "tolerance"),
        ({"num_samples": 4, "noise": "both"}, "noise"),
        ({"num_samples": 4, "batch_size": 0}, "batch_size"),
        ({"num_samples": 4, "batch_size": 2, "tolerance": 0.1}, "tolerance"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        bdl.predict(KEY, posterior, regression, X, **arguments)


def test_bad_inputs_and_keys_are_refused():
    with pytest.raises(ValueError, match="row 2, column 1"):
        bdl.predict(KEY, posterior, regression, X.at[2, 1].set(jnp.nan), num_samples=4)
    for key in (0, jnp.zeros(2), None, jax.random.split(KEY, 3)):
        with pytest.raises(TypeError, match=r"jax\.random\.key"):
            bdl.predict(key, posterior, regression, X, num_samples=4)
    with pytest.raises(TypeError, match="num_sample"):
        bdl.predict(KEY, posterior, regression, X, num_sample=4)
    with pytest.raises(ValueError, match="no quantiles|classes"):
        bdl.predict(KEY, posterior, classification, X, num_samples=4, quantiles=(0.5,))


def test_predict_under_jit_vmap_and_grad():
    run = jax.jit(lambda k, q: bdl.predict(k, q, regression, X, num_samples=8).mean)
    np.testing.assert_allclose(
        run(KEY, posterior), bdl.predict(KEY, posterior, regression, X, num_samples=8).mean, rtol=1e-5, atol=1e-6
    )
    assert jax.vmap(run, in_axes=(0, None))(jax.random.split(jax.random.key(8), 3), posterior).shape == (3, 6, 1)
    gradient = jax.jit(jax.grad(lambda x: bdl.predict(KEY, posterior, regression, x, num_samples=8).mean.sum()))(X)
    assert bool(np.isfinite(gradient).all())
    assert float(np.abs(gradient).max()) > 0


def test_a_raw_key_is_taken():
    chex.assert_trees_all_equal(
        bdl.predict(jax.random.PRNGKey(0), posterior, regression, X, num_samples=4).mean,
        bdl.predict(jax.random.key(0), posterior, regression, X, num_samples=4).mean,
    )


def in_a_new_process(code: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


SETTING = """
    import jax, jax.numpy as jnp, numpy as np, optax, bdl
    key = jax.random.key
    params = {"w": jax.random.normal(key(2), (3, 8)), "v": jax.random.normal(key(3), (8, 2)) / 3}
    network = bdl.network(lambda p, x: jnp.tanh(x @ p["w"]) @ p["v"], params)
    posterior = bdl.variational(
        params, {"w": bdl.families.bernoulli_dropout(0.2), "v": bdl.families.normal(0.1)}
    )
    model = bdl.Model(network, bdl.likelihoods.HeteroscedasticNormal())
    x = jax.random.normal(key(1), (16, 3)); y = x[:, :1]
    algorithm = bdl.inference.vi(optax.adam(1e-2))
    state = algorithm.init(key(4), *bdl.bind(posterior, model, x), num_data=16)
    learned, fixed = bdl.partition(posterior)
    import equinox as eqx
    def predict(x):
        found = bdl.predict(key(5), posterior, model, x, num_samples=16)
        return found.mean, found.variance
    def gradient(x, y):
        return jax.tree.leaves(jax.grad(lambda q: bdl.elbo(
            key(6), eqx.combine(q, fixed), model, (x, y), num_data=16).elbo)(learned))
    def step(x, y):
        after, info = algorithm.step(key(7), state, (x, y))
        return jax.tree.leaves(bdl.partition(after.posterior)[0]) + [info.elbo]
"""


@pytest.mark.slow
def test_eight_devices_give_the_numbers_of_one():
    output = in_a_new_process(
        SETTING
        + """
    from jax.sharding import Mesh, NamedSharding, PartitionSpec
    assert len(jax.devices()) == 8
    rows = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))
    sharded = jax.device_put(x, rows), jax.device_put(y, rows)
    for function, count in ((predict, 1), (gradient, 2), (step, 2)):
        one, eight = jax.jit(function)(*(x, y)[:count]), jax.jit(function)(*sharded[:count])
        for a, b in zip(one, eight, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)
    print("same")
    """,
        XLA_FLAGS="--xla_force_host_platform_device_count=8",
    )
    assert "same" in output


@pytest.mark.slow
def test_the_main_path_lowers_for_every_backend():
    output = in_a_new_process(
        SETTING
        + """
    for function, args in ((predict, (x,)), (gradient, (x, y)), (step, (x, y))):
        exported = jax.export.export(jax.jit(function), platforms=("cpu", "cuda", "tpu"))(*args)
        assert len(exported.serialize()) > 0
        here = jax.export.deserialize(exported.serialize()).call(*args)
        for a, b in zip(jax.jit(function)(*args), here, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)
    print("lowered")
    """
    )
    assert "lowered" in output
