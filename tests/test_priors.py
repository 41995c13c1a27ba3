"""Priors: distributions stored faithfully, fan-in scales, globs, one trace, learned numbers, clear errors."""

import os
import re
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

from bdl import priors
from bdl._learned import learned, partition
from bdl.networks import Use
from bdl.priors._stored import store
from tests.arrays import normals

KERNEL = jnp.linspace(-2.0, 3.0, 12).reshape(3, 4)
PARAMS = {
    "hidden": {"kernel": KERNEL, "bias": jnp.array([0.5, -1.0, 0.0, 2.0])},
    "norm": {"scale": jnp.array([1.5, 0.5])},
}


def categorical() -> dist.Distribution:
    return dist.Categorical(probs=jnp.array([0.25, 0.75]))


DISTRIBUTIONS = {
    "normal": lambda: dist.Normal(5.0, 2.0),
    "integers": lambda: dist.Normal(0, 3),
    "laplace": lambda: dist.Laplace(-1.0, 0.5),
    "student": lambda: dist.StudentT(6.0, 1.0, 2.0),
    "cauchy": lambda: dist.Cauchy(1.0, 3.0),
    "expanded": lambda: dist.Normal(1.0, 2.0).expand([4]),
    "mixture": lambda: dist.MixtureSameFamily(
        categorical(), dist.Normal(jnp.array([1.0, -0.5]), jnp.array([2.0, 0.1]))
    ),
    "two kinds": lambda: dist.MixtureGeneral(categorical(), [dist.Normal(0.0, 1.0), dist.Laplace(2.0, 0.5)]),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_stored_distribution_is_the_original(name):
    original = DISTRIBUTIONS[name]()
    prior = priors.iid(original)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(prior))
    np.testing.assert_allclose(
        jax.jit(lambda w: prior.log_prob(w))({"w": KERNEL}), original.log_prob(KERNEL).sum(), rtol=1e-6
    )


@pytest.mark.parametrize("name", ["normal", "laplace", "student", "mixture"])
def test_moments_of_a_stored_distribution_are_those_of_its_samples(name):
    """Fault guarded against: a variance written into a scale."""
    original, count = DISTRIBUTIONS[name](), 200_000
    draws = np.asarray(store(original).rebuild().sample(jax.random.key(0), (count,)), np.float64)
    centred = (draws - float(original.mean)) ** 2
    assert abs(draws.mean() - float(original.mean)) < 5 * draws.std() / np.sqrt(count)
    assert abs(centred.mean() - float(original.variance)) < 5 * centred.std() / np.sqrt(count)


def test_arguments_are_what_is_stored():
    """Fault guarded against: numpyro's compound distributions carry copies that go stale."""
    stored = store(dist.StudentT(6.0, 1.0, 2.0))
    moved = eqx.tree_at(lambda s: s.arguments["loc"], stored, jnp.float32(3.0))
    np.testing.assert_allclose(moved.rebuild().log_prob(0.5), stats.t.logpdf(0.5, 6.0, 3.0, 2.0), rtol=1e-5)


