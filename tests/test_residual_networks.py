"""Why residual blocks keep gradients alive: the gradient of the first layer at initialisation, by depth.

python tests/test_residual_networks.py prints the table of docs/residual-networks.md.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bdl
from bdl._paths import map_named

NORMS, INITS, DEPTHS = ("none", "batch", "filter_response"), ("he", "xavier"), (32, 98)


def first_layers_gradient(depth: int, norm: str, init: str, shortcut: bool, *, seed: int) -> float:
    """The norm of the gradient of the mean cross-entropy with respect to the first kernel, before any training."""
    rng = np.random.default_rng(seed)
    x, y = jnp.asarray(rng.normal(size=(16, 8, 8, 3)), jnp.float32), jnp.arange(16) % 10
    module = bdl.networks.ResNet(10, depth, 8, norm=norm, weight_init=init, shortcut=shortcut)

    def fill(path: str, a: jax.ShapeDtypeStruct) -> jax.Array:
        if a.ndim < 2:
            return jnp.full(a.shape, float(path.endswith(("scale", "var"))))
        fan_in, fan_out = np.prod(a.shape[:-1]), np.prod(a.shape) / a.shape[-2]
        variance = 2 / fan_in if init == "he" else 2 / (fan_in + fan_out)
        return jnp.asarray(rng.normal(size=a.shape) * np.sqrt(variance), jnp.float32)

    # Not compiled as a whole, nor its initial weights: a hundred layers take seconds in this way, not minutes.
    network = bdl.from_linen(module, map_named(fill, jax.eval_shape(module.init, jax.random.key(0), x)))

    def negative_log_likelihood(kernel: jax.Array) -> jax.Array:
        params = {**network.params, "Conv_0": {**network.params["Conv_0"], "kernel": kernel}}
        logits, _ = network.apply(params, network.state, x, train=True)
        return -bdl.likelihoods.Categorical()(logits).log_prob(y).mean()

    return float(jnp.linalg.norm(jax.grad(negative_log_likelihood)(network.params["Conv_0"]["kernel"])))


def growth(norm: str, shortcut: bool) -> float:
    """The gradient of the deep network over that of the shallow one."""
    shallow, deep = (first_layers_gradient(depth, norm, "he", shortcut, seed=0) for depth in DEPTHS)
    return deep / shallow


@pytest.mark.slow
def test_plain_networks_lose_the_gradient_of_the_first_layer():
    assert growth("none", shortcut=False) < 1e-3


@pytest.mark.slow
def test_shortcuts_with_a_normalisation_keep_it():
    assert 0.1 < growth("batch", shortcut=True) < 10


@pytest.mark.slow
def test_neither_normalisation_nor_shortcuts_do_it_alone():
    assert growth("batch", shortcut=False) > 1e3
    assert growth("filter_response", shortcut=False) > 1e3
    assert growth("none", shortcut=True) > 1e3
    assert 0.1 < growth("filter_response", shortcut=True) < 10


def table() -> None:
    """The geometric mean of three seeds, as rows of a table."""
    print(
        f"| normalisation | weights | {' | '.join(f'{k}, {d} layers' for k in ('plain', 'residual') for d in DEPTHS)} |"
    )
    for norm, init in itertools.product(NORMS, INITS):
        cells = []
        for shortcut, depth in itertools.product((False, True), DEPTHS):
            found = [first_layers_gradient(depth, norm, init, shortcut, seed=seed) for seed in range(3)]
            cells.append(f"{np.exp(np.mean(np.log(found))) if all(found) else 0.0:.1e}")
        print(f"| {norm} | {init} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    table()
