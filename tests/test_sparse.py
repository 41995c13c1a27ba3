"""Sparsity: the log-uniform prior, sparse variational dropout, pruning."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from numpyro.distributions.kl import kl_divergence
from scipy import integrate

import bdl
from bdl import testing
from bdl.families import NormalFamily, Pruned, SparseDropout
from bdl.posteriors import Factorised
from bdl.priors import LogUniform
from tests.arrays import normals

# What E[log q(w) + log |w|] is at its least, where the mean is 0.
LEAST = -0.5 * (np.log(2 * np.pi * np.e) + np.euler_gamma + np.log(2))
INFINITE = math.inf


def exact_kl(log_alpha):
    """E[log q(w) + log |w|] − LEAST under Normal(m, σ²), by quadrature."""
    ratio = math.exp(-log_alpha / 2)
    density = lambda z: math.log(abs(z)) * math.exp(-0.5 * (z - ratio) ** 2) / math.sqrt(2 * math.pi)  # z = w / σ
    low, high = ratio - 12, ratio + 12
    pieces = [(low, 0.0), (0.0, high)] if low < 0 else [(low, high)]
    mean_log = sum(integrate.quad(density, *piece, limit=300)[0] for piece in pieces)
    return mean_log - 0.5 * np.log(2 * np.pi * np.e) - LEAST


def divergence(loc, log_scale):
    return kl_divergence(dist.Normal(loc, jnp.exp(log_scale)), LogUniform())


def test_the_closed_form_is_the_kl_to_its_stated_accuracy_in_value_and_gradient():
    log_alpha, step = np.linspace(-10.0, 10.0, 33), 1e-2
    exact = np.array([[exact_kl(a + d) for a in log_alpha] for d in (-step, 0.0, step)])
    for loc in (0.3, -20.0):  # the KL depends on alpha alone
        log_scale = jnp.asarray(log_alpha / 2 + np.log(abs(loc)), jnp.float32)
        value, slopes = jax.vmap(jax.value_and_grad(divergence, argnums=(0, 1)), (None, 0))(loc, log_scale)
        assert float(value.min()) >= 0
        np.testing.assert_allclose(value, exact[1], atol=0.01)
        slope = (exact[2] - exact[0]) / (2 * step)
        np.testing.assert_allclose(slopes[1] / 2, slope, atol=0.014)  # log alpha = 2 log σ − 2 log |m|
        np.testing.assert_allclose(slopes[0] * loc / -2, slope, atol=0.014)


def test_the_kl_of_draws_differs_by_the_stated_constant():
    posterior = Factorised({"w": SparseDropout(jnp.full(1_000_000, 0.5), jnp.full(1_000_000, -0.7))})
    kl = bdl.kl(jax.random.key(0), posterior, bdl.priors.log_uniform())
    family, draws = posterior.tree["w"], posterior.sample(jax.random.key(1))
    terms = np.asarray(family.distribution.log_prob(draws["w"]) - LogUniform().log_prob(draws["w"]), np.float64)
    assert abs(terms.mean() - LEAST - float(kl) / 1e6) < 0.01 + 5 * terms.std() / 1e3
    np.testing.assert_allclose(kl / 1e6, divergence(0.5, -0.7), rtol=1e-4)


def test_gradients_are_finite_and_the_kl_vanishes_without_a_mean():
    # Mean and log scale at all pairs of extreme values, in float32.
    values = jnp.array([-20.0, -1.0, -1e-20, 0.0, 1e-20, 1e-6, 20.0])
    loc, log_scale = (a.ravel() for a in jnp.meshgrid(values, jnp.array([-20.0, -10.0, 0.0, 20.0])))
    for scalar in (divergence, lambda m, s: SparseDropout(m[None], s[None]).kl(dist.Normal(0.0, 1.0))):
        gradients = jax.vmap(jax.grad(scalar, argnums=(0, 1)))(loc, log_scale)
        assert all(bool(np.isfinite(g).all()) for g in gradients)
    assert float(divergence(0.0, -3.0)) == pytest.approx(0.0, abs=1e-6)
    assert jax.jit(jax.grad(divergence))(0.0, -3.0) == 0.0
    family = SparseDropout(jnp.array([0.0, 1.0]), jnp.array([-3.0, -3.0]))
    assert family.log_alpha.tolist() == [INFINITE, -6.0]
    np.testing.assert_allclose(family.rate, [1.0, np.exp(-6) / (1 + np.exp(-6))], rtol=1e-5)


def test_log_uniform_is_a_prior_without_draws_and_without_a_bound():
    prior = bdl.priors.as_prior(bdl.priors.log_uniform())
    testing.check_prior(prior, {"w": jnp.array([[0.5, -2.0]])})
    np.testing.assert_allclose(prior.log_prob({"w": jnp.array([0.5, -2.0, 3.0])}), -np.log(3.0), rtol=1e-6)
    assert isinstance(bdl.priors.iid(LogUniform()).distribution("w", jnp.zeros(2)), LogUniform)
    with pytest.raises(NotImplementedError, match="integrate to one"):
        LogUniform().sample(jax.random.key(0))
    network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.ones((3, 1))})
    posterior = bdl.variational(network.params, bdl.families.sparse_dropout())
    data = jnp.ones((4, 3)), jnp.ones((4, 1))
    for given, bound in ((prior, False), (bdl.priors.normal(), True)):
        model = bdl.Model(network, bdl.likelihoods.Normal(), given)
        assert bdl.elbo(jax.random.key(0), posterior, model, data, num_data=4).is_bound is bound


def test_sparse_dropout_is_a_family_for_kernels():
    initialiser = bdl.families.sparse_dropout(scale=0.2)
    testing.check_family(initialiser, num_samples=4000)
    assert isinstance(initialiser(jnp.ones((3, 2))), SparseDropout)
    assert isinstance(initialiser(jnp.ones(3)), jax.Array)
    with pytest.raises(ValueError, match="positive"):
        bdl.families.sparse_dropout(scale=0.0)
    low = bdl.variational({"w": jnp.full((400, 300), 0.3, jnp.bfloat16)}, initialiser)
    kl = bdl.kl(jax.random.key(0), low, bdl.priors.log_uniform())
    assert kl.dtype == jnp.float32
    np.testing.assert_allclose(kl, 120_000 * exact_kl(2 * np.log(0.2 / 0.3)), rtol=0.01)


def test_weights_that_the_data_do_not_need_drown_in_noise_and_are_pruned():
    x = normals(0, 200, 8)
    y = x[:, :2] @ jnp.array([[1.0], [-2.0]])
    params = {"kernel": jnp.full((8, 1), 0.1), "bias": jnp.ones(1)}
    network = bdl.network(lambda p, x: x @ p["kernel"] + p["bias"], params)
    model = bdl.Model(network, bdl.likelihoods.Normal(scale=0.1), {"kernel": bdl.priors.log_uniform()})
    posterior = bdl.variational(network.params, bdl.families.sparse_dropout())
    algorithm = bdl.inference.vi(optax.adam(optax.linear_schedule(0.02, 0.0, 2000)))
    fitted = bdl.fit(jax.random.key(2), algorithm, posterior, model, (x, y), num_steps=2000, progress=False)
    pruning = bdl.prune(fitted.posterior)
    keep = pruning.posterior.tree["kernel"].keep
    assert keep.ravel().tolist() == [True] * 2 + [False] * 6
    assert np.array_equal(keep, fitted.posterior.tree["kernel"].log_alpha < 3)
    assert (pruning.kept, pruning.total, pruning.compression) == (2, 8, 4.0)
    prediction = bdl.predict(jax.random.key(3), pruning.posterior, fitted.model, x, num_samples=200)
    assert float(jnp.sqrt(np.mean((prediction.mean - y) ** 2))) < 0.02
    assert float(prediction.epistemic.min()) > 0


def network_posterior():
    params = {
        "hidden": {"kernel": jnp.linspace(-1.0, 1.0, 12).reshape(3, 4), "bias": jnp.ones(4)},
        "head": {"kernel": jnp.linspace(0.1, 0.4, 8).reshape(4, 2)},
        "embedding": jnp.ones((5, 3)),
    }
    families = {"*/kernel": bdl.families.normal(scale=0.5), "embedding": bdl.families.bernoulli_dropout(0.1)}
    return bdl.variational(params, families)


def test_kept_weights_keep_their_draws_and_pruned_ones_are_zero():
    posterior = network_posterior()
    pruning = bdl.prune(posterior, signal_to_noise=1.0)
    before, after = posterior.sample(jax.random.key(0)), pruning.posterior.sample(jax.random.key(0))
    for path in ("hidden", "head"):
        kept = jnp.abs(posterior.mean[path]["kernel"]) >= 0.5
        expected = jnp.where(kept, before[path]["kernel"], 0.0)
        assert np.array_equal(after[path]["kernel"], expected)
        assert np.array_equal(pruning.posterior.mean[path]["kernel"] == 0, ~kept)
        assert np.array_equal(pruning.posterior.tree[path]["kernel"].scale > 0, kept)
    assert np.array_equal(after["hidden"]["bias"], before["hidden"]["bias"])
    assert np.array_equal(after["embedding"], before["embedding"])  # dropout has no scale
    assert [tuple(row) for row in pruning.rows] == [("head/kernel", 0, 8), ("hidden/kernel", 6, 12)]
    assert str(pruning).splitlines()[-2].split() == ["total", "6", "20", "30.00", "%"]
    again = bdl.prune(pruning.posterior, signal_to_noise=1.5)
    assert isinstance(again.posterior.tree["hidden"]["kernel"].family, NormalFamily)
    assert again.kept == 4
    assert bdl.prune(again.posterior, paths="head/*").compression == INFINITE


def test_a_fraction_is_of_the_weights_of_all_arrays_together():
    posterior = network_posterior()
    pruning = bdl.prune(posterior, fraction=0.35)
    assert pruning.kept == 13
    kept = np.concatenate([np.abs(leaf.mean)[np.asarray(leaf.keep)] for leaf in _pruned(pruning)])
    gone = np.concatenate([np.abs(leaf.family.mean)[~np.asarray(leaf.keep)] for leaf in _pruned(pruning)])
    assert kept.min() >= gone.max()
    assert bdl.prune(posterior, fraction=0.0).kept == 20
    alone = bdl.prune(posterior, fraction=0.5, paths="head/*")
    assert [tuple(row) for row in alone.rows] == [("head/kernel", 4, 8)]
    assert isinstance(alone.posterior.tree["hidden"]["kernel"], NormalFamily)


def _pruned(pruning):
    return [leaf for leaf in pruning.posterior.families.values() if isinstance(leaf, Pruned)]


def test_pruned_families_keep_their_contract():
    keep = jnp.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    normal = bdl.families.normal(scale=0.2)
    testing.check_family(lambda array: Pruned(normal(array), keep), num_samples=4000)
    plain = Pruned(bdl.families.bernoulli_dropout(0.3)(jnp.ones((4, 3))), keep)
    assert hasattr(plain, "local")
    assert not hasattr(plain, "view")
    tied = bdl.prune(bdl.variational({"w": jnp.ones((4, 3))}, bdl.families.normal(tied="row"))).posterior.tree["w"]
    assert tied.awaits_use
    assert tied.bind(bdl.networks.Use(in_axes=(0,), fan_in=4)).use.fan_in == 4
    assert not hasattr(plain, "log_prob")


def test_training_goes_on_after_pruning_with_the_kept_weights_alone():
    loc, log_scale = jnp.array([[1.0, 0.01], [-2.0, 0.5]]), jnp.full((2, 2), -1.0)
    pruning = bdl.prune(Factorised({"w": NormalFamily(loc, log_scale)}))
    kept = pruning.posterior.tree["w"].keep
    assert kept.ravel().tolist() == [True, False, True, True]
    key, prior = jax.random.key(0), bdl.priors.normal(scale=0.7)
    kl, gradient = jax.jit(jax.value_and_grad(lambda q: bdl.kl(key, q, prior)))(pruning.posterior)
    alone = Factorised({"w": NormalFamily(loc[kept], log_scale[kept])})
    np.testing.assert_allclose(kl, bdl.kl(key, alone, prior), rtol=1e-6)
    assert gradient.tree["w"].family.loc[0, 1] == 0
    with pytest.raises(ValueError, match="closed-form"):
        bdl.kl(key, pruning.posterior, bdl.priors.as_prior(dist.StudentT(3.0)))


def test_what_cannot_be_pruned_is_refused():
    posterior = network_posterior()
    with pytest.raises(ValueError, match=r"tail/\*.*hidden/kernel"):
        bdl.prune(posterior, paths="tail/*")
    with pytest.raises(ValueError, match=r"hidden/bias.*point mass.*head/kernel"):
        bdl.prune(posterior, paths="hidden/*")
    with pytest.raises(ValueError, match="embedding.*BernoulliDropout"):
        bdl.prune(posterior, paths=["*/kernel", "embedding"])
    with pytest.raises(ValueError, match="two ways"):
        bdl.prune(posterior, signal_to_noise=1.0, fraction=0.5)
    for fraction in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match=r"\[0, 1\)"):
            bdl.prune(posterior, fraction=fraction)
    with pytest.raises(ValueError, match="positive signal_to_noise"):
        bdl.prune(posterior, signal_to_noise=0.0)
    with pytest.raises(ValueError, match="no array"):
        bdl.prune(bdl.variational({"w": jnp.ones(3)}, bdl.families.point))
    with pytest.raises(TypeError, match=r"bdl\.variational"):
        bdl.prune({"w": jnp.ones(3)})


@pytest.fixture(scope="module")
def mnist(load_benchmark):
    return load_benchmark("mnist")


def test_the_benchmark_says_where_data_are_missing(mnist, tmp_path, monkeypatch):
    monkeypatch.delenv("BDL_DATA", raising=False)
    with pytest.raises(SystemExit):
        mnist.main(["sparse"])
    with pytest.raises(SystemExit, match="no file"):
        mnist.main(["sparse", "--data", str(tmp_path)])


@pytest.mark.slow
def test_the_benchmark_runs_on_images_whose_class_is_a_pixel(mnist, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 600)
    images = rng.integers(0, 30, (600, 28, 28)).astype(np.uint8)
    images[np.arange(600), 14, labels + 5] = 255
    arrays = {"x_train": images[:500], "y_train": labels[:500], "x_test": images[500:], "y_test": labels[500:]}
    np.savez(tmp_path / "mnist.npz", **arrays)
    monkeypatch.setattr(mnist, "NUM_VALIDATION", 100)
    part = mnist.read(tmp_path, 255.0, validation=True)
    assert (part.x.shape, part.x_new.shape) == ((400, 784), (100, 784))
    np.testing.assert_array_equal(np.sort(np.concatenate([part.y, part.y_new])), np.sort(labels[:500]))
    for name, settings in mnist.CHOSEN.items():
        monkeypatch.setitem(mnist.CHOSEN, name, dataclasses.replace(settings, widths=(20,)))
    options = ["--epochs", "60", "--learning-rate", "0.01", "--draws", "10", "--output", str(tmp_path / "results")]
    results = mnist.main(["sparse", "bbb", "--data", str(tmp_path), *options])
    assert results["sparse"]["pruned_error"]["predictive"] < 10
    assert results["bbb"]["error"]["mean_weights"] < 10
    assert results["sparse"]["compression"] > 2
    saved = json.loads((tmp_path / "results" / "mnist.json").read_text())
    assert saved["sparse"]["kept"].keys() == {"layers_0/kernel", "layers_2/kernel"}
