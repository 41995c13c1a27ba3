"""Classification with uncertainty: Monte Carlo dropout on digits of three kinds.

python examples/02_classification.py

Clear: digits 0 to 7, as in training. Ambiguous: two digits laid over each other, which are in the training images too;
a coin says which of the two is the label, so that even who knows it all is left with log 2 = 0.69 nats (aleatoric).
Unseen: digits 8 and 9, which no training image shows, so that draws of the network disagree (epistemic).
"""

# %% Arguments. Run cell by cell, they have their defaults.
import argparse
import sys
import time
from pathlib import Path

import flax.linen as nn
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

import bdl
from bdl import plots

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--rate", type=float, default=0.1, help="the probability of dropping a unit (default: %(default)s)")
parser.add_argument("--num-blends", type=int, default=4_000, help="ambiguous training images (default: %(default)s)")
parser.add_argument("--num-steps", type=int, default=4_000, help="training steps (default: %(default)s)")
parser.add_argument("--batch-size", type=int, default=128, help="images of a step (default: %(default)s)")
parser.add_argument("--num-samples", type=int, default=500, help="draws of a prediction (default: %(default)s)")
parser.add_argument("--seed", type=int, default=0, help="of split, weights and draws (default: %(default)s)")
parser.add_argument("--output", type=Path, default=Path("outputs"), help="folder of the figure (default: %(default)s)")
parser.add_argument("--fast", action="store_true", help="few steps and draws, only to see that it runs")
args = parser.parse_args([] if hasattr(sys, "ps1") else None)
if args.fast:
    args.num_steps, args.num_samples = 100, 50

# %% Three kinds of images, of 8 × 8 pixels. A fifth of the digits 0 to 7 are the test.
x, y = load_digits(return_X_y=True)
rng = np.random.default_rng(args.seed)
known = rng.permutation(np.flatnonzero(y < 8))
test, train = np.split(known, [len(known) // 5])
x = ((x - x[train].mean()) / x[train].std()).astype(np.float32)


def blend(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Averages of two digits of different classes, with the label of one of them."""
    first, second = rng.choice(rows, (2, 2 * count))
    pairs = np.flatnonzero(y[first] != y[second])[:count]
    first, second = first[pairs], second[pairs]
    return (x[first] + x[second]) / 2, y[np.where(rng.random(len(pairs)) < 0.5, first, second)]


x_train, y_train = map(np.concatenate, zip((x[train], y[train]), blend(train, args.num_blends), strict=True))
kinds = {"clear": (x[test], y[test]), "ambiguous": blend(test, 500), "unseen": (x[y > 7], None)}

# %% Monte Carlo dropout. The prior is wide: under the default one the weights stay too small for sure answers.
key = jax.random.key(args.seed)
module = nn.Sequential([nn.Dense(200), nn.relu, nn.Dense(200), nn.relu, nn.Dense(8)])
network = bdl.from_linen(module, module.init(key, x_train[:1]))
model = bdl.Model(network, bdl.likelihoods.Categorical(), bdl.priors.fan_in(gain=100.0))
posterior = bdl.variational(network.params, {"*/kernel": bdl.families.bernoulli_dropout(rate=args.rate)})

start = time.perf_counter()
fitted = bdl.fit(
    key, bdl.inference.vi(optax.adam(1e-3)), posterior, model, (x_train, y_train),
    num_steps=args.num_steps, batch_size=args.batch_size,
)  # fmt: skip
seconds = time.perf_counter() - start
print(f"fitted to {len(train)} clear and {len(y_train) - len(train)} ambiguous images in {seconds:.1f} s")


# %% Predict: entropy = aleatoric (expected entropy) + epistemic (mutual information of class and weights).
def predict(images: np.ndarray) -> bdl.ClassPrediction:
    return bdl.predict(key, fitted.posterior, fitted.model, images, num_samples=args.num_samples)


def nll(images: np.ndarray, labels: np.ndarray) -> float:
    data, draws = (images, labels), args.num_samples
    return -bdl.log_predictive(key, fitted.posterior, fitted.model, data, num_samples=draws).mean()


def parts(prediction: bdl.ClassPrediction, index: object = slice(None)) -> str:
    values = (prediction.entropy, prediction.aleatoric, prediction.epistemic)
    return "".join(f"{value[index].mean():>12.3f}" for value in values)


predictions = {kind: predict(images) for kind, (images, _) in kinds.items()}
print("\nmeans, in nats    images    accuracy         NLL     entropy   aleatoric   epistemic")
for kind, (images, labels) in kinds.items():
    correct, loss = "-", "-"
    if labels is not None:
        correct, loss = f"{np.mean(predictions[kind].probs.argmax(1) == labels):.1%}", f"{nll(images, labels):.3f}"
    print(f"{kind:14}{len(images):>10}{correct:>12}{loss:>12}{parts(predictions[kind])}")
print("ambiguous, at best: accuracy 50 %; NLL, entropy and aleatoric log 2 = 0.693; epistemic 0\n")

for other in ("clear", "ambiguous"):
    pair = predictions[other], predictions["unseen"]
    truth = np.repeat([0, 1], [len(p.entropy) for p in pair])
    by_entropy = roc_auc_score(truth, np.concatenate([p.entropy for p in pair]))
    by_epistemic = roc_auc_score(truth, np.concatenate([p.epistemic for p in pair]))
    print(f"unseen told from {other}, area under the ROC curve: entropy {by_entropy:.2f}, epistemic {by_epistemic:.2f}")


# %% One image of each kind: the one whose two parts are nearest to their means.
def typical(p: bdl.ClassPrediction) -> int:
    return np.argmin(np.hypot(p.aleatoric - p.aleatoric.mean(), p.epistemic - p.epistemic.mean()))


chosen = [images[typical(predictions[kind])] for kind, (images, _) in kinds.items()]
three = predict(np.stack(chosen))
print("\none image         " + "".join(f"   p({k})" for k in range(8)) + "     entropy   aleatoric   epistemic")
for i, kind in enumerate(kinds):
    print(f"{kind:18}" + "".join(f"{p:7.3f}" for p in three.probs[i]) + parts(three, i))

# %% The figure.
figure, axes = plt.subplot_mosaic(
    [["clear", "ambiguous", "unseen"], ["p0", "p1", "p2"], ["split"] * 3],
    figsize=(9.5, 7.5), height_ratios=[1.3, 1, 0.9], layout="constrained",
)  # fmt: skip
titles = ["clear: as in training", "ambiguous: two in one, a coin labels", "unseen: not in training"]
for i, (kind, title) in enumerate(zip(kinds, titles, strict=True)):
    axes[kind].imshow(chosen[i].reshape(8, 8), cmap="gray_r")
    axes[kind].set(title=title, xticks=[], yticks=[])
    plots.probabilities(three, i, ax=axes[f"p{i}"]).set(xlabel="class", ylabel="")
axes["p0"].set(ylabel="probability\n(± std over draws)")
plots.uncertainty(three, names=list(kinds), ax=axes["split"]).legend(loc="upper right")
args.output.mkdir(parents=True, exist_ok=True)
figure.savefig(args.output / "classification.png", dpi=150)
print(f"\nfigure: {args.output / 'classification.png'}")
