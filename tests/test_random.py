"""Cheap random bits: the right distribution, the right hash, and every transformation they must survive."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from jax import export
from jax.extend.random import threefry_2x32

from bdl import _random

N = 2**20


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)


def test_hash_is_threefry():
    key_data = jnp.array([0xDEADBEEF, 42], jnp.uint32)
    counters = jnp.concatenate([jnp.full(1000, 7, jnp.uint32), jnp.arange(1000, dtype=jnp.uint32)])
    ours = jnp.concatenate(jax.jit(_random._threefry2x32)(*key_data, *jnp.split(counters, 2)))
    np.testing.assert_array_equal(ours, threefry_2x32(key_data, counters))


def test_every_quantile_lies_in_its_own_bin():
    h = np.arange(2**16)
    z = np.asarray(_random._quantile(h.astype(np.uint16)), np.float64)
    position = scipy.special.ndtr(z) * 2**16 - h
    assert position.min() > 0.4
    assert position.max() < 0.6
    np.testing.assert_array_equal(z, -z[::-1])


def test_normal_moments(strict_dtypes, key):
    z = np.asarray(_random.normal(key, (N,)), np.float64)
    # The standard errors of the first four moments of a standard normal; the 16-bit moments differ by less than 1e-3.
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((z**power).mean() - moment) < 5 * np.sqrt(variance / N) + 1e-3
    assert scipy.stats.kstest(z[:100_000], "norm").pvalue > 1e-6


def test_bits_are_uniform(key):
    counts = np.bincount(np.asarray(_random._uint16(key, (N,))), minlength=2**16)
    chi2 = ((counts - 16) ** 2 / 16).sum()
    assert abs(chi2 - 2**16) < 5 * np.sqrt(2 * 2**16)


def test_quarters_of_a_block_and_keys_are_independent(key):
    z = np.asarray(jax.vmap(lambda key: _random.normal(key, (4, N // 16)))(jax.random.split(key, 4))).reshape(16, -1)
    for values in (z, z**2):
        correlation = np.corrcoef(values) - np.eye(16)
        assert abs(correlation).max() < 5.5 / np.sqrt(z.shape[1])


def test_no_word_is_the_key_of_a_child(key):
    words = set(np.asarray(_random._words(jax.random.clone(key), 100)).T.ravel().tolist())
    children = jnp.concatenate(
        [jax.random.split(jax.random.clone(key), 100), jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(100))]
    )
    assert words.isdisjoint(np.asarray(jax.random.key_data(children)).ravel().tolist())


@pytest.mark.parametrize("rate", [0.003, 0.1, 0.5, 0.999])
def test_bernoulli_keeps_with_the_probability_it_returns(rate, strict_dtypes, key):
    kept, keep = _random.bernoulli(key, rate, (N,))
    assert kept.dtype == bool
    assert keep.dtype == jnp.float32
    assert float(keep) * 2**16 == round(float(keep) * 2**16)
    assert abs(float(keep) - (1 - rate)) <= 2**-17 * 1.01
    assert abs(kept.mean() - keep) < 5 * np.sqrt(rate * (1 - rate) / N)


def test_bernoulli_at_the_ends(key):
    kept, keep = _random.bernoulli(key, 0, (N,))
    assert kept.all()
    assert keep == 1
    kept, keep = _random.bernoulli(jax.random.clone(key), 1 - 1e-7, (N,))
    assert keep == 2**-16
    assert abs(kept.sum() - 16) < 5 * 4


def test_one_trace_for_all_rates(key):
    before = _random.bernoulli._cache_size()
    for rate in (0.1, 0.2, 0.7):
        _random.bernoulli(jax.random.clone(key), jnp.float32(rate), (3, 7))
    assert _random.bernoulli._cache_size() == before + 1


@pytest.mark.parametrize("shape", [(), (1,), (0,), (5,), (3, 0), (4, 4), (2, 3, 5)])
def test_shapes(shape, key):
    z = _random.normal(key, shape)
    kept, _ = _random.bernoulli(jax.random.clone(key), 0.5, shape)
    assert z.shape == kept.shape == shape
    assert _random.normal(jax.random.clone(key), shape, jnp.bfloat16).dtype == jnp.bfloat16
    np.testing.assert_array_equal(kept, z < 0)


def test_transformations_give_the_same_numbers(key):
    keys = jax.random.split(key, 3)
    one_by_one = jnp.stack([_random.normal(key, (5, 3)) for key in keys])
    _, scanned = jax.jit(lambda keys: jax.lax.scan(lambda c, key: (c, _random.normal(key, (5, 3))), 0, keys))(
        jax.random.clone(keys)
    )
    np.testing.assert_array_equal(jax.vmap(lambda key: _random.normal(key, (5, 3)))(jax.random.clone(keys)), one_by_one)
    np.testing.assert_array_equal(scanned, one_by_one)


def test_gradients(key):
    def loss(scale, rate, key):
        key_normal, key_mask = jax.random.split(key)
        kept, keep = _random.bernoulli(key_mask, rate, (20,))
        return jnp.sum(scale * _random.normal(key_normal, (20,)) * kept / keep)

    scale, rate = jax.jit(jax.grad(loss, argnums=(0, 1)))(2.0, 0.3, key)
    np.testing.assert_allclose(scale, loss(1.0, 0.3, jax.random.clone(key)), rtol=1e-5)
    assert rate == 0


def test_a_key_is_consumed_once(key):
    @jax.jit
    def twice(key):
        return _random.normal(key, (3,)) + _random.bernoulli(key, 0.5, (3,))[0]

    with pytest.raises(jax.errors.KeyReuseError):
        twice(key)


def test_other_key_implementations():
    key = jax.random.key(0, impl="rbg")
    z = np.asarray(_random.normal(key, (10_000,)))
    assert abs(z.mean()) < 5 / 100
    assert abs((z**2).mean() - 1) < 5 * np.sqrt(2) / 100
    assert 0 < _random.bernoulli(jax.random.clone(key), 0.5, (1000,))[0].sum() < 1000


def test_lowers_for_every_platform():
    def use(key, rate):
        return _random.normal(jax.random.fold_in(key, 1), (8, 3)), _random.bernoulli(
            jax.random.fold_in(key, 2), rate, (8,)
        )

    exported = export.export(jax.jit(use), platforms=("cpu", "cuda", "tpu"))(jax.random.key(3), jnp.float32(0.1))
    assert exported.platforms == ("cpu", "cuda", "tpu")


def test_same_numbers_on_eight_devices():
    program = """
import jax, numpy as np
from bdl import _random
key, shape = jax.random.key(0), (16, 24)
mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
over_data = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
for draw in (lambda key: _random.normal(key, shape), lambda key: _random.bernoulli(key, 0.3, shape)[0]):
    spread = jax.jit(draw, out_shardings=over_data)(key)
    assert len(spread.sharding.device_set) == 8
    np.testing.assert_allclose(spread, jax.jit(draw)(jax.random.clone(key)), rtol=1e-6)
"""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    result = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("draw", [jax.random.normal, jax.random.uniform])
def test_a_row_that_is_folded_has_the_numbers_of_the_array(key, draw):
    shape = 2, 3, 1, 5
    np.testing.assert_array_equal(_random.flat(draw, key, shape), draw(jax.random.clone(key), shape))
