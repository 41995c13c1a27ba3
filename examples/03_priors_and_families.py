"""Families against priors, with Hamiltonian Monte Carlo in the corner: regression of one input with gaps.

python examples/03_priors_and_families.py

Every panel is the same network and the same 60 points. Down: how the weights are uncertain (the family). Across: what
was believed of them before the data (the prior). The first row is the truth that the others approximate, draws of NUTS
from the same model; the table says how far each family is from it, where there are data and in the gaps.
"""

# %% Arguments. Run cell by cell, they have their defaults.
import argparse
import sys
import time
from pathlib import Path

import equinox as eqx
import flax.linen as nn
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from numpyro.infer import MCMC, NUTS

import bdl
from bdl import families, plots, priors

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--width", type=int, default=50, help="hidden units (default: %(default)s)")
parser.add_argument("--num-steps", type=int, default=8_000, help="training steps of a fit (default: %(default)s)")
parser.add_argument("--num-samples", type=int, default=1_000, help="draws of a prediction (default: %(default)s)")
parser.add_argument("--num-warmup", type=int, default=500, help="warm-up draws of NUTS (default: %(default)s)")
parser.add_argument("--seed", type=int, default=0, help="of data, weights and draws (default: %(default)s)")
parser.add_argument("--output", type=Path, default=Path("outputs"), help="folder of the figure (default: %(default)s)")
parser.add_argument("--fast", action="store_true", help="few steps and draws, only to see that it runs")
args = parser.parse_args([] if hasattr(sys, "ps1") else None)
if args.fast:
    args.width, args.num_steps, args.num_samples, args.num_warmup = 8, 20, 20, 10

# %% Two clusters of points, a gap between them, and nothing outside.
rng = np.random.default_rng(args.seed)
NOISE = 0.1
x = np.concatenate([rng.uniform(-1.5, -0.6, 30), rng.uniform(0.4, 1.3, 30)])[:, None].astype(np.float32)
y = (np.sin(2.5 * x) * np.exp(-0.2 * x) + NOISE * rng.normal(size=x.shape)).astype(np.float32)
grid = np.linspace(-2.5, 2.5, 201, dtype=np.float32)[:, None]
near = np.abs(grid - x.T).min(1) < 0.1

key = jax.random.key(args.seed)
module = nn.Sequential([nn.Dense(args.width), nn.tanh, nn.Dense(1)])
network = bdl.from_linen(module, module.init(key, x))
likelihood = bdl.likelihoods.Normal(scale=NOISE)

PRIORS = {
    "fan_in": priors.fan_in(),
    "Normal(0, 1)": priors.normal(scale=1.0),
    "fan_in, wide biases": {"*/bias": priors.normal(scale=3.0), "*": priors.fan_in(gain=4.0)},
}
if args.fast:
    PRIORS = {"fan_in": priors.fan_in()}
FAMILIES = {
    "normal": families.normal(scale=0.05),
    "full_normal": families.full_normal(scale=0.05),
    "radial": families.radial(scale=0.05),
    "bernoulli_dropout": {"*_2/kernel": families.bernoulli_dropout(rate=0.1)},
    "last layer only": {"layers_2/*": families.full_normal(scale=0.05)},
}


# %% The truth: draws of NUTS from exp(log_joint). Anything that can draw weights is a posterior, stored draws too.
class Draws(eqx.Module):
    """One of S stored networks, at random."""

    params: dict  # each array [S, ...]

    def sample(self, key: jax.Array) -> dict:
        index = jax.random.randint(key, (), 0, jax.tree.leaves(self.params)[0].shape[0])
        return jax.tree.map(lambda a: a[index], self.params)


def nuts(model: bdl.Model) -> Draws:
    negative = lambda params: -model.log_joint(key, params, (x, y))
    chain = MCMC(
        NUTS(potential_fn=negative), num_warmup=args.num_warmup, num_samples=args.num_samples, progress_bar=False
    )
    chain.run(key, init_params=network.params)
    return Draws(chain.get_samples())


def variational(model: bdl.Model, family: object) -> bdl.posteriors.Factorised:
    posterior = bdl.variational(network.params, family)
    algorithm = bdl.inference.vi(optax.adam(optax.cosine_decay_schedule(0.01, args.num_steps)), num_samples=4)
    fitted = bdl.fit(
        key, algorithm, posterior, model, (x, y), num_steps=args.num_steps, batch_size=len(x), progress=False
    )
    return fitted.posterior


# %% Every pair, and how far its mean and its standard deviation of f(x) are from those of NUTS.
print(f"{'':20}{'':20}{'error of the mean':>20}{'ratio of standard deviations':>32}")
print(f"{'prior':20}{'family':20}{'data':>10}{'gaps':>10}{'data':>16}{'gaps':>16}{'seconds':>10}")
figure, axes = plt.subplots(
    1 + len(FAMILIES), len(PRIORS), figsize=(10, 13), sharex=True, sharey=True, squeeze=False, layout="constrained"
)
table: dict[str, dict[str, float]] = {}
for column, (prior_name, prior) in enumerate(PRIORS.items()):
    model = bdl.Model(network, likelihood, prior)
    truth = None
    for row, (name, family) in enumerate({"NUTS": None, **FAMILIES}.items()):
        start = time.perf_counter()
        posterior = nuts(model) if family is None else variational(model, family)
        prediction = bdl.predict(key, posterior, model, grid, num_samples=args.num_samples)
        seconds = time.perf_counter() - start
        plots.bands(grid[:, 0], prediction, ax=axes[row, column])
        axes[row, column].plot(x, y, ".", color="black", ms=3)
        mean, spread = np.asarray(prediction.mean)[:, 0], np.sqrt(np.asarray(prediction.epistemic))[:, 0]
        truth = truth or (mean, spread)
        error, ratio = np.abs(mean - truth[0]) / truth[1], spread / truth[1]
        found = {"error, data": error[near].mean(), "error, gaps": error[~near].mean()}
        found |= {"ratio, data": np.median(ratio[near]), "ratio, gaps": np.median(ratio[~near])}
        table[f"{prior_name} / {name}"] = found
        a, b, c, d = found.values()
        print(f"{prior_name:20}{name:20}{a:>10.2f}{b:>10.2f}{c:>16.2f}{d:>16.2f}{seconds:>10.1f}")
        if column == 0:
            axes[row, 0].set_ylabel(name)
    axes[0, column].set_title(prior_name)
print("the error is in standard deviations of NUTS; a ratio below 1 is too sure")

# %% The figure.
axes[0, 0].set(ylim=(-3.5, 3.5), xlim=(-2.5, 2.5))
axes[-1, 0].legend(loc="lower left", fontsize=6)
args.output.mkdir(parents=True, exist_ok=True)
figure.savefig(args.output / "priors_and_families.png", dpi=110)
print(f"\nfigure: {args.output / 'priors_and_families.png'}")
