"""What has it never seen? Scores of inputs, decisions by them, and the inputs that surprise most and least.

python examples/09_ood.py                                       digits of 8 × 8 pixels: 0 to 7 known, 8 and 9 never seen
python examples/09_ood.py --inside fashion_mnist.npz --outside mnist.npz

A classifier must name a class, whatever it is shown. Here it is also shown what it has not learned: digits of other
classes, digits upside down, pieces of photographs, noise. Scores of its logits, of its features and of draws of its
weights say how unlike the training data an input is; held-out inliers make a decision of a score, with a rate of false
alarms that is known. The files have arrays x_train [N, H, W], y_train [N], x_test and y_test; of the second, all images
are outliers.
"""

# %% Arguments. Run cell by cell, they have their defaults.
import argparse
import dataclasses
import sys
import time
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits, load_sample_images

import bdl
from bdl import ood, plots

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--inside", type=Path, help="a file of images and labels (default: the digits 0 to 7)")
parser.add_argument("--outside", type=Path, help="a file of other images (default: the digits 8 and 9)")
parser.add_argument("--num-steps", type=int, default=1_500, help="training steps (default: %(default)s)")
parser.add_argument("--batch-size", type=int, default=64, help="images of a step (default: %(default)s)")
parser.add_argument("--num-samples", type=int, default=30, help="draws of the weights (default: %(default)s)")
parser.add_argument("--seed", type=int, default=0, help="of weights, draws and noise (default: %(default)s)")
parser.add_argument("--output", type=Path, default=Path("outputs"), help="folder of the figure (default: %(default)s)")
parser.add_argument("--fast", action="store_true", help="few images, steps and draws, only to see that it runs")
args = parser.parse_args([] if hasattr(sys, "ps1") else None)
if (args.inside is None) != (args.outside is None):
    parser.error("pass both --inside and --outside, or neither")
if args.fast:
    args.num_steps, args.num_samples = 20, 3

# %% Inliers: training, held out, test, each of the known classes. Outliers of several kinds, never trained on.
rng = np.random.default_rng(args.seed)
if args.inside is None:
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8).astype(np.float32) / 16
    unseen, known = images[labels > 7], labels <= 7
    images, labels = images[known], labels[known]
else:
    try:
        files = [np.load(path) for path in (args.inside, args.outside)]
        images, unseen = (np.concatenate([f["x_train"], f["x_test"]]) for f in files)
        labels = np.concatenate([files[0]["y_train"], files[0]["y_test"]])
    except (OSError, KeyError) as error:
        parser.error(f"expected files with x_train, y_train, x_test and y_test: {error}")
    images, unseen = (a.reshape(*a.shape[:3]).astype(np.float32) / 255 for a in (images, unseen))
    chosen = rng.permutation(len(images))[:12_000]
    images, labels, unseen = images[chosen], labels[chosen], unseen[rng.permutation(len(unseen))[:2_000]]
order = rng.permutation(len(images))[: 300 if args.fast else None]
parts = np.split(order, [int(0.6 * len(order)), int(0.8 * len(order))])
x_train, x_held, x_test = (images[part][..., None] for part in parts)
y_train, _, y_test = (labels[part].astype(np.int32) for part in parts)

size = images.shape[1]
picture = load_sample_images().images[0].mean(-1) / 255
corners = rng.integers(0, min(picture.shape) - 4 * size, (500, 2))
pieces = [picture[i : i + 4 * size, j : j + 4 * size].reshape(size, 4, size, 4).mean((1, 3)) for i, j in corners]
outliers = {
    "other kinds": unseen[..., None],
    "upside down": x_test[:, ::-1],
    "photographs": np.stack(pieces)[..., None].astype(np.float32),
    "noise": rng.uniform(size=(500, size, size, 1)).astype(np.float32),
}

