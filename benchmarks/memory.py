"""Peak memory of a prediction with 1,000 draws over one with 10: the temporaries of the compiled program."""

from collections.abc import Iterator

import jax

import bdl
from benchmarks._networks import MLP, init, inputs
from benchmarks._timing import Row, Settings, run


def rows(settings: Settings) -> Iterator[Row]:
    batch, features, width = (32, 8, 16) if settings.fast else (256, 64, 512)
    x, module = inputs(batch, features), MLP(width)
    network = bdl.from_linen(module, init(module, x))
    model = bdl.Model(network, bdl.likelihoods.Normal(scale=0.1))
    families = {"dropout": bdl.families.bernoulli_dropout(0.1), "mean-field Normal": bdl.families.normal(0.05)}
    for name, family in families.items():
        posterior = bdl.variational(network.params, family)
        few, many = (temporaries(posterior, model, x, draws) for draws in (10, 1000))
        yield Row(f"peak memory of predict, {name}", 1.1, many / few, None, few / 2**20, "MiB")


def temporaries(posterior: bdl.posteriors.Posterior, model: bdl.Model, x: jax.Array, draws: int) -> int:
    """Bytes. On a CPU the compiler's own `peak_memory_in_bytes` leaves them out."""

    def predict(key: jax.Array, x: jax.Array) -> jax.Array:
        return bdl.predict(key, posterior, model, x, num_samples=draws).mean

    analysis = jax.jit(predict).lower(jax.random.key(0), x).compile().memory_analysis()
    return analysis.temp_size_in_bytes


if __name__ == "__main__":
    run(__doc__, rows)
