"""What the data cannot tell, and what the model does not know: Kendall and Gal (2017) in one dimension.

python examples/04_kendall_gal_regression.py             four models, then the last of them on more and more data
python examples/04_kendall_gal_regression.py --posterior dropout    or normal: of all layers, not of the last one

The noise of the data is known: it grows from left to right. There are no data beyond ±1. The four models are

* plain: noise of one size that is learned, one network;
* aleatoric: a network that predicts mean and log variance (the paper's equation 5);
* epistemic: noise of one size that is learned, a distribution over networks;
* both.

Then "both" sees 1/4, 1/2 and all of the data, as in the paper's Table 3: epistemic variance falls with the data, the
aleatoric one stays near the truth; away from the data it is the epistemic variance that grows.

The distribution is over the last layer, with its covariance: cheap, and the noise comes out right, but all features are
those of one network, so that the epistemic part is small. That of all layers is larger with mean field (which needs
more data before it finds the noise) and with dropout (whose rate is fixed, so that it does not fall with the data).
"""

# %% Arguments. Run cell by cell, they have their defaults.
import argparse
import sys
from pathlib import Path

import flax.linen as nn
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

import bdl
from bdl import families, likelihoods

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--posterior", choices=("last layer", "normal", "dropout"), default="last layer")
parser.add_argument("--num-data", type=int, default=1_600, help="examples, all of them (default: %(default)s)")
parser.add_argument("--num-steps", type=int, default=6_000, help="training steps of a model (default: %(default)s)")
parser.add_argument("--num-samples", type=int, default=500, help="draws of a prediction (default: %(default)s)")
parser.add_argument("--seed", type=int, default=0, help="of data, weights and draws (default: %(default)s)")
parser.add_argument("--output", type=Path, default=Path("outputs"), help="folder of the figure (default: %(default)s)")
parser.add_argument("--fast", action="store_true", help="few steps and draws, only to see that it runs")
args = parser.parse_args([] if hasattr(sys, "ps1") else None)
if args.fast:
    args.num_data, args.num_steps, args.num_samples = 160, 50, 20

# %% Data: y = sin(4 x) + noise of a standard deviation that is known.
generator = np.random.default_rng(args.seed)


def noise_scale(x: np.ndarray) -> np.ndarray:
    return 0.05 + 0.35 / (1 + np.exp(-6 * x))


def sample(count: int) -> tuple[np.ndarray, np.ndarray]:
    x = generator.uniform(-1, 1, (count, 1))
    y = np.sin(4 * x) + noise_scale(x) * generator.normal(size=x.shape)
    return x.astype(np.float32), y.astype(np.float32)


data, test = sample(args.num_data), sample(2_000)
grid = np.linspace(-2.2, 2.2, 441, dtype=np.float32)[:, None]
inside, outside = np.abs(grid[:, 0]) <= 1, np.abs(grid[:, 0]) > 1.4


# %% One network, two choices: who knows the noise, and are there many networks or one?
def fit(heteroscedastic: bool, random: bool, rows: int) -> tuple[bdl.posteriors.Factorised, bdl.Model]:
    key = jax.random.key(args.seed)
    module = nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(64), nn.relu, nn.Dense(2 if heteroscedastic else 1)])
    network = bdl.from_linen(module, module.init(key, grid[:1]))
    likelihood = likelihoods.HeteroscedasticNormal() if heteroscedastic else likelihoods.Normal(bdl.learned(0.3))
    family = {
        "last layer": {"layers_4/*": families.full_normal(scale=0.05)},  # with its covariance
        "normal": families.normal(scale=0.02),
        "dropout": families.bernoulli_dropout(0.05),
    }[args.posterior]
    posterior = bdl.variational(network.params, family if random else families.point)
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, args.num_steps))
    fitted = bdl.fit(
        key, bdl.inference.vi(optimizer), posterior, bdl.Model(network, likelihood),
        (data[0][:rows], data[1][:rows]), num_steps=args.num_steps, batch_size=min(rows, 100), progress=False,
    )  # fmt: skip
    return fitted.posterior, fitted.model


def predict(fitted: tuple, x: np.ndarray) -> bdl.Prediction:
    draws = args.num_samples if fitted[0].families else None
    return bdl.predict(jax.random.key(args.seed), *fitted, x, num_samples=draws)


def log_likelihood(fitted: tuple) -> float:
    draws = args.num_samples if fitted[0].families else None
    return float(bdl.log_predictive(jax.random.key(args.seed), *fitted, test, num_samples=draws).mean())


