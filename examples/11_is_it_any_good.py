"""Can the uncertainty be trusted? Numbers, pictures and repairs, of a classification and of a regression.

python examples/11_is_it_any_good.py

Digits seen through noise: a network that learned its training images by heart is far too sure of itself, and one
temperature repairs that; Monte Carlo dropout is less wrong to begin with. Then the progression of diabetes:
predicted intervals that are too narrow are stretched by one factor, and conformal ones hold what they promise whatever
the network says. All numbers are of examples that neither the networks nor the repairs have seen.
"""

# %% Arguments. Run cell by cell, they have their defaults.
import argparse
import sys
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_diabetes, load_digits

import bdl
from bdl import plots

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--noise", type=float, default=0.4, help="of the pixels, from 0 to 1 (default: %(default)s)")
parser.add_argument("--num-steps", type=int, default=1_500, help="training steps (default: %(default)s)")
parser.add_argument("--num-samples", type=int, default=200, help="draws of a prediction (default: %(default)s)")
parser.add_argument("--seed", type=int, default=0, help="of splits, weights and draws (default: %(default)s)")
parser.add_argument("--output", type=Path, default=Path("outputs"), help="folder of the figure (default: %(default)s)")
parser.add_argument("--fast", action="store_true", help="few steps and draws, only to see that it runs")
args = parser.parse_args([] if hasattr(sys, "ps1") else None)
if args.fast:
    args.num_steps, args.num_samples = 100, 20
key, rng = jax.random.key(args.seed), np.random.default_rng(args.seed)


# %% Two networks for the same digits: point masses, and Monte Carlo dropout; under a prior too wide to restrain them.
def fit(likelihood, families, x, y, outputs, gain=1_000.0):
    network = bdl.networks.mlp(key, x[:1], outputs, widths=(100, 100))
    model = bdl.Model(network, likelihood, bdl.priors.fan_in(gain=gain))
    posterior = bdl.variational(network.params, families)
    algorithm = bdl.inference.vi(optax.adam(1e-3))
    steps = {"num_steps": args.num_steps, "batch_size": 64}
    return bdl.fit(key, algorithm, posterior, model, (x, y), **steps)


def predict(fitted, x):
    draws = args.num_samples if fitted.posterior.families else None
    return bdl.predict(key, fitted.posterior, fitted.model, x, num_samples=draws)


digits = load_digits()
x, y = digits.data / 16, digits.target.astype(np.int32)
x = (x + args.noise * rng.normal(size=x.shape)).astype(np.float32)
train, held_out, test = np.split(rng.permutation(len(x)), [600, 1_000])

fits = {
    "point masses": fit(bdl.likelihoods.Categorical(), bdl.families.point, x[train], y[train], 10),
    "dropout": fit(
        bdl.likelihoods.Categorical(), {"*/kernel": bdl.families.bernoulli_dropout(0.2)}, x[train], y[train], 10
    ),
}

# %% The numbers, and the repair: a temperature, fitted on digits that were held out.
probs = {}
for name, fitted in fits.items():
    probs[name] = predict(fitted, x[test]).probs
    temperature = bdl.calibration.temperature(predict(fitted, x[held_out]).probs, y[held_out])
    probs[f"{name}, T = {np.exp(temperature.log_temperature):.1f}"] = temperature(probs[name])
for name, p in probs.items():
    print(f"\n{name}\n{bdl.evaluate(p, y[test], key=key)}")

# %% Sets of digits that hold the label nine times out of ten, if digits to come are like those held out.
print("\nsets for 90 %            coverage    mean size   for the tenth that is least sure")
for name, fitted in fits.items():
    sets = bdl.conformal.aps(key, predict(fitted, x[held_out]).probs, y[held_out], alpha=0.1)(key, probs[name])
    inside, size = np.asarray(sets)[np.arange(len(test)), y[test]], np.asarray(sets).sum(1)
    least = np.argsort(probs[name].max(1))[: len(test) // 10]
    print(f"{name:24}{inside.mean():>9.1%}{size.mean():>13.2f}{size[least].mean():>9.2f}")

# %% A regression: the progression of diabetes after a year. The noise is learned where the network knows the answers.
data = load_diabetes()
x_d, y_d = 20 * data.data.astype(np.float32), data.target.astype(np.float32)[:, None]
train_d, held_d, test_d = np.split(rng.permutation(len(x_d)), [160, 300])
center, unit = y_d[train_d].mean(), y_d[train_d].std()
normal = bdl.likelihoods.Normal(scale=bdl.learned(0.5))
regression = fit(normal, bdl.families.point, x_d[train_d], (y_d[train_d] - center) / unit, 1, gain=3.0)


def moments(rows):
    prediction = predict(regression, x_d[rows])
    return center + unit * np.asarray(prediction.mean), unit**2 * np.asarray(prediction.variance)


mean, variance = moments(test_d)
held_mean, held_variance = moments(held_d)
stretch = bdl.calibration.variance_scale(held_mean, held_variance, y_d[held_d])
scales = {"as predicted": np.sqrt(variance), "stretched": np.sqrt(stretch(mean, variance)[1])}
for name, scale in scales.items():
    print(f"\ndiabetes, {name}\n{bdl.evaluate((mean, scale), y_d[test_d], key=key)}")
conformal = bdl.conformal.normalised(held_mean, np.sqrt(held_variance), y_d[held_d], alpha=0.05)
low, high = conformal(mean, np.sqrt(variance))
covered = np.mean((low <= y_d[test_d]) & (y_d[test_d] <= high))
print(f"\nconformal intervals for 95 %: they cover {covered:.1%}, with a mean width of {np.mean(high - low):.0f}")

# %% The figure.
figure, axes = plt.subplot_mosaic(
    [["before", "after", "dropout"], ["risk", "confusion", "quantiles"]], figsize=(12.5, 8.5), layout="constrained"
)
titles = {"before": "point masses", "after": "the same, with a temperature", "dropout": "dropout"}
for (panel, title), name in zip(titles.items(), list(probs)[:3], strict=True):
    plots.reliability(probs[name], y[test], num_bins=10, ax=axes[panel]).legend(loc="upper left", fontsize="small")
    axes[panel].child_axes[0].set_title(title)
for name in fits:
    entropy = -(probs[name] * np.log(np.maximum(probs[name], 1e-38))).sum(1)
    plots.risk_coverage(entropy, probs[name].argmax(1) != y[test], name=name, ax=axes["risk"])
axes["risk"].set(ylabel="error of those kept", xlabel="share of digits kept, by entropy")
axes["risk"].legend(fontsize="small")
matrix = bdl.metrics.confusion_matrix(probs["dropout"], y[test])
plots.confusion(matrix, ax=axes["confusion"]).set_title("dropout")
for name, scale in scales.items():
    pit = bdl.metrics.pit_normal(mean, scale, y_d[test_d])
    plots.quantile_calibration(pit, name=name, ax=axes["quantiles"]).set_title("diabetes")
axes["quantiles"].legend(fontsize="small")
args.output.mkdir(parents=True, exist_ok=True)
figure.savefig(args.output / "is_it_any_good.png", dpi=150)
print(f"\nfigure: {args.output / 'is_it_any_good.png'}")
