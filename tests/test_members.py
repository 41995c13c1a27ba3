"""Families of K members: BatchEnsemble, Masksembles and mixtures of rank-1 factors."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bdl
from bdl import testing
from bdl._outputs import draw_outputs
from bdl.families._masksembles import fixed_masks
from tests.arrays import normals
from tests.slow import slow

key = jax.random.key(0)
PARAMS = {
    "a": {"kernel": normals(1, 5, 6), "bias": jnp.zeros(6)},
    "b": {"kernel": normals(2, 6, 2)},
}
X = normals(3, 7, 5)


def apply(params, x):
    return jnp.tanh(x @ params["a"]["kernel"] + params["a"]["bias"]) @ params["b"]["kernel"]


network = bdl.network(apply, PARAMS)
model = bdl.Model(network, bdl.likelihoods.Normal(scale=0.1), bdl.priors.normal())
INITIALISERS = {
    "batch_ensemble": bdl.families.batch_ensemble(members=3),
    "masksembles": bdl.families.masksembles(members=3, overlap=1.5),
    "rank1_normal": bdl.families.rank1_normal(scale=0.2),
    "rank1_normal, a mixture": bdl.families.rank1_normal(scale=0.2, members=3),
}


def bound(initialiser):
    return bdl.bind(bdl.variational(PARAMS, initialiser), model, X)[0]


@pytest.mark.parametrize("name", [slow(n) if "mixture" in n else n for n in INITIALISERS])
def test_conformance(name):
    testing.check_family(INITIALISERS[name], num_samples=8000)
    testing.check_posterior(bound(INITIALISERS[name]), PARAMS)


@pytest.mark.parametrize("name", ["batch_ensemble", "masksembles"])
def test_prediction_takes_each_member_once(name):
    posterior = bound(INITIALISERS[name])
    prediction = bdl.predict(key, posterior, model, X, return_draws=True)
    by_hand = jnp.stack([apply(posterior.member(k).tree, X) for k in range(3)])
    np.testing.assert_allclose(prediction.draws, by_hand, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(prediction.epistemic, by_hand.var(0), rtol=1e-3, atol=1e-5)  # 1/S: they are all
    assert float(by_hand.std(0).min()) > 0
    assert np.array_equal(bdl.predict(key, posterior, model, X).mean, bdl.predict(key, posterior, model, X).mean)


def test_a_member_is_the_kernel_times_its_factors():
    family = bound(INITIALISERS["batch_ensemble"]).tree["a"]["kernel"]
    expected = family.kernel * family.rows[1] * family.outputs[1]
    assert family.rows.shape == (3, 5, 1)
    assert family.outputs.shape == (3, 1, 6)
    np.testing.assert_allclose(family.member(1), expected, rtol=1e-6)


@pytest.mark.parametrize("name", [slow("batch_ensemble"), "masksembles", "rank1_normal, a mixture"])
def test_an_example_has_the_same_member_in_every_layer(name):
    posterior = bound(INITIALISERS[name])
    # Factors of the members that cannot be confused: member k multiplies each of the two layers by 10ᵏ.
    ten = 10.0 ** jnp.arange(3.0)

    def marked(family):
        kernel = jnp.ones_like(family.kernel)
        ones = lambda a: jnp.ones_like(a) * ten.reshape(3, *(1,) * (a.ndim - 1))
        if name == "batch_ensemble":
            values = {"kernel": kernel, "rows": ones(family.rows), "outputs": jnp.ones_like(family.outputs)}
        elif name == "masksembles":
            values = {"kernel": kernel, "masks": ones(family.masks)}
        else:
            tiny = lambda a: jnp.full_like(a, -20.0)
            values = {
                "kernel": kernel,
                "row_loc": ones(family.row_loc),
                "output_loc": jnp.ones_like(family.output_loc),
                "row_log_scale": tiny(family.row_log_scale),
                "output_log_scale": tiny(family.output_log_scale),
            }
        return dataclasses.replace(family, **values)

    tree = {p: {"kernel": marked(posterior.tree[p]["kernel"])} for p in ("a", "b")}
    linear = bdl.network(
        lambda p, x: (x @ p["a"]["kernel"]) @ p["b"]["kernel"], {p: {"kernel": PARAMS[p]["kernel"]} for p in tree}
    )
    marked_model = bdl.Model(linear, bdl.likelihoods.Normal(), bdl.priors.normal())
    posterior = bdl.posteriors.Factorised(tree)
    x = jnp.ones((60, 5))
    outputs, _ = draw_outputs(key, posterior, marked_model, x, noise="local")
    found = {round(float(v)) for v in np.log10(np.asarray(outputs) / 30).ravel()}
    assert found == {0, 2, 4}  # a mixed pair would be 1 or 3
    assert {round(float(np.log10(np.asarray(apply_marked(posterior, k)) / 30))) for k in range(20)} == {0, 2, 4}


def apply_marked(posterior, index):
    draw = posterior.sample(jax.random.fold_in(key, index))
    return (jnp.ones((1, 5)) @ draw["a"]["kernel"] @ draw["b"]["kernel"])[0, 0]


def test_masks_keep_equally_many_rows_and_leave_none_out():
    for members, rows, overlap in ((4, 100, 2.0), (4, 10, 1.0), (3, 7, 5.0), (5, 3, 2.0)):
        masks = fixed_masks(members, rows, overlap) > 0
        assert masks.any(0).all()
        assert len(set(masks.sum(1))) == 1
    assert fixed_masks(4, 10, 1.0).min() == 1
    shares = [(fixed_masks(4, 400, s) > 0).mean() for s in (1.0, 1.5, 2.0, 3.0)]
    np.testing.assert_allclose(shares, [1 / (s * (1 - (1 - 1 / s) ** 4)) for s in (1.0, 1.5, 2.0, 3.0)], atol=0.01)


def test_rank1_factors_have_the_moments_they_say():
    family = bound(bdl.families.rank1_normal(scale=0.2)).tree["a"]["kernel"]
    draws = jax.vmap(family.sample)(jax.random.split(jax.random.clone(key), 40_000))
    np.testing.assert_allclose(draws.mean(0), family.kernel, atol=5 * float(draws.std(0).max()) / 200)
    # Var(r s) = (1 + 0.04)² − 1, and entries of one row correlate as E[s]² Var(r).
    ratio = draws / family.kernel
    np.testing.assert_allclose(ratio.var(0), 1.04**2 - 1, rtol=0.05)
    covariance = ((ratio[:, 0, 0] - 1) * (ratio[:, 0, 1] - 1)).mean()
    np.testing.assert_allclose(covariance, 0.04, rtol=0.08)


@pytest.mark.parametrize("name", [slow("batch_ensemble"), "rank1_normal, a mixture"])
def test_members_learn_to_differ_and_the_objective_is_no_bound(name):
    y = jnp.sin(X[:, :2])
    posterior = bdl.variational(PARAMS, INITIALISERS[name])
    algorithm = bdl.inference.vi(optax.adam(1e-2))
    fitted = bdl.fit(key, algorithm, posterior, model, (X, y), num_steps=100, batch_size=7, progress=False)
    assert fitted.history.elbo[-20:].mean() > fitted.history.elbo[:20].mean()
    terms = jax.jit(lambda *given: bdl.elbo(key, *given, num_data=7))(fitted.posterior, fitted.model, (X, y))
    assert not terms.is_bound
    assert bool(np.isfinite(terms.elbo))


def test_the_optimiser_is_not_given_arrays_that_are_not_there_yet():
    algorithm = bdl.inference.vi(optax.adam(1e-2))
    posterior = bdl.variational(PARAMS, INITIALISERS["batch_ensemble"])
    with pytest.raises(ValueError, match=r"bdl\.bind"):
        algorithm.init(key, posterior, model, num_data=7)
    algorithm.init(key, bound(INITIALISERS["batch_ensemble"]), model, num_data=7)


def test_different_numbers_of_members_are_refused():
    globs = {"a/*": bdl.families.batch_ensemble(members=2), "b/*": bdl.families.batch_ensemble(members=3)}
    with pytest.raises(ValueError, match="same number"):
        bdl.variational(PARAMS, globs).sample(key)
    for bad in (0, 2.5):
        with pytest.raises(ValueError, match="whole number"):
            bdl.families.masksembles(members=bad)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["masksembles", "rank1_normal, a mixture"])
def test_a_convolution_and_a_scan_have_factors_along_their_own_axes(name):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(6, (3, 3), strides=2, kernel_dilation=2, feature_group_count=2)(x)
            x = nn.RNN(nn.GRUCell(4))(x.reshape(x.shape[0], -1, 6))
            return nn.Dense(1)(x[:, -1])

    x = normals(4, 2, 7, 7, 4)
    net = bdl.from_linen(Net(), Net().init(key, x))
    deep = bdl.Model(net, bdl.likelihoods.Normal())
    posterior, bound_model = bdl.bind(bdl.variational(net.params, INITIALISERS[name]), deep, x)
    each = lambda function, key: np.asarray(jax.jit(jax.vmap(function))(jax.random.split(key, 1500)), np.float64)
    draws = each(lambda k: bound_model.apply(posterior.sample(k), x)[0], jax.random.clone(key))
    local = each(lambda k: draw_outputs(k, posterior, bound_model, x, noise="local")[0], jax.random.key(5))
    for what, first, second in (
        ("mean", draws, local),
        ("variance", (draws - draws.mean(0)) ** 2, (local - local.mean(0)) ** 2),
    ):
        error = 5 * np.sqrt((first.var(0) + second.var(0)) / 1500) + 1e-4
        assert np.all(np.abs(first.mean(0) - second.mean(0)) < error), (name, what)


@pytest.mark.parametrize("value", [-20.0, 20.0])
def test_gradients_are_finite_at_extreme_values(value):
    family = bound(bdl.families.rank1_normal(scale=0.2)).tree["a"]["kernel"]
    extreme = jnp.full_like(family.row_log_scale, value)
    family = dataclasses.replace(family, row_log_scale=extreme)
    loss = lambda f: f.kl(bdl.priors.normal().distribution("w", f.kernel)) + f.sample(key).sum()
    assert all(bool(np.isfinite(g).all()) for g in jax.tree.leaves(jax.jit(jax.grad(loss))(family)))
    low = jax.tree.map(lambda a: a.astype(jnp.bfloat16), PARAMS)
    for initialiser in INITIALISERS.values():
        posterior = bdl.variational(low, initialiser)
        draw, kl = jax.eval_shape(lambda q: (q.sample(key), bdl.kl(key, q, bdl.priors.normal())), posterior)
        assert draw["b"]["kernel"].dtype == jnp.bfloat16
        assert kl.dtype == jnp.float32
