"""A U-Net on images: 32 draws against as many plain passes, and a training step with noise on the logits.

The reference of a prediction is the plain network, jitted and called again and again; that of the step is the same step
with a plain softmax.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

import bdl
from benchmarks._networks import inputs
from benchmarks._timing import Row, Settings, compare, run
from benchmarks.train_step import loop

CLASSES, RATE = 11, 0.2


def rows(settings: Settings) -> Iterator[Row]:
    shape, widths, draws = ((2, 8, 8, 3), (4, 8), 4) if settings.fast else ((8, 96, 120, 3), (16, 32, 64), 32)
    x = inputs(*shape)
    labels = jnp.arange(x[..., 0].size).reshape(x.shape[:-1]) % CLASSES
    kinds = {
        "softmax": (CLASSES, bdl.likelihoods.Categorical()),
        "logit noise": (2 * CLASSES, bdl.likelihoods.HeteroscedasticCategorical(10)),
    }
    steps = {}
    for name, (outputs, likelihood) in kinds.items():
        network = bdl.networks.unet(jax.random.key(0), x[:1], outputs, widths=widths)
        model = bdl.Model(network, likelihood)
        posterior, model = bdl.bind(bdl.variational(network.params, bdl.families.point), model, x)
        steps[name] = loop(posterior, model, (x, labels), 1)
        yield compare(f"predict, U-Net, {name}", *predictions(network, likelihood, x, draws), settings, 1.1)
    yield compare("step, U-Net, logit noise", steps["softmax"], steps["logit noise"], settings, 1.3)


def predictions(network: Any, likelihood: Any, x: Any, draws: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Plain passes, and a prediction with dropout on the kernels of the inner layers."""
    plain = jax.jit(lambda params, x: network.apply(params, network.state, x)[0])
    families = {"head/*": bdl.families.point, "*/kernel": bdl.families.bernoulli_dropout(RATE)}
    posterior = bdl.variational(network.params, families)
    posterior, model = bdl.bind(posterior, bdl.Model(network, likelihood), x)
    ours = lambda: bdl.predict(jax.random.key(3), posterior, model, x, num_samples=draws).probs
    return lambda: [plain(network.params, x) for _ in range(draws)], ours


if __name__ == "__main__":
    run(__doc__, rows)
