"""Posteriors that say nothing are named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bdl

key = jax.random.key(0)
PARAMS = {name: jnp.ones((8, 8)) for name in ("fine", "prior", "point", "dropped", "plain")}


def test_each_kind_of_collapse_is_named():
    family = bdl.families.NormalFamily
    full = lambda value: jnp.full((8, 8), value)
    posterior = bdl.posteriors.Factorised(
        {
            "fine": family(full(1.0), jnp.log(full(0.1))),
            "prior": family(full(0.0), jnp.log(full(0.5))),
            "point": family(full(1.0), jnp.log(full(1e-5))),
            "dropped": bdl.families.bernoulli_dropout(0.95)(full(1.0)),
            "plain": full(1.0),
        }
    )
    network = bdl.network(lambda p, x: sum(x @ w for w in p.values()), PARAMS)
    model = bdl.Model(network, bdl.likelihoods.Normal(), bdl.priors.normal(scale=0.5))
    with pytest.raises(ValueError, match=r"bdl\.bind"):
        bdl.health(posterior, model)
    posterior, model = bdl.bind(posterior, model, jnp.ones((1, 8)))
    found = bdl.health(posterior, model)
    assert {f.path: f.verdict for f in found.findings} == {
        "fine": "healthy",
        "prior": "collapsed to the prior",
        "point": "collapsed to a point",
        "dropped": "dropped",
        "plain": "point",
    }
    assert set(found.sick) == {"prior", "point", "dropped"}
    assert str(found).splitlines()[-1].split()[0] in ("fine", "plain")
    alone = {f.path: f.verdict for f in bdl.health(posterior).findings}
    assert alone["prior"] == "healthy"  # without a prior nobody can tell
    with pytest.raises(TypeError, match="variational"):
        bdl.health(network)


@pytest.mark.slow
def test_the_summary_says_which_local_rule_is_used():
    posterior = bdl.variational(
        PARAMS,
        {
            "fine": bdl.families.normal(0.1),
            "prior": bdl.families.normal(0.1, local="flipout"),
            "point": bdl.families.rank1_normal(),
            "dropped": bdl.families.concrete_dropout(0.2),
            "*": bdl.families.batch_ensemble(2),
        },
    )
    network = bdl.network(lambda p, x: sum(x @ w for w in p.values()), PARAMS)
    posterior, model = bdl.bind(posterior, bdl.Model(network, bdl.likelihoods.Normal()), jnp.ones((1, 8)))
    noise = {row.path: row.noise for row in bdl.summary(posterior, model).rows}
    assert noise == {
        "fine": "local reparameterisation",
        "prior": "Flipout",
        "point": "rank-1 factors",
        "dropped": "input mask",
        "plain": "rank-1 factors",
    }


@pytest.mark.parametrize(
    "initialiser",
    [bdl.families.bernoulli_dropout(0.3), bdl.families.drop_connect(0.3), bdl.families.gaussian_dropout(0.3)],
)
def test_the_spread_of_masks_is_that_of_their_rate(initialiser):
    """Fault guarded against: a small rate called a collapse, as none of a few draws dropped anything."""
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(40, 5)), jnp.float32)
    use = {"w": bdl.networks.Use(in_axes=(0,), fan_in=40)}
    family = initialiser(kernel)
    family = family.bind(use["w"]) if hasattr(family, "bind") else family
    draws = np.asarray(jax.jit(jax.vmap(family.sample))(jax.random.split(jax.random.key(1), 4_000)), np.float64)
    found = bdl.health(bdl.posteriors.Factorised({"w": family})).findings[0]
    expected = np.sqrt((draws.var(0)).mean() / (draws**2).mean())
    np.testing.assert_allclose(found.spread, expected, rtol=0.03)
    np.testing.assert_allclose(found.spread, np.sqrt(0.3), rtol=1e-5)


def test_a_small_rate_is_no_collapse():
    posterior = bdl.posteriors.Factorised({"w": bdl.families.bernoulli_dropout(1e-4)(jnp.ones((8, 8)))})
    network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.ones((8, 8))})
    posterior, _ = bdl.bind(posterior, bdl.Model(network, bdl.likelihoods.Normal()), jnp.ones((1, 8)))
    assert bdl.health(posterior).findings[0].verdict == "healthy"
