"""Networks of which only a part is random: by path globs, and what no draw touches is computed once."""

import fnmatch

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

import bdl
from tests.arrays import filled, normals

key = jax.random.key(0)
X = normals(1, 6, 5)


class Adapted(nn.Module):
    """A trunk with a low-rank adapter beside its kernel, and a head."""

    @nn.compact
    def __call__(self, x):
        for i in range(3):
            down = nn.Dense(2, use_bias=False, name=f"adapter_{i}_down")(x)
            x = nn.tanh(nn.Dense(8, name=f"trunk_{i}")(x) + nn.Dense(8, use_bias=False, name=f"adapter_{i}_up")(down))
        return nn.Dense(1, name="head")(x)


MODULE = Adapted()
NETWORK = filled(MODULE, X)
MODEL = bdl.Model(NETWORK, bdl.likelihoods.Normal(scale=0.1))
PARTS = {
    "last layer": {"head/*": bdl.families.normal(scale=0.3)},
    "first layer": {"trunk_0/*": bdl.families.normal(scale=0.3)},
    "biases deterministic": {"*/kernel": bdl.families.normal(scale=0.3)},
    "adapters only": {"adapter_*": bdl.families.normal(scale=0.3)},
}


def products(jaxpr, inside=False):
    """The numbers of matrix products outside and inside of loops."""
    found = np.zeros(2, int)
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        if eqn.primitive.name == "dot_general":
            found[int(inside)] += 1
        for value in eqn.params.values():
            for inner in value if isinstance(value, list | tuple) else [value]:
                if isinstance(inner, core.Jaxpr | core.ClosedJaxpr):
                    found += products(inner, inside or eqn.primitive.name in ("scan", "while"))
    return found


@pytest.mark.parametrize("part", PARTS)
def test_parts_are_path_globs(part):
    posterior = bdl.variational(NETWORK.params, PARTS[part])
    prediction = bdl.predict(key, posterior, MODEL, X, num_samples=32)
    assert float(prediction.epistemic.min()) > 0
    random = {path for path, leaf in posterior.leaves.items() if not isinstance(leaf, jax.Array)}
    assert random == {path for path in posterior.leaves if fnmatch.fnmatchcase(path, next(iter(PARTS[part])))}


def test_what_no_draw_touches_is_computed_once():
    def count(part, **options):
        posterior = bdl.variational(NETWORK.params, PARTS[part])
        return products(
            jax.make_jaxpr(lambda k: bdl.predict(k, posterior, MODEL, X, num_samples=64, chunk_size=4, **options).mean)(
                key
            )
        )

    # Three layers of three products each, and the head.
    assert count("last layer").tolist() == [9, 1]
    assert count("last layer", tolerance=0.1).tolist() == [9, 1]
    assert count("first layer").tolist() == [2, 8]  # the first adapter beside it
    posterior = bdl.variational(NETWORK.params, PARTS["last layer"])
    density = lambda k: bdl.log_predictive(k, posterior, MODEL, (X, X[:, :1]), num_samples=64, chunk_size=4)
    assert products(jax.make_jaxpr(density)(key)).tolist() == [9, 1]


def test_the_draws_are_those_of_the_whole_network():
    posterior = bdl.variational(NETWORK.params, PARTS["last layer"])
    prediction = bdl.predict(key, posterior, MODEL, X, num_samples=9, chunk_size=4, return_draws=True)
    by_hand = jnp.stack([bdl.function_draw(key, posterior, MODEL, i)(X) for i in range(9)])
    np.testing.assert_allclose(prediction.draws, by_hand, rtol=1e-5, atol=1e-6)
