"""A training step: every family with local noise, over the plain network's step.

The reference is what one writes by hand: the gradient of the same log-likelihood, and Adam, a jitted step called again
and again. Ours runs as many steps in one compiled loop, as `bdl.fit` does.
"""

from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax

import bdl
from benchmarks import _numpyro
from benchmarks._families import CANDIDATES, Candidate, posterior_and_model
from benchmarks._networks import CNN, LSTM, MLP, init, inputs
from benchmarks._timing import Row, Settings, compare, rival, run

NUM_DATA, RATE, SCALE = 10_000, 0.1, 0.05
ADAM = optax.adam(1e-3)


def rows(settings: Settings) -> Iterator[Row]:
    steps = {"MLP": 2, "CNN": 1, "LSTM": 1} if settings.fast else {"MLP": 20, "CNN": 2, "LSTM": 5}
    batch, features, width = (16, 8, 16) if settings.fast else (256, 64, 512)
    images, filters = ((4, 8, 8, 1), 4) if settings.fast else ((64, 28, 28, 1), 32)
    series, units = ((4, 5, 2), 8) if settings.fast else ((64, 50, 8), 64)

    x, images, series = inputs(batch, features), inputs(*images), inputs(*series)
    data = x, jnp.ones((batch, 1))
    classes = images, jnp.zeros(len(images), jnp.int32)
    cases = {
        "MLP": (MLP(width), data, gaussian),
        "CNN": (CNN(filters), classes, categorical),
        "LSTM": (LSTM(units), (series, jnp.ones((len(series), 1))), gaussian),
    }
    plain = {name: by_hand(module, *case, steps[name]) for name, (module, *case) in cases.items()}
    for name, case in cases.items():
        ours = variational(*case, Candidate(bdl.families.bernoulli_dropout(RATE), 1.15, 2.0), steps[name])
        yield compare(f"step, local dropout, {name}", plain[name], ours, settings, 1.15)
    for name, case in cases.items():
        ours = variational(*case, Candidate(bdl.families.normal(SCALE), 2.3, 2.0), steps[name])
        yield compare(f"step, mean-field Normal, local noise, {name}", plain[name], ours, settings, 2.3)
    for name, candidate in CANDIDATES.items():
        ours = variational(*cases["MLP"], candidate, steps["MLP"])
        yield compare(f"step, {name}, MLP", plain["MLP"], ours, settings, candidate.step)
    theirs = by_hand(MLP(width, RATE), data, gaussian, steps["MLP"])
    yield compare("  Flax nn.Dropout, MLP", plain["MLP"], theirs, settings)
    theirs = by_hand(CNN(filters, RATE), classes, categorical, steps["CNN"])
    yield compare("  Flax nn.Dropout of channels, CNN", plain["CNN"], theirs, settings)
    theirs = _numpyro.train(width, data, NUM_DATA, steps["MLP"], SCALE)
    yield compare("  numpyro SVI, AutoNormal, MLP", plain["MLP"], theirs, settings)

    def torch(bayesian: bool, rate: float | None) -> Callable[[], Any]:
        from benchmarks import _torch

        network = _torch.bayesian_mlp(features, width) if bayesian else _torch.mlp(features, width, rate)
        return _torch.train(network, batch, features, NUM_DATA, steps["MLP"], kl=bayesian)

    yield rival("  torch, plain, MLP", ("torch",), plain["MLP"], lambda: torch(False, None), settings)
    yield rival("  torch, dropout, MLP", ("torch",), plain["MLP"], lambda: torch(False, RATE), settings)
    needed = "torch", "bayesian_torch"
    yield rival("  bayesian-torch, Normal, MLP", needed, plain["MLP"], lambda: torch(True, None), settings)


def gaussian(outputs: jax.Array, y: jax.Array) -> jax.Array:
    return -0.5 * ((outputs - y) ** 2).sum() / 0.1**2


def categorical(outputs: jax.Array, y: jax.Array) -> jax.Array:
    return -optax.softmax_cross_entropy_with_integer_labels(outputs, y).sum()


def by_hand(module: Any, data: Any, log_likelihood: Callable[..., Any], steps: int) -> Callable[[], Any]:
    x, y = data
    params = init(module, x)

    def loss(params: Any, key: jax.Array) -> jax.Array:
        return -log_likelihood(module.apply(params, x, rngs={"dropout": key}), y) / len(x)

    @jax.jit
    def step(params: Any, optimizer: Any, key: jax.Array) -> Any:
        value, gradient = jax.value_and_grad(loss)(params, key)
        updates, optimizer = ADAM.update(gradient, optimizer, params)
        return optax.apply_updates(params, updates), optimizer, value

    keys = list(jax.random.split(jax.random.key(5), steps))

    def call() -> Any:
        now = params, ADAM.init(params), 0.0
        for key in keys:
            now = step(*now[:2], key)
        return now

    return call


def variational(module: Any, data: Any, log_likelihood: Any, candidate: Candidate, steps: int) -> Callable[[], Any]:
    x, _ = data
    network = bdl.from_linen(module, init(module, x))
    likelihood = bdl.likelihoods.Normal(scale=0.1) if log_likelihood is gaussian else bdl.likelihoods.Categorical()
    return loop(*posterior_and_model(candidate, network, likelihood, x), data, steps)


def loop(posterior: Any, model: Any, data: Any, steps: int) -> Callable[[], Any]:
    """So many steps of `vi` as one program."""
    algorithm = bdl.inference.vi(ADAM)
    state = algorithm.init(jax.random.key(4), posterior, model, num_data=NUM_DATA)

    @eqx.filter_jit
    def call(key: jax.Array, state: Any) -> Any:
        arrays, others = eqx.partition(state, eqx.is_array)

        def step(i: Any, carry: Any) -> Any:
            state, info = algorithm.step(jax.random.fold_in(key, i), eqx.combine(carry[0], others), data)
            return eqx.filter(state, eqx.is_array), info

        info = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), eqx.filter_eval_shape(step, 0, (arrays, None))[1])
        return lax.fori_loop(0, steps, step, (arrays, info))

    return lambda: call(jax.random.key(5), state)


if __name__ == "__main__":
    run(__doc__, rows)
