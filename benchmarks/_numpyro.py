"""The same work in numpyro: the perceptron as a numpyro model, with a mean-field Normal guide."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI, Predictive, TraceMeanField_ELBO
from numpyro.infer.autoguide import AutoNormal

from benchmarks._timing import moments


def mlp(width: int, num_data: int) -> Callable[..., None]:
    def model(x: Any, y: Any = None) -> None:
        hidden, widths = x, (x.shape[1], width, width, width, 1)
        for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
            scale = (2 / inputs) ** 0.5
            kernel = numpyro.sample(f"kernel_{i}", dist.Normal(0.0, scale).expand((inputs, outputs)).to_event(2))
            bias = numpyro.sample(f"bias_{i}", dist.Normal(0.0, 1.0).expand((outputs,)).to_event(1))
            hidden = (jax.nn.relu(hidden) if i else hidden) @ kernel + bias
        numpyro.deterministic("outputs", hidden)
        with numpyro.plate("data", num_data, subsample_size=x.shape[0], dim=-1):
            numpyro.sample("y", dist.Normal(hidden, 0.1).to_event(1), obs=y)

    return model


def predict(width: int, x: Any, draws: int, scale: float) -> Callable[[], Any]:
    model = mlp(width, x.shape[0])
    svi, state = _start(model, x, scale)
    predictive = Predictive(
        model, guide=svi.guide, params=svi.get_params(state), num_samples=draws, return_sites=["outputs"]
    )
    call = jax.jit(lambda key, x: moments(predictive(key, x)["outputs"]))
    return lambda: call(jax.random.key(3), x)


def train(width: int, data: Any, num_data: int, steps: int, scale: float) -> Callable[[], Any]:
    x, y = data
    svi, state = _start(mlp(width, num_data), x, scale)
    call = jax.jit(lambda state: jax.lax.fori_loop(0, steps, lambda i, state: svi.update(state, x, y)[0], state))
    return lambda: call(state).optim_state


def _start(model: Callable[..., None], x: Any, scale: float) -> tuple[SVI, Any]:
    svi = SVI(model, AutoNormal(model, init_scale=scale), numpyro.optim.Adam(1e-3), TraceMeanField_ELBO())
    return svi, svi.init(jax.random.key(4), x, jnp.zeros((x.shape[0], 1)))
