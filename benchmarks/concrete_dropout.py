"""Concrete dropout on the synthetic experiment of Gal, Hron and Kendall (2017): does each part know what it should?

x ~ Normal(0, 1), y = 2 x + 8 + Normal(0, 1). Three layers of 1,024 units, heads of mean and log-variance, a learned
rate before each of the five kernels; Glorot initialisation, Adam, batches of 20, prior Normal(0, 10⁸) on kernels, and
as many epochs for each size as in the authors' notebook; its gradients are not clipped, ours are. The aleatoric
standard deviation is 1 whatever the size; the epistemic one and the rates should fall with it.
"""

import argparse
import functools
import json
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax

import bdl
from benchmarks._timing import environment

# Size: epochs, and the notebook's RMSE, aleatoric and epistemic standard deviation.
PUBLISHED = {
    10: (2000, 1.8226, 1.321, 1.092),
    25: (1000, 1.1755, 1.357, 0.820),
    50: (500, 1.1520, 1.270, 0.745),
    100: (200, 1.1447, 1.247, 0.668),
    1000: (20, 1.0653, 1.321, 0.652),
    10000: (2, 1.2051, 1.229, 0.542),
}
LAYERS = ("hidden_0", "hidden_1", "hidden_2", "mean", "log_variance")
BATCH, TEST, DRAWS, LENGTH_SCALE = 20, 1000, 20, 1e-4
# The norm of the gradient is about 50, and 10¹⁸ in some steps on ten points, where a variance has run to nothing.
OPTIMIZER = optax.chain(optax.clip_by_global_norm(100.0), optax.adam(1e-3))


class Network(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        dense = functools.partial(nn.Dense, kernel_init=nn.initializers.glorot_uniform())
        for name in LAYERS[:3]:
            x = nn.relu(dense(self.width, name=name)(x))
        return dense(1, name="mean")(x), dense(1, name="log_variance")(x)


def data(rng: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
    x = rng.normal(size=(rows, 1))
    return x.astype(np.float32), (2 * x + 8 + rng.normal(size=(rows, 1))).astype(np.float32)


def run(size: int, epochs: int, seed: int, width: int) -> dict[str, Any]:
    """One fit: errors and parts on 1,000 new rows, and the learned rates in the order of `LAYERS`."""
    rng, key = np.random.default_rng([size, seed]), jax.random.key(seed)
    (x, y), (x_new, y_new) = data(rng, size), data(rng, TEST)
    module = Network(width)
    network = bdl.from_linen(module, module.init(key, x[:1]))
    prior = {"*/kernel": dist.Normal(0.0, 1 / LENGTH_SCALE)}  # flat for biases
    model = bdl.Model(network, bdl.likelihoods.HeteroscedasticNormal(), prior)
    posterior = bdl.variational(network.params, {"*/kernel": bdl.families.concrete_dropout(0.1)})
    batch = min(BATCH, size)
    fitted = bdl.fit(
        key, bdl.inference.vi(OPTIMIZER), posterior, model, (x, y),
        num_steps=epochs * -(-size // batch), batch_size=batch, progress=False,
    )  # fmt: skip
    prediction = bdl.predict(key, fitted.posterior, fitted.model, x_new, num_samples=DRAWS, return_draws=True)
    density = bdl.log_predictive(key, fitted.posterior, fitted.model, (x_new, y_new), num_samples=DRAWS)
    return {
        "rmse": float(jnp.sqrt(((prediction.mean - y_new) ** 2).mean())),
        "log_likelihood": float(density.mean()),
        "aleatoric": float(jnp.sqrt(prediction.aleatoric.mean())),
        # As the notebook computes it, with the mean of the log-variances: smaller, by Jensen's inequality.
        "aleatoric_2017": float(jnp.sqrt(jnp.exp(prediction.draws[1].mean(0)).mean())),
        "epistemic": float(jnp.sqrt(prediction.epistemic.mean())),
        "rates": [float(fitted.posterior.tree[layer]["kernel"].rate) for layer in LAYERS],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3, help="fits of each size (default: %(default)s)")
    parser.add_argument("--width", type=int, default=1024, help="units of a hidden layer (default: %(default)s)")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(PUBLISHED), help="of those published")
    parser.add_argument("--fast", action="store_true", help="two small sizes, narrow: does it run at all")
    parser.add_argument("--json", metavar="FILE", help="write the figures and what they were measured with to FILE")
    arguments = parser.parse_args()
    if arguments.fast:
        arguments.sizes, arguments.width, arguments.repetitions = [25, 100], 32, 1
    print("    N   RMSE ± s.e.  (2017)   aleatoric  as in (2017)   epistemic (2017)   log-likelihood   rates of")
    print(f"{'':86}{', '.join(LAYERS)}")
    found = {}
    for size in arguments.sizes:
        epochs, rmse, aleatoric, epistemic = PUBLISHED[size]
        runs = [run(size, epochs, seed, arguments.width) for seed in range(arguments.repetitions)]
        mean = {name: np.mean([r[name] for r in runs], axis=0) for name in runs[0]}
        error = np.std([r["rmse"] for r in runs]) / np.sqrt(max(len(runs) - 1, 1))
        print(
            f"{size:>5}  {mean['rmse']:.3f} ± {error:.3f}   ({rmse:.3f})   "
            f"{mean['aleatoric']:.3f}  {mean['aleatoric_2017']:.3f} ({aleatoric:.3f})   "
            f"{mean['epistemic']:.3f} ({epistemic:.3f})   "
            f"{mean['log_likelihood']:.3f}   " + "  ".join(f"{r:.3f}" for r in mean["rates"]),
            flush=True,
        )
        found[size] = runs
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({**environment(), "runs": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