# %% An ordinary network with dropout on its dense layers. It has seen nothing but inliers.
key = jax.random.key(args.seed)
network = bdl.networks.lenet(key, x_train[:1], int(labels.max()) + 1)
rates = dict.fromkeys(["Dense_1/kernel", "head/kernel"], bdl.families.bernoulli_dropout(rate=0.2))
posterior = bdl.variational(network.params, rates)
model = bdl.Model(network, bdl.likelihoods.Categorical(), bdl.priors.fan_in(gain=50.0))
start = time.perf_counter()
optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, args.num_steps))
fitted = bdl.fit(
    key, bdl.inference.vi(optimizer), posterior, model, (x_train, y_train),
    num_steps=args.num_steps, batch_size=args.batch_size,
)  # fmt: skip
posterior, model = fitted.posterior, fitted.model
predict = lambda x: bdl.predict(key, posterior, model, x, num_samples=args.num_samples, batch_size=1_000)
accuracy = np.mean(np.asarray(predict(x_test).probs).argmax(1) == y_test)
print(f"fitted to {len(x_train)} images in {time.perf_counter() - start:.1f} s; accuracy on test images {accuracy:.1%}")

# %% Detectors. Of the logits of one draw, of its features, and of what many draws make of an input.
weights = posterior.mean
logits = lambda x: network.apply(weights, network.state, x)[0]
trained = dataclasses.replace(network, params=weights)
features = ood.layer_features(trained, "Dense_1", activation=jax.nn.relu, batch_size=1_000)
at_training = features(x_train)
methods = {
    "maximum softmax": ood.through(logits, ood.max_softmax, batch_size=1_000),
    "energy": ood.through(logits, ood.energy, batch_size=1_000),
    "ODIN": ood.odin(logits, batch_size=1_000),
    "mutual information": ood.from_draws(
        key, posterior, model, ood.mutual_information, num_samples=args.num_samples, batch_size=1_000
    ),
    "Mahalanobis": ood.through(features, ood.mahalanobis(at_training, y_train)),
    "nearest neighbours": ood.through(features, ood.nearest_neighbours(at_training, k=10)),
}
found = ood.compare(methods, x_test, outliers)
print(f"\nArea under the ROC curve\n\n{found.table('auroc')}")
print(f"\nFPR95: the share of outliers that pass where 95 % of the inliers do\n\n{found.table('fpr95')}")
table = {
    method: {kind: float(metrics["auroc"][0]) for kind, metrics in kinds.items()}
    for method, kinds in found.metrics.items()
}

# %% A decision: the threshold that 95 % of held-out inliers pass. New inliers pass as often, but for chance.
detector = methods["nearest neighbours"].held_out(x_held)
flagged = {"inliers": detector.flag(x_test)} | {kind: detector.flag(x) for kind, x in outliers.items()}
print("\nFlagged by nearest neighbours, of each kind (of inliers 5 % are meant to be)\n")
print("  ".join(f"{kind} {float(flags.mean()):.1%}" for kind, flags in flagged.items()))

# %% The three of the taxonomy for the first inputs of each kind: hard, unknown to the model, unlike the data.
shown = np.concatenate([x_test[:3], *(x[:2] for x in outliers.values())])
print(f"\n{ood.report(predict(shown), detector, shown)}\n")

# %% The figure: inputs from the least to the most surprising of each kind, and histograms of the score.
COLUMNS = 12
everything = {"inliers": x_test, **outliers}
figure = plt.figure(figsize=(10, 8.4), layout="constrained")
upper, lower = figure.subfigures(2, 1, height_ratios=(1.5, 1))
panels = upper.subplots(len(everything), COLUMNS)
for row, (kind, x) in zip(panels, everything.items(), strict=True):
    scores, p_values = detector(x), detector.p_value(x)
    ranks = np.argsort(scores)[np.linspace(0, len(x) - 1, COLUMNS).round().astype(int)]
    for panel, n in zip(row, ranks, strict=True):
        panel.imshow(x[n, ..., 0], cmap="gray", vmin=0, vmax=1)
        panel.set_title(f"{float(scores[n]):.2f}\np {float(p_values[n]):.3f}", fontsize=7)
        panel.set(xticks=[], yticks=[])
    row[0].set_ylabel(kind, fontsize=8)
upper.suptitle("from the least to the most surprising; above each its score and conformal p-value", fontsize=10)
left, right = lower.subplots(1, 2)
for ax, method in ((left, "maximum softmax"), (right, "nearest neighbours")):
    scores = dict(found.scores[method])
    plots.scores(scores.pop("in"), scores, num_bins=40, ax=ax)
    ax.set(title=method, yscale="log")
right.axvline(float(detector.threshold()), color="0.3", lw=1)
left.legend(fontsize=7, loc="upper right")
args.output.mkdir(parents=True, exist_ok=True)
figure.savefig(args.output / "ood.png", dpi=150)
print(f"figure: {args.output / 'ood.png'}")
