"""Monte Carlo prediction: a perceptron 64 -> 512 x 3 -> 1, a batch of 256, 64 draws of the weights.

The reference is as many passes of the plain network, jitted and called one after the other.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax import lax

import bdl
from bdl._draws import is_enumerated
from benchmarks import _numpyro
from benchmarks._families import CANDIDATES, Candidate, posterior_and_model
from benchmarks._networks import MLP, init, inputs
from benchmarks._timing import Row, Settings, compare, moments, rival, run

RATE, SCALE = 0.1, 0.05


def rows(settings: Settings) -> Iterator[Row]:
    batch, features, width, draws = (32, 8, 16, 8) if settings.fast else (256, 64, 512, 64)
    x, module = inputs(batch, features), MLP(width)
    variables = init(module, x)
    plain = jax.jit(module.apply)
    passes = lambda: [plain(variables, x) for _ in range(draws)]
    network = bdl.from_linen(module, variables)
    likelihood = bdl.likelihoods.Normal(scale=0.1)

    def predict(candidate: Candidate) -> Callable[[], Any]:
        posterior, model = posterior_and_model(candidate, network, likelihood, x)
        return lambda: bdl.predict(jax.random.key(3), posterior, model, x, num_samples=draws).mean

    def flax_dropout(each: Callable[..., Any]) -> Callable[[], Any]:
        dropout, keys = MLP(width, RATE), jax.random.split(jax.random.key(3), draws)
        call = jax.jit(lambda v, x, keys: moments(each(lambda key: dropout.apply(v, x, rngs={"dropout": key}), keys)))
        return lambda: call(variables, x, keys)

    ours = predict(Candidate(bdl.families.bernoulli_dropout(RATE), 1.15, 1.0))
    yield compare("predict, dropout", passes, ours, settings, 1.0)
    ours = predict(Candidate(bdl.families.normal(SCALE), 2.3, 2.0))
    yield compare("predict, mean-field Normal", passes, ours, settings, 2.0)
    for name, candidate in CANDIDATES.items():
        posterior, model = posterior_and_model(candidate, network, likelihood, x)
        members = is_enumerated(posterior, model)  # of which each is used once
        reference = (lambda k=posterior.members: [plain(variables, x) for _ in range(k)]) if members else passes
        yield compare(f"predict, {name}", reference, predict(candidate), settings, candidate.predict)
    yield compare("  Flax nn.Dropout, lax.map", passes, flax_dropout(lax.map), settings)
    yield compare("  Flax nn.Dropout, vmap", passes, flax_dropout(lambda f, keys: jax.vmap(f)(keys)), settings)
    yield compare("  numpyro Predictive, Normal", passes, _numpyro.predict(width, x, draws, SCALE), settings)

    def torch_dropout() -> Callable[[], Any]:
        from benchmarks import _torch

        return _torch.predict(_torch.mlp(features, width, RATE), batch, features, draws)

    def bayesian_torch() -> Callable[[], Any]:
        from benchmarks import _torch

        return _torch.predict(_torch.bayesian_mlp(features, width), batch, features, draws)

    yield rival("  torch loop, dropout", ("torch",), passes, torch_dropout, settings)
    yield rival("  bayesian-torch loop, Normal", ("torch", "bayesian_torch"), passes, bayesian_torch, settings)


if __name__ == "__main__":
    run(__doc__, rows)