@pytest.mark.slow
def test_leaves_do_not_depend_on_the_hash_seed(tmp_path):
    """Fault guarded against: a saved Normal(5, 2) came back as Normal(2, 5)."""
    code = (
        "import sys, equinox as eqx, jax.numpy as jnp, numpyro.distributions as d; from bdl import priors\n"
        "action, path = sys.argv[1:]\n"
        "n, t = ((5., 2.), (3., 1., 2.)) if action == 'save' else ((0., 1.), (1., 0., 1.))\n"
        "prior = priors.by_path({'a': d.Normal(*n), 'b': d.StudentT(*t)})\n"
        "if action == 'save': eqx.tree_serialise_leaves(path, prior)\n"
        "else: prior = eqx.tree_deserialise_leaves(path, prior)\n"
        "print(float(prior.log_prob({'a': jnp.ones(2), 'b': jnp.ones(1)})))"
    )
    printed = []
    for seed, action in (("1", "save"), ("2", "load")):
        command = [sys.executable, "-c", code, action, str(tmp_path / "prior.eqx")]
        environment = os.environ | {"PYTHONHASHSEED": seed}
        printed.append(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert printed[0] == printed[1]
    truth = stats.norm.logpdf(1.0, 5.0, 2.0) * 2 + stats.t.logpdf(1.0, 3.0, 1.0, 2.0)
    np.testing.assert_allclose(float(printed[0]), truth, rtol=1e-5)


def test_four_scales_cost_one_trace():
    traces = []

    @jax.jit
    def log_prob(prior):
        traces.append(None)
        return prior.log_prob({"w": KERNEL})

    scales = np.array([0.1, 0.5, 1.0, 3.0])
    expected = [stats.norm.logpdf(np.asarray(KERNEL), 0.0, scale).sum() for scale in scales]
    np.testing.assert_allclose([log_prob(priors.normal(scale=scale)) for scale in scales], expected, rtol=1e-5)
    np.testing.assert_allclose([log_prob(priors.iid(dist.Normal(0.0, s))) for s in scales], expected, rtol=1e-5)
    assert len(traces) == 1
    vmapped = jax.vmap(lambda scale: priors.normal(scale=scale).log_prob({"w": KERNEL}))(jnp.asarray(scales))
    np.testing.assert_allclose(vmapped, expected, rtol=1e-5)


def test_only_marked_numbers_are_learned():
    prior = priors.by_path(
        {"a": priors.normal(0.5, learned(2.0)), "b": priors.fan_in(learned(3.0)), "c": dist.Cauchy(0, 1)}
    )
    free, fixed = partition(prior)
    assert len(jax.tree.leaves(free)) == 2
    assert len(jax.tree.leaves(fixed)) == 3
    weights = {"a": KERNEL, "b": KERNEL, "c": KERNEL}

    def log_prob(free):
        return eqx.combine(free, fixed).log_prob(weights)

    expected = stats.norm.logpdf(np.asarray(KERNEL), 0.5, 2.0).sum() + stats.cauchy.logpdf(np.asarray(KERNEL)).sum()
    expected += stats.norm.logpdf(np.asarray(KERNEL), 0.0, 1.0).sum()  # gain 3 over 3 inputs
    np.testing.assert_allclose(log_prob(free), expected, rtol=1e-5)
    # d log p / d log σ = Σ (w − m)² / σ² − 1, and a variance's logarithm has half of it.
    by_scale, by_gain = jax.tree.leaves(jax.jit(jax.grad(log_prob))(free))
    np.testing.assert_allclose(by_scale, np.sum((np.asarray(KERNEL) - 0.5) ** 2 / 4 - 1), rtol=1e-5)
    np.testing.assert_allclose(by_gain, np.sum(np.asarray(KERNEL) ** 2 - 1) / 2, rtol=1e-5)
    for extreme in (-20.0, 20.0):
        moved = jax.tree.map(lambda a, value=extreme: jnp.full_like(a, value), free)
        assert all(bool(np.isfinite(g)) for g in jax.tree.leaves(jax.jit(jax.grad(log_prob))(moved)))


def test_fan_in_scales():
    prior = priors.fan_in()
    scale = {path: float(prior.distribution(path, array).scale) for path, array in priors_paths(PARAMS)}
    np.testing.assert_allclose(scale["hidden/kernel"], np.sqrt(2 / 3), rtol=1e-6)
    assert (scale["hidden/bias"], scale["norm/scale"]) == (1.0, 1.0)
    expected = stats.norm.logpdf(np.asarray(KERNEL), 0.0, np.sqrt(2 / 3)).sum()
    expected += (
        stats.norm.logpdf(PARAMS["hidden"]["bias"]).sum() + stats.norm.logpdf(PARAMS["norm"]["scale"], 1.0).sum()
    )
    np.testing.assert_allclose(prior.log_prob(PARAMS), expected, rtol=1e-5)


def priors_paths(params):
    return [(f"{outer}/{inner}", array) for outer, branch in params.items() for inner, array in branch.items()]


def test_fan_in_keeps_the_size_of_activations():
    """Moments of its draws, through layers of any width."""
    sizes = []
    for width in (64, 256):
        x = normals(1, 200, width)
        draw = priors.fan_in().distribution("w", jnp.zeros((width, 512))).sample(jax.random.key(2), (width, 512))
        sizes.append(float(jnp.mean((x @ draw) ** 2)))
    # Var = 2 a unit; its mean over 512 units of 200 dependent rows is within 10 %.
    np.testing.assert_allclose(sizes, 2.0, rtol=0.1)


def test_fan_in_takes_what_the_network_was_seen_to_do():
    seen = {
        "conv": ((3, 3, 8, 4), Use(in_axes=(2,), fan_in=72), 72),
        "heads": ((16, 2, 8), Use(in_axes=(0,), fan_in=16), 16),
        "vector": ((5,), Use(in_axes=(0,), fan_in=5), 5),
        "embedding": ((100, 8), Use(in_axes=(0,), fan_in=1), 1),
        "bias": ((4,), Use(fan_in=1), 1),
        "positions": ((1, 7, 4), Use(fan_in=1), 1),
        "unknown": ((3, 2, 4), Use(in_axes=(0, 1), fan_in=0), 6),
    }
    params = {path: jnp.zeros(shape) for path, (shape, _, _) in seen.items()}
    uses = {path: use for path, (_, use, _) in seen.items()}
    prior = priors.fan_in(gain=1.0)
    with pytest.raises(ValueError, match=r"'conv', of shape \(3, 3, 8, 4\).*bdl\.bind\(posterior, model, x\)"):
        prior.log_prob(params)
    assert not prior.bound
    for bound in (prior.bind(uses), priors.by_path({"*": prior}).bind(uses)):
        assert bound.bound
        inputs = [1 / float(bound.distribution(path, array).scale) ** 2 for path, array in params.items()]
        np.testing.assert_allclose(inputs, [expected for _, _, expected in seen.values()], rtol=1e-6)
    same = priors.fan_in(gain=2.0).bind(dict(reversed(uses.items())))
    assert jax.tree.structure(prior.bind(uses)) == jax.tree.structure(same)


def test_log_prob_is_summed_in_float32():
    w = jnp.full((300, 300), 0.5, jnp.bfloat16)
    for prior in (priors.normal(), priors.as_prior(lambda params: dist.Normal(0, 1).log_prob(params["w"]).sum())):
        assert prior.log_prob({"w": w}).dtype == jnp.float32
    np.testing.assert_allclose(priors.normal().log_prob({"w": w}), w.size * stats.norm.logpdf(0.5), rtol=1e-5)


def test_the_first_glob_wins_and_the_rest_is_flat():
    prior = priors.as_prior({"hidden/bias": dist.Laplace(0.0, 1.0), "hidden/*": dist.Normal(0.0, 2.0)}, PARAMS)
    expected = stats.laplace.logpdf(PARAMS["hidden"]["bias"]).sum() + stats.norm.logpdf(KERNEL, 0.0, 2.0).sum()
    np.testing.assert_allclose(prior.log_prob(PARAMS), expected, rtol=1e-5)
    assert prior.distribution("norm/scale", PARAMS["norm"]["scale"]) is None
    same = priors.by_path({"norm/*": priors.flat(), **dict(zip(prior.globs, prior.priors, strict=True))})
    np.testing.assert_allclose(same.log_prob(PARAMS), expected, rtol=1e-5)


def test_a_glob_without_a_match_lists_the_paths():
    spec = {"*/kernel": dist.Normal(0.0, 1.0), "head/*": dist.Normal(0.0, 1.0)}
    message = re.escape("'head/*' matches no parameter; the paths are hidden/bias, hidden/kernel, norm/scale")
    with pytest.raises(ValueError, match=message):
        priors.as_prior(spec, PARAMS)
    with pytest.raises(ValueError, match=message):
        priors.by_path(spec).log_prob(PARAMS)


def test_what_is_taken_for_a_prior():
    assert isinstance(priors.as_prior(), priors.FanIn)
    prior = priors.normal()
    assert priors.as_prior(prior) is prior
    function = priors.as_prior(lambda params: -params["w"].sum())
    assert float(function.log_prob({"w": jnp.ones(3)})) == -3.0
    assert all(
        isinstance(p, priors.Prior) for p in (prior, function, priors.fan_in(), priors.by_path({}), priors.flat())
    )
    with pytest.raises(ValueError, match=r"must return one number.*shape \(3,\)"):
        priors.as_prior(lambda params: params["w"]).log_prob({"w": jnp.ones(3)})
    for wrong in (1.0, "normal", dist.Normal):
        with pytest.raises(TypeError, match="expected a prior, a numpyro distribution"):
            priors.as_prior(wrong)
    with pytest.raises(TypeError, match=r"'w' must be a numpyro distribution.*pass it alone"):
        priors.as_prior({"w": lambda params: 0.0})


class Forgetful(dist.Distribution):
    """Does not keep its constructor's argument."""

    support = dist.constraints.real

    def __init__(self, rate):
        self._scale = 1 / rate
        super().__init__()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: priors.iid(dist.HalfNormal(1.0)), ValueError, "weights take any real value, but the support of HalfN"),
        (lambda: priors.iid(dist.Uniform(-1.0, 1.0)), ValueError, "the support of Uniform is Interval"),
        (lambda: priors.iid(dist.Poisson(1.0)), ValueError, "weights take any real value"),
        (lambda: priors.iid(dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2))), ValueError, r"shape \(2,\)"),
        (lambda: priors.iid(Forgetful(2.0)), TypeError, "'rate', so it cannot be stored. Pass a function"),
        (lambda: priors.normal(scale=-1.0), ValueError, "`scale` of Normal must be Positive.*got -1.0"),
        (lambda: priors.normal(scale=learned(0.0)), ValueError, "`scale` of Normal must be Positive"),
        (lambda: priors.fan_in(gain=0.0), ValueError, "`gain` must be positive, got 0.0"),
        (lambda: priors.iid(dist.Normal, scle=1.0), TypeError, "unexpected keyword argument 'scle'"),
        (lambda: priors.iid(dist.Normal(0.0, 1.0), scale=1.0), TypeError, "Pass one or other"),
        (lambda: priors.iid(dist.Normal(jnp.zeros(3), 1.0)).log_prob({"w": KERNEL}), ValueError, "'w' has batch shape"),
    ],
)
def test_errors_name_what_is_wrong(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_prior_of_ones_own():
    class Funnel(priors.FactorisedPrior):
        scale: jax.Array

        def distribution(self, path, array):
            return None if path.endswith("bias") else dist.Normal(0.0, self.scale)

    prior = Funnel(jnp.float32(2.0))
    assert priors.as_prior(prior) is prior
    params = {"hidden": PARAMS["hidden"]}
    np.testing.assert_allclose(prior.log_prob(params), stats.norm.logpdf(KERNEL, 0.0, 2.0).sum(), rtol=1e-5)
    assert prior.bind({}) is prior
