"""Spectral normalisation: singular values against NumPy, the power iteration in the state, and what is refused."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bdl
from bdl import ood
from bdl.networks._use import Use
from bdl.ood._spectral_norm import _START, _canonical, _first_vector, _iterate_once
from tests.arrays import normals

KEY = jax.random.key(0)


def largest(kernel, use):
    """The norm after many iterations."""
    vector = _first_vector(jax.random.key(kernel.size), kernel, use)
    for _ in range(8):
        vector, norm = _iterate_once(kernel, use, vector, _START)
    return np.asarray(norm)


def on_circles(kernel, grid):
    """The largest singular value of a convolution of images that wrap around, by the Fourier transform."""
    axes = tuple(range(kernel.ndim - 2))
    return np.linalg.svd(np.fft.fftn(kernel, [grid] * len(axes), axes), compute_uv=False).max()


def test_norms_are_the_largest_singular_values():
    dense = normals(0, 7, 4)
    value = np.linalg.svd(dense, compute_uv=False)[0]
    np.testing.assert_allclose(largest(dense, Use(in_axes=(0,))), [[value]], rtol=1e-5)

    image = normals(1, 3, 3, 4, 5)
    conv = Use(in_axes=(2,), window_axes=(0, 1))
    np.testing.assert_allclose(largest(image, conv)[0, 0, 0, 0], on_circles(np.asarray(image), 16), rtol=1e-4)
    # On a large image that does not wrap around it is hardly more.
    np.testing.assert_allclose(largest(image, conv)[0, 0, 0, 0], on_circles(np.asarray(image), 128), rtol=0.02)
    series = normals(2, 5, 2, 3)
    found = largest(series, Use(in_axes=(1,), window_axes=(0,)))
    np.testing.assert_allclose(found[0, 0, 0], on_circles(np.asarray(series), 24), rtol=1e-4)


@pytest.mark.slow
def test_groups_and_stacks():
    grouped = normals(3, 3, 3, 2, 6)  # two groups of two inputs and three outputs each
    use = Use(in_axes=(2,), window_axes=(0, 1), groups=2, group_axis=3)
    expected = max(on_circles(np.asarray(grouped[..., c]), 16) for c in (slice(3), slice(3, 6)))
    np.testing.assert_allclose(largest(grouped, use)[0, 0, 0, 0], expected, rtol=1e-4)

    stack = normals(4, 5, 2, 4)
    found = largest(stack, Use(in_axes=(2,), stack_axes=(1,)))
    expected = [np.linalg.svd(np.asarray(stack)[:, i], compute_uv=False)[0] for i in range(2)]
    np.testing.assert_allclose(found[0, :, 0], expected, rtol=1e-4)
    assert _canonical(stack, Use(in_axes=(2,), stack_axes=(1,))).shape == (2, 4, 5)


def test_the_gradient_goes_through_the_norm(strict_dtypes):
    kernel = jnp.asarray(np.random.default_rng(5).normal(size=(4, 3)), jnp.float32)
    use = Use(in_axes=(0,))
    vector = _first_vector(jax.random.key(1), kernel, use)
    gradient = jax.grad(lambda k: _iterate_once(k, use, vector, _START)[1].sum())(kernel)
    left, _, right = np.linalg.svd(kernel)
    np.testing.assert_allclose(gradient, np.outer(left[:, 0], right[0]), atol=1e-4)


class Small(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), strides=2)(x))
        x = nn.BatchNorm(use_running_average=False)(x)
        return nn.Dense(2)(x.mean((1, 2)))


def test_a_network_of_layers_keeps_its_weights_and_its_state():
    images = normals(6, 3, 6, 6, 2)
    plain = bdl.from_linen(Small(), jax.jit(Small().init)(KEY, images))
    large = jax.tree.map(lambda a: 10.0 * a, plain.params)
    network = bdl.networks.Network(plain.function, large, plain.state)
    normalised = ood.spectral_norm(KEY, network, images, coefficient=2.0, num_iterations=300)
    assert jax.tree.structure(normalised.params) == jax.tree.structure(plain.params)
    assert set(normalised.state["spectral_norm"]) == {"Conv_0/kernel", "Dense_0/kernel"}

    kernel, dense = (np.asarray(large[name]["kernel"]) for name in ("Conv_0", "Dense_0"))
    assert on_circles(kernel, 16) > 2.0  # and the dense layer's is too, or is left as it is
    by_hand = jax.tree.map(lambda a: a, large)
    by_hand["Conv_0"]["kernel"] = kernel / max(1.0, on_circles(kernel, 16) / 2.0)
    by_hand["Dense_0"]["kernel"] = dense / max(1.0, np.linalg.svd(dense, compute_uv=False)[0] / 2.0)
    apply = jax.jit(lambda network, x: network.apply(network.params, network.state, x))
    expected, _ = apply(bdl.networks.Network(plain.function, by_hand, plain.state), images)
    found, state = apply(normalised, images)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, state, normalised.state)

    _, moved = jax.jit(lambda n: n.apply(n.params, n.state, images, train=True))(normalised)
    differ = lambda a, b: bool(np.any(np.asarray(a) != np.asarray(b)))
    assert all(jax.tree.leaves(jax.tree.map(differ, moved["network"], normalised.state["network"])))
    features = ood.layer_features(normalised, "Conv_0")(images)
    assert features.shape == (3, 4)


@pytest.mark.slow
def test_the_iteration_follows_the_weights_of_a_fit():
    x = normals(7, 64, 3)
    y = 10.0 * x[:, :1]
    network = bdl.networks.mlp(KEY, x[:1], 1, widths=(8,))
    network = ood.spectral_norm(KEY, network, x[:1], coefficient=0.5)
    posterior = bdl.variational(network.params, bdl.families.point)
    model = bdl.Model(network, bdl.likelihoods.Normal(scale=0.1))
    algorithm = bdl.inference.vi(optax.adam(3e-2))
    fitted = bdl.fit(KEY, algorithm, posterior, model, (x, y), num_steps=200, progress=False)
    params, state = fitted.posterior.mean, fitted.model.network.state
    for name in ("Dense_0", "head"):
        kernel = np.asarray(params[name]["kernel"])
        left, value, _ = np.linalg.svd(kernel)
        assert value[0] > 0.6  # more than the coefficient, so that the kernel is divided
        assert abs(left[:, 0] @ np.asarray(state["spectral_norm"][f"{name}/kernel"])[0, 0]) > 0.99
    prediction = bdl.predict(KEY, fitted.posterior, fitted.model, x)
    design = np.append(np.asarray(x), np.ones((64, 1)), 1)
    slope = np.linalg.lstsq(design, np.asarray(prediction.mean), rcond=None)[0][:3]
    assert 0.2 < np.linalg.norm(slope) < 0.5 * 0.5 * 1.01  # two layers, and ReLU between them


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda net, x: ood.spectral_norm(KEY, net, x, coefficient=0.0), "coefficient above 0"),
        (lambda net, x: ood.spectral_norm(KEY, net, x, num_iterations=0), "num_iterations of at least 1"),
        (lambda net, x: ood.spectral_norm(KEY, bdl.Model(net, bdl.likelihoods.Normal()).network, x), "no weights"),
        (
            lambda net, x: ood.spectral_norm(KEY, bdl.network(lambda p, x: x + p["b"], {"b": jnp.zeros(3)}), x),
            "none of the network's weights is the kernel",
        ),
    ],
)
def test_errors_say_what_was_expected(make, message):
    x = normals(8, 4, 3)
    with pytest.raises(ValueError, match=message):
        make(bdl.network(lambda p, x: x @ p["w"], {"w": jnp.ones((3, 2))}), x)