# %% The four models. The best that is possible: the truth's own log-likelihood.
kinds = {"plain": (False, False), "aleatoric": (True, False), "epistemic": (False, True), "both": (True, True)}
models = {name: fit(*choices, args.num_data) for name, choices in kinds.items()}
truth = np.sin(4 * test[0]), noise_scale(test[0])
best = np.mean(-0.5 * ((test[1] - truth[0]) / truth[1]) ** 2 - np.log(truth[1] * np.sqrt(2 * np.pi)))
table = {}
print(f"{args.num_data} examples; the truth has a log-likelihood of {best:.3f} nats per test example")
print(f"{'model':12}{'RMSE to sin(4 x)':>18}{'log-likelihood':>16}{'noise / truth, left':>21}{'right':>8}")
for name, fitted in models.items():
    found = predict(fitted, test[0])
    ratio = np.sqrt(found.aleatoric) / truth[1]
    left = test[0][:, 0] < 0
    table[name] = {
        "rmse": np.sqrt(np.mean((found.mean - truth[0]) ** 2)),
        "log_likelihood": log_likelihood(fitted),
        "left": ratio[left].mean(),
        "right": ratio[~left].mean(),
    }
    values = table[name].values()
    print(
        f"{name:12}" + "".join(f"{v:>{w}.{d}f}" for v, w, d in zip(values, (18, 16, 21, 8), (3, 3, 2, 2), strict=True))
    )

# %% Table 3 of the paper: more data.
sizes = [args.num_data // 4, args.num_data // 2, args.num_data]
by_size = {rows: models["both"] if rows == args.num_data else fit(True, True, rows) for rows in sizes}
print(f"\n{'variances':>10}{'aleatoric':>22}{'epistemic':>22}{'epistemic / aleatoric':>24}")
print(f"{'examples':>10}{'in data':>12}{'outside':>10}{'in data':>12}{'outside':>10}{'in data':>14}{'outside':>10}")
for rows, fitted in by_size.items():
    found = predict(fitted, grid)
    parts = [float(a[where].mean()) for a in (found.aleatoric, found.epistemic) for where in (inside, outside)]
    table[f"{rows} examples"] = dict(zip(("in", "out", "epistemic in", "epistemic out"), parts, strict=True))
    ratios = parts[2] / parts[0], parts[3] / parts[1]
    print(
        f"{rows:>10}{parts[0]:>12.4f}{parts[1]:>10.3f}{parts[2]:>12.5f}{parts[3]:>10.3f}{ratios[0]:>14.3f}{ratios[1]:>10.2f}"
    )
print(f"{'truth':>10}{np.mean(noise_scale(grid[inside]) ** 2):>12.4f}")

# %% The figure: the four models above, the three sizes below.
figure, axes = plt.subplot_mosaic(
    [[f"{name}" for name in kinds for _ in range(3)], [f"{rows}" for rows in sizes for _ in range(4)]],
    figsize=(13, 6.5), sharex=True, sharey=True, layout="constrained",
)  # fmt: skip
line = grid[:, 0]
for name, fitted in (models | by_size).items():
    ax, found = axes[str(name)], predict(fitted, grid)
    rows = name if isinstance(name, int) else args.num_data
    mean, noise, all_of_it = (np.asarray(a)[:, 0] for a in (found.mean, found.aleatoric, found.variance))
    ax.plot(data[0][:rows, 0], data[1][:rows, 0], ".", color="0.4", ms=2, alpha=0.5, zorder=3)
    ax.fill_between(line, mean - 2 * all_of_it**0.5, mean + 2 * all_of_it**0.5, color="#f4a582", lw=0)
    ax.fill_between(line, mean - 2 * noise**0.5, mean + 2 * noise**0.5, color="#9ecae1", lw=0)
    ax.plot(line, mean, color="k", lw=1)
    for sign in (-2, 2):
        ax.plot(line[inside], np.sin(4 * line[inside]) + sign * noise_scale(line[inside]), "k--", lw=0.7)
    ax.set(title=f"both, {name} examples" if isinstance(name, int) else name, xlim=(-2.2, 2.2), ylim=(-3, 3))
axes["plain"].fill_between([], [], color="#9ecae1", label="± 2 aleatoric")
axes["plain"].fill_between([], [], color="#f4a582", label="± 2 with epistemic")
axes["plain"].plot([], [], "k--", lw=0.7, label="± 2, truth")
axes["plain"].legend(loc="upper left", fontsize="small")
args.output.mkdir(parents=True, exist_ok=True)
figure.savefig(args.output / "kendall_gal_regression.png", dpi=150)
print(f"\nfigure: {args.output / 'kendall_gal_regression.png'}")
