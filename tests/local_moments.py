"""Whether local noise has the moments of shared draws, for the families' tests."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np

import bdl
from bdl.noise import find_uses, local
from tests.test_noise import NETWORKS, families_for


def check_local(initialiser, name, *, approximate=False, num_samples=1000):
    """On a network of `test_noise`: means, spread, and examples that do not correlate.

    Args:
        initialiser: of the families of all arrays.
        name: of the network.
        approximate: whether the rule approximates there: the spread may then be off by a quarter.
        num_samples: draws of either kind.
    """
    apply, params, x = NETWORKS[name]()
    weights = families_for(params, find_uses(apply, params, x), initialiser)
    keys = lambda seed: jax.random.split(jax.random.key(seed), num_samples)

    @jax.jit
    def run(weights):
        shared = jax.vmap(lambda k: apply(bdl.posteriors.Factorised(weights).sample(k), x[:1])[0])
        # Two copies of one example under each key: a rule may let copies share a part of the noise.
        copies = jax.vmap(lambda k: local(k, apply, weights, jnp.repeat(x[:1], 2, 0)))
        return shared(keys(2)), copies(keys(3))

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a weight that falls back to shared noise would be named in a warning
        shared, copies = run(weights)
    shared = np.asarray(shared, np.float64).reshape(num_samples, -1)
    copies = np.asarray(copies, np.float64).reshape(num_samples, 2, -1)
    noisy = copies[:, 0]
    assert shared.std() > 0

    error = 5 * np.sqrt((noisy.var(0) + shared.var(0)) / num_samples) + 1e-3
    if not approximate:
        assert np.all(np.abs(noisy.mean(0) - shared.mean(0)) < error)
    # The error of a mean variance over outputs, which are correlated.
    spread = lambda draws: (
        draws.var(0).mean(),
        ((draws - draws.mean(0)) ** 2).mean(1).std() / np.sqrt(num_samples),
    )
    (a, error_a), (b, error_b) = spread(noisy), spread(shared)
    assert abs(a - b) < 5 * np.hypot(error_a, error_b) + 1e-5 + (0.4 * b if approximate else 0)
    centred = copies - copies.mean((0, 1))
    products = (centred[:, 0] * centred[:, 1]).mean(1)
    assert abs(products.mean()) < 5 * products.std() / np.sqrt(num_samples) + 1e-9
