"""In a training step convolutions have channels last and max pooling no scatter, and their values stay the same."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import bdl
from bdl._convolutions import fast_images
from bdl._equation import open_jaxpr
from tests.arrays import filled, normals

KEY = jax.random.key(0)
CHANNELS_LAST = (0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)


def convolutions(jaxpr):
    """The dimension numbers of all convolutions of a program and of those inside of it."""
    for eqn in open_jaxpr(jaxpr).eqns:
        if eqn.primitive is lax.conv_general_dilated_p:
            yield tuple(eqn.params["dimension_numbers"])
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if hasattr(open_jaxpr(inner), "eqns"):
                    yield from convolutions(inner)


def everything(kernel, x):
    """Strides, dilation and groups; a transposed one under jit; others under remat, in a loop and in a branch."""
    channels_first = lambda y, shape: lax.conv(y, jnp.full(shape, 0.3), (1, 1), "SAME")
    numbers = "NHWC", "HWIO", "NHWC"
    y = lax.conv_general_dilated(
        x, kernel, (2, 1), "SAME", rhs_dilation=(1, 2), feature_group_count=2, dimension_numbers=numbers
    )
    y = jax.jit(lambda y: lax.conv_transpose(y, jnp.full((2, 2, 8, 3), 0.1), (2, 2), "SAME"))(nn.relu(y))
    y = jax.checkpoint(lambda y: jnp.sin(channels_first(y.transpose(0, 3, 1, 2), (2, 3, 2, 2))))(y)
    y, _ = lax.scan(lambda y, _: (jnp.tanh(channels_first(y, (2, 2, 1, 1))), None), y, None, length=2)
    return (lax.cond(y.sum() > -1e9, lambda y: channels_first(y, (1, 2, 3, 3)), lambda y: y[:, :1], y) ** 2).sum()


def test_values_and_gradients_are_the_same_and_axes_in_order():
    x, kernel = normals(0, 4, 9, 7, 6), normals(1, 3, 2, 3, 8)
    gradient = jax.value_and_grad(everything, (0, 1))
    plain, moved = jax.jit(gradient)(kernel, x), jax.jit(fast_images(gradient))(kernel, x)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(moved), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * float(jnp.abs(a).max()))
    before, after = (list(convolutions(jax.make_jaxpr(f)(kernel, x))) for f in (gradient, fast_images(gradient)))
    assert len(before) == len(after) >= 10
    assert set(before) != {CHANNELS_LAST}  # what would be slow in a loop
    assert set(after) == {CHANNELS_LAST}


def test_a_training_step_has_channels_last():
    x, y = jnp.ones((4, 6, 5, 2)), jnp.zeros(4, jnp.int32)
    module = nn.Sequential([nn.Conv(4, (3, 3), strides=2), nn.relu, nn.Conv(3, (2, 2)), lambda f: f.mean((1, 2))])
    network = filled(module, x)
    model = bdl.Model(network, bdl.likelihoods.Categorical())
    posterior = bdl.variational(network.params, bdl.families.normal(0.1))
    algorithm = bdl.inference.vi(optax.adam(1e-3))
    state = algorithm.init(KEY, *bdl.bind(posterior, model, x), num_data=4)
    step = lambda key, arrays: algorithm.step(key, arrays, (x, y))[1].elbo
    found = list(convolutions(jax.make_jaxpr(step)(KEY, state)))
    assert len(found) > 4
    assert set(found) == {CHANNELS_LAST}


def scatters(function, *args):
    return "select_and_scatter_add" in str(jax.make_jaxpr(function)(*args))


@pytest.mark.parametrize(
    ("window", "strides", "padding", "replaced"),
    [
        ((2, 2), (2, 2), "VALID", True),  # what is left over at the edge has no gradient
        ((3, 1), (3, 1), "VALID", True),
        ((2, 2), (1, 1), "VALID", False),
        ((2, 2), (2, 2), "SAME", False),  # padded, as 7 and 5 are odd
        ((5, 5), (5, 5), "VALID", False),  # of more places than are worth it
    ],
)
def test_the_gradient_of_max_pooling_goes_to_the_first_of_the_largest(window, strides, padding, replaced):
    x = normals(0, 3, 7, 5, 2).round()  # with ties

    def weighted(x):
        y = nn.max_pool(x, window, strides, padding)
        return (y * jnp.arange(y.size, dtype=y.dtype).reshape(y.shape)).sum()

    gradient = jax.grad(weighted)
    np.testing.assert_array_equal(jax.jit(fast_images(gradient))(x), jax.jit(gradient)(x))
    assert scatters(gradient, x)
    assert scatters(fast_images(gradient), x) != replaced


def test_pooling_in_loops_under_vmap_and_in_half_precision():
    def looped(x):
        pooled = lambda x: jnp.repeat(nn.max_pool(x, (2, 2), (2, 2)), 2, 1).repeat(2, 2)
        return (lax.scan(lambda x, _: (jnp.sin(3 * pooled(x)), None), x, None, length=2)[0] ** 2).sum()

    x = normals(1, 2, 3, 4, 4, 2).astype(jnp.bfloat16)
    gradient = jax.vmap(jax.grad(looped))
    fast = jax.jit(fast_images(gradient))(x)
    assert fast.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.float32(fast), np.float32(jax.jit(gradient)(x)))
    assert not scatters(fast_images(gradient), x)
