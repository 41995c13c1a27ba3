"""What scores cost in passes of the network: a perceptron 64 -> 512 x 3 -> 10 and a small CNN, a batch of 256.

The reference is one pass of the plain network, jitted. ODIN has three: forward, backward, forward.
"""

from collections.abc import Iterator

import jax
import numpy as np

import bdl
from benchmarks._networks import CNN, init, inputs
from benchmarks._timing import Row, Settings, compare, run


def rows(settings: Settings) -> Iterator[Row]:
    batch, width, pixels, bank = (32, 16, 8, 100) if settings.fast else (256, 512, 28, 10_000)
    rows, images = inputs(batch, 64), inputs(batch, pixels, pixels, 1)
    networks = {
        "MLP": (bdl.networks.mlp(jax.random.key(0), rows, 10, widths=(width,) * 3), rows),
        "CNN": (bdl.from_linen(CNN(), init(CNN(), images)), images),
    }
    for name, (network, x) in networks.items():
        plain = jax.jit(lambda x, network=network: network.apply(network.params, network.state, x)[0])
        passes = lambda plain=plain, x=x: plain(x)
        odin = bdl.ood.odin(network)
        yield compare(f"ODIN, {name}", passes, lambda odin=odin, x=x: odin(x), settings, 3.3)
        logits = np.asarray(plain(x))
        energy = bdl.ood.through(network, bdl.ood.energy)
        yield compare(f"energy, {name}", passes, lambda score=energy, x=x: score(x), settings)
        fitted = {
            "Mahalanobis": bdl.ood.mahalanobis(logits, np.arange(batch) % 4),
            f"nearest of {bank:,} neighbours": bdl.ood.nearest_neighbours(np.asarray(inputs(bank, 10)), k=5),
        }
        for called, detector in fitted.items():
            through = bdl.ood.through(network, detector)
            yield compare(f"{called}, {name}", passes, lambda score=through, x=x: score(x), settings)


if __name__ == "__main__":
    run(__doc__, rows)
