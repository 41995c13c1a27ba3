"""A gallery: every picture of a fit, of errors and of images that `bdl.plots` draws, from one network on digits.

python examples/12_gallery.py

A family for each layer: a Normal, concrete dropout and dropout, so that there are scales and rates to see. The digits
are seen through noise. Predictive bands, functions and intervals are in 01 and 03, bars of probabilities in 02, maps
over images in 05 and 08, reliability and quantiles in 11.
"""

# %% Arguments. Run cell by cell, they have their defaults.
import argparse
import sys
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

import bdl
from bdl import plots

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--num-steps", type=int, default=2_000, help="training steps (default: %(default)s)")
parser.add_argument("--num-samples", type=int, default=100, help="draws of a prediction (default: %(default)s)")
parser.add_argument("--seed", type=int, default=0, help="of split, weights and draws (default: %(default)s)")
parser.add_argument("--output", type=Path, default=Path("outputs"), help="folder of the figures (default: %(default)s)")
parser.add_argument("--fast", action="store_true", help="few steps and draws, only to see that it runs")
args = parser.parse_args([] if hasattr(sys, "ps1") else None)
if args.fast:
    args.num_steps, args.num_samples = 100, 10

# %% A fit with held-out scores.
key, rng = jax.random.key(args.seed), np.random.default_rng(args.seed)
x, y = load_digits(return_X_y=True)
x, y = (x / 16 + 0.3 * rng.normal(size=x.shape)).astype(np.float32), y.astype(np.int32)
train, held_out, test = np.split(rng.permutation(len(x)), [1_000, 1_200])

network = bdl.networks.mlp(key, x[:1], 10, widths=(64, 64))
families = {
    "Dense_0/*": bdl.families.normal(0.05),
    "Dense_1/kernel": bdl.families.concrete_dropout(),
    "head/kernel": bdl.families.bernoulli_dropout(0.1),
}
posterior = bdl.variational(network.params, families)
model = bdl.Model(network, bdl.likelihoods.Categorical(), bdl.priors.fan_in(gain=10.0))
fitted = bdl.fit(
    key, bdl.inference.vi(optax.adam(3e-3)), posterior, model, (x[train], y[train]),
    num_steps=args.num_steps, batch_size=64,
    validation=(x[held_out], y[held_out]), evaluate_every=max(args.num_steps // 10, 1),
)  # fmt: skip
prediction = bdl.predict(key, fitted.posterior, fitted.model, x[test], num_samples=args.num_samples)

# %% The fit, and what it made of each layer.
figure, axes = plt.subplots(3, 3, figsize=(13, 11), layout="constrained")
plots.history(fitted.history, ax=axes[0, 0]).set_title("history(fitted.history)")
plots.signal_to_noise(fitted.posterior, ax=axes[0, 1]).set_title("signal_to_noise(posterior)")
plots.rates(fitted.posterior, ax=axes[0, 2]).set_title("rates(posterior)")

# %% Errors: which for which, and does uncertainty tell them?
wrong = np.asarray(prediction.probs).argmax(1) != y[test]
entropy = np.asarray(prediction.entropy)
matrix = bdl.metrics.confusion_matrix(prediction.probs, y[test])
plots.confusion(matrix, ax=axes[1, 0]).set_title("confusion(matrix)")
names = "right", "wrong"
plots.scores(entropy[~wrong], entropy[wrong], names=names, num_bins=25, ax=axes[1, 1]).set_title("scores(...)")
axes[1, 1].legend()
uncertainties = {"entropy": entropy, "epistemic": prediction.epistemic, "chance": rng.random(len(test))}
for name, values in uncertainties.items():
    plots.risk_coverage(values, wrong, name=name, ax=axes[1, 2]).set_title("risk_coverage(uncertainty, wrong)")
    plots.roc(values, wrong, name=name, ax=axes[2, 0]).set_title("roc(uncertainty, wrong)")
    plots.precision_recall(values, wrong, name=name, ax=axes[2, 1]).set_title("precision_recall(uncertainty, wrong)")
for ax in (axes[1, 2], axes[2, 0], axes[2, 1]):
    ax.legend(fontsize="small")
some = jax.tree.map(lambda a: a[:8] if a.ndim else a, prediction)
plots.uncertainty(some, names=[f"a {label}" for label in y[test][:8]], ax=axes[2, 2]).set_title(
    "uncertainty(prediction)"
)
axes[2, 2].legend(fontsize="small")

# %% Save.
args.output.mkdir(parents=True, exist_ok=True)
figure.savefig(args.output / "gallery.png", dpi=130)
print(f"accuracy {1 - wrong.mean():.1%}; figure: {args.output / 'gallery.png'}")
