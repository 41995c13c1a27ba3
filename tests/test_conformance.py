"""All built-in priors and likelihoods pass the suite that users are given, and broken ones do not."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest

import bdl
from bdl import testing
from tests.arrays import normals

PARAMS = {
    "hidden": {"kernel": normals(0, 3, 4), "bias": jnp.ones(4)},
    "norm": {"scale": 1.1 * jnp.ones(4)},
}

PRIORS = {
    "fan_in": bdl.priors.fan_in(),
    "fan_in, learned": bdl.priors.fan_in(gain=bdl.learned(1.0)),
    "normal": bdl.priors.normal(0.1, 0.5),
    "StudentT": dist.StudentT(4.0, 0.0, 0.5),
    "Laplace": dist.Laplace(0.1, 0.5),
    "mixture": dist.MixtureSameFamily(
        dist.Categorical(jnp.array([0.3, 0.7])), dist.Normal(jnp.zeros(2), jnp.array([1.0, 0.1]))
    ),
    "by_path": {"*/kernel": dist.Normal(0.0, 0.3), "norm/*": bdl.priors.fan_in()},
    "flat": bdl.priors.flat(),
    "function": lambda params: -sum(jnp.sum(a.astype(jnp.float32) ** 2) for a in jax.tree.leaves(params)),
}

OUTPUTS = normals(1, 6, 4)
LIKELIHOODS = {
    "Normal": (bdl.likelihoods.Normal(scale=0.3), OUTPUTS, OUTPUTS + 0.1),
    "Normal, learned": (bdl.likelihoods.Normal(scale=bdl.learned(0.3)), OUTPUTS, OUTPUTS + 0.1),
    "HeteroscedasticNormal": (bdl.likelihoods.HeteroscedasticNormal(), OUTPUTS, OUTPUTS[:, :2]),
    "HeteroscedasticNormal, two heads": (
        bdl.likelihoods.HeteroscedasticNormal(),
        (OUTPUTS[:, :2], OUTPUTS[:, 2:]),
        OUTPUTS[:, :2],
    ),
    "Categorical": (bdl.likelihoods.Categorical(), OUTPUTS, jnp.arange(6) % 4),
    "function": (lambda f: dist.Poisson(jnp.exp(f)), OUTPUTS, jnp.ones((6, 4), int)),
}


@pytest.mark.parametrize("name", PRIORS)
def test_priors(name):
    testing.check_prior(PRIORS[name], PARAMS)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihoods(name):
    testing.check_likelihood(*LIKELIHOODS[name])


def test_the_suite_finds_broken_priors():
    for broken, promise in (
        (lambda p: -jnp.sum(p["hidden"]["kernel"] ** 2, axis=0), "one number|scalar"),
        (lambda p: jnp.log(p["hidden"]["bias"] - 1.0).sum(), "finite"),
    ):
        with pytest.raises((AssertionError, ValueError), match=promise):
            testing.check_prior(broken, PARAMS)


def test_the_suite_finds_broken_likelihoods():
    centred = lambda f: dist.Normal(f - f.mean(0), 1.0)  # an example depends on the others
    with pytest.raises(AssertionError, match="batch"):
        testing.check_likelihood(centred, OUTPUTS, OUTPUTS)
    with pytest.raises(AssertionError, match="finite"):
        testing.check_likelihood(lambda f: dist.Normal(f, jnp.sqrt(f - f)), OUTPUTS, OUTPUTS + 1.0)
