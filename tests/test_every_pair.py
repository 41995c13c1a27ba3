"""Every built-in family under every built-in prior: a right objective, or an error that says why not."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import bdl
from bdl._family import is_family
from bdl._hyper import draw_hypers, has_hypers
from bdl.kl import closed_kl, drawn_kl, has_density, refuse_unbounded
from bdl.networks import Use
from tests.slow import slow

SHAPE, S = (4, 3), 6000
ARRAY = jnp.linspace(-0.6, 1.0, 12).reshape(SHAPE)
USE = Use(in_axes=(0,), fan_in=4)

FAMILIES = {
    "point": bdl.families.point,
    "normal": bdl.families.normal(0.3),
    "normal, per row": bdl.families.normal(0.3, tied="row"),
    "normal, per array": bdl.families.normal(0.3, tied="array"),
    "normal, relative": bdl.families.normal(0.3, relative=True),
    "normal, Flipout": bdl.families.normal(0.3, local="flipout"),
    "low_rank_normal": bdl.families.low_rank_normal(2, scale=0.3),
    "full_normal": bdl.families.full_normal(0.3),
    "radial": bdl.families.radial(0.5),
    "bernoulli_dropout": bdl.families.bernoulli_dropout(0.2),
    "concrete_dropout": bdl.families.concrete_dropout(0.2),
    "drop_connect": bdl.families.drop_connect(0.2),
    "gaussian_dropout, per row": bdl.families.gaussian_dropout(0.2, noise="row"),
    "gaussian_dropout, per weight": bdl.families.gaussian_dropout(0.2, noise="weight"),
    "sparse_dropout": bdl.families.sparse_dropout(),
    "rank1_normal": bdl.families.rank1_normal(0.1),
    "batch_ensemble": bdl.families.batch_ensemble(3),
    "masksembles": bdl.families.masksembles(3),
}
PARAMS = {"w": ARRAY}
PRIORS = {
    "fan_in": bdl.priors.fan_in(),
    "fan_average": bdl.priors.fan_average(),
    "normal": bdl.priors.normal(0.1, 0.8),
    "normal, learned": bdl.priors.normal(0.0, bdl.learned(0.8)),
    "laplace": bdl.priors.laplace(0.5),
    "student_t": bdl.priors.student_t(4.0, 0.5),
    "scale_mixture": bdl.priors.scale_mixture(0.5, 1.0, 0.1),
    "log_uniform": bdl.priors.log_uniform(),
    "around": bdl.priors.around(PARAMS, scale=0.5),
    "hyper": bdl.priors.iid(dist.Normal, loc=0.0, scale=bdl.priors.hyper(dist.HalfCauchy(1.0))),
    "horseshoe": bdl.priors.horseshoe(PARAMS),
    "by_path": bdl.priors.by_path({"w": dist.Cauchy(0.0, 1.0)}),
    "flat": bdl.priors.flat(),
    "function": bdl.priors.as_prior(lambda p: -jnp.sum(p["w"].astype(jnp.float32) ** 2)),
}
# Their prior is that of the kernel which their members share.
ON_FACTORS = ("rank1_normal", "batch_ensemble", "masksembles")
MASKED = ("bernoulli_dropout", "concrete_dropout", "drop_connect")


def refusal(family, prior):
    """What the error says, where the pair has no objective."""
    without_density = family in (*MASKED, *ON_FACTORS, "point", "gaussian_dropout, per row")
    if without_density and prior in ("normal, learned", "hyper", "horseshoe"):
        return "without bound"
    if family in (*MASKED, *ON_FACTORS, "point") and prior == "log_uniform":
        return "infinite"
    return None


# Their rules are those of another family of the table.
ALIKE = ("normal, per row", "normal, per array", "gaussian_dropout, per row", "drop_connect", "full_normal")


@pytest.mark.parametrize("family", [slow(f) if f in ALIKE else f for f in FAMILIES])
def test_under_every_prior(family):
    leaf = FAMILIES[family](ARRAY)
    leaf = leaf.bind(USE) if hasattr(leaf, "bind") else leaf
    posterior = bdl.posteriors.Factorised({"w": leaf})
    keys = jax.random.split(jax.random.key(0), S)
    draws = jax.jit(jax.vmap(lambda k: posterior.sample(k)["w"]))(keys)
    priors = {}
    for name, prior in PRIORS.items():
        prior = prior.bind({"w": USE}) if hasattr(prior, "bind") else prior
        expected = refusal(family, name)
        if expected:
            with pytest.raises(ValueError, match=expected):
                bdl.kl(jax.random.key(1), posterior, prior)
            continue
        refuse_unbounded(posterior, prior)
        priors[name] = draw_hypers(jax.random.key(2), prior)[0] if has_hypers(prior) else prior
    drawn = {}

    def log_densities(leaf, priors, draws):
        """log q, and log p by prior; of the kernel that members share, where the prior is that kernel's."""
        quasi = -leaf.entropy() if is_family(leaf) else 0.0
        log_q = jax.vmap(leaf.log_prob)(draws) if hasattr(leaf, "log_prob") else jnp.full(S, quasi)
        w, log_p = jnp.broadcast_to(leaf.kernel, draws.shape) if family in ON_FACTORS else draws, {}
        for name, prior in priors.items():
            if drawn[name] or name == "log_uniform":
                continue  # the draws are the estimate; the approximation for the improper prior has tests of its own
            distribution = prior.distribution("w", ARRAY)
            terms = 0.0 if distribution is None else distribution.log_prob(w)
            log_p[name] = jnp.broadcast_to(terms, w.shape).sum((1, 2))
        return log_q, log_p

    @jax.jit
    def all_terms(posterior, priors, draws):
        def divergence(posterior, name):
            closed, drawn[name] = closed_kl(posterior, priors[name])
            rest = drawn_kl(posterior, priors[name], {"w": draws[0]}, drawn[name]) if drawn[name] else 0.0
            return closed + rest

        found = {name: jax.value_and_grad(divergence)(posterior, name) for name in priors}
        return found, *log_densities(posterior.tree["w"], priors, draws)

    found, log_q, log_p = all_terms(posterior, priors, draws)
    for name, (value, gradient) in found.items():
        assert np.isfinite(value), name
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient)), name
    for name, log_density in log_p.items():
        terms, value = np.asarray(log_q, np.float64) - np.asarray(log_density, np.float64), found[name][0]
        assert abs(terms.mean() - float(value)) < 5 * terms.std() / np.sqrt(S) + 1e-3 * (1 + abs(value)), name


def test_a_support_that_does_not_match_is_refused():
    for prior in (dist.HalfNormal(1.0), dist.Beta(1.0, 1.0), dist.Dirichlet(jnp.ones(3))):
        with pytest.raises(ValueError, match="real|one number"):
            bdl.priors.as_prior(prior)


def test_densities_are_what_makes_a_bound():
    bounds = {name: has_density(f(ARRAY)) for name, f in FAMILIES.items()}
    assert {name for name, bound in bounds.items() if not bound} == {
        "point",
        *MASKED,
        *ON_FACTORS,
        "gaussian_dropout, per row",
    }
