"""Where a network looks, and how sure it is of it: class activation maps over draws of the weights.

python examples/08_cam.py

Scenes: a digit of 8 × 8 pixels somewhere in an image of 20 × 20, among pieces of other digits. The network learns from
the class alone and is never told where the digit is; its maps show where it found it. Their standard deviation over
draws of the weights shows where draws disagree. Three kinds of test scenes: one digit, as in training; two digits of
different classes, each of which has a map; and an upside-down digit, which training has not shown.
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

import bdl
from bdl import plots

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--rate", type=float, default=0.1, help="probability of dropping a channel (default: %(default)s)")
parser.add_argument("--num-scenes", type=int, default=10_000, help="training scenes (default: %(default)s)")
parser.add_argument("--num-steps", type=int, default=2_000, help="training steps (default: %(default)s)")
parser.add_argument("--batch-size", type=int, default=64, help="scenes of a step (default: %(default)s)")
parser.add_argument("--num-samples", type=int, default=50, help="draws of a map (default: %(default)s)")
parser.add_argument("--seed", type=int, default=0, help="of scenes, weights and draws (default: %(default)s)")
parser.add_argument("--output", type=Path, default=Path("outputs"), help="folder of the figure (default: %(default)s)")
parser.add_argument("--fast", action="store_true", help="few scenes, steps and draws, only to see that it runs")
args = parser.parse_args([] if hasattr(sys, "ps1") else None)
if args.fast:
    args.num_scenes, args.num_steps, args.num_samples = 500, 20, 5

# %% Scenes. A fifth of the digits is for test scenes only.
SIZE, DIGIT, PIECE, PIECES = 20, 8, 4, 4
images, labels = load_digits(return_X_y=True)
images = images.reshape(-1, DIGIT, DIGIT).astype(np.float32) / 16
rng = np.random.default_rng(args.seed)
test, train = np.split(rng.permutation(len(images)), [len(images) // 5])


def scene(digits: list[np.ndarray], others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An image with these digits at random places that do not touch, and their corners."""
    canvas = np.zeros((SIZE, SIZE, 1), np.float32)
    for other in rng.choice(others, PIECES):
        row, column = rng.integers(0, SIZE - PIECE, 2)
        y, x = rng.integers(0, DIGIT - PIECE, 2)
        canvas[row : row + PIECE, column : column + PIECE, 0] = images[other, y : y + PIECE, x : x + PIECE]
    while True:
        corners = rng.integers(0, SIZE - DIGIT + 1, (len(digits), 2))
        if np.abs(corners[0] - corners[1:]).max(axis=-1).min(initial=DIGIT) >= DIGIT:
            break
    for digit, (row, column) in zip(digits, corners, strict=True):
        canvas[row : row + DIGIT, column : column + DIGIT, 0] = digit
    return canvas, corners


def scenes(rows: np.ndarray, count: int, kind: str = "one digit") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, the classes in them, and the corners of these digits."""
    found, classes, places = [], [], []
    while len(found) < count:
        chosen = rng.choice(rows, 2 if kind == "two digits" else 1)
        if len(set(labels[chosen])) < len(chosen):
            continue
        digits = [images[i][::-1] if kind == "upside down" else images[i] for i in chosen]
        image, corners = scene(digits, rows)
        found.append(image)
        classes.append(labels[chosen])
        places.append(corners)
    return np.stack(found), np.stack(classes), np.array(places)


x_train, y_train, _ = scenes(train, args.num_scenes)
num_test = 20 if args.fast else 100
kinds = {kind: scenes(test, num_test, kind) for kind in ("one digit", "two digits", "upside down")}
center, spread = x_train.mean(), x_train.std()

# %% A network of one's own: all that maps ask of it is that it ends in the mean over the pixels and a dense layer.
key = jax.random.key(args.seed)
module = nn.Sequential(
    [
        nn.Conv(16, (4, 4), strides=2), nn.relu,
        nn.Conv(32, (3, 3)), nn.relu,
        nn.Conv(48, (3, 3)), nn.relu,
        lambda features: features.mean(axis=(1, 2)),
        nn.Dense(10),
    ]
)  # fmt: skip
standardise = lambda x: (x - center) / spread
network = bdl.from_linen(module, module.init(key, x_train[:1]))
model = bdl.Model(network, bdl.likelihoods.Categorical(), bdl.priors.fan_in(gain=50.0))
posterior = bdl.variational(network.params, {"*/kernel": bdl.families.bernoulli_dropout(rate=args.rate)})

start = time.perf_counter()
optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, args.num_steps))
fitted = bdl.fit(
    key, bdl.inference.vi(optimizer), posterior, model, (standardise(x_train), y_train[:, 0]),
    num_steps=args.num_steps, batch_size=args.batch_size,
)  # fmt: skip
posterior, model = fitted.posterior, fitted.model
print(f"fitted to {len(x_train)} scenes in {time.perf_counter() - start:.1f} s")


# %% Maps, and whether they find the digit: is the brightest pixel of its class inside of its frame?
def maps_of(x: np.ndarray) -> bdl.ActivationMaps:
    return bdl.activation_maps(key, posterior, model, standardise(x), num_samples=args.num_samples, upsample=True)


def inside(values: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Whether the largest value of each map is inside of the frame with this corner."""
    place = np.stack(np.unravel_index(values.reshape(len(values), -1).argmax(1), (SIZE, SIZE)), -1)
    return np.all((place >= corners) & (place < corners + DIGIT), axis=1)


print(f"\n{'':14}{'accuracy':>10}{'epistemic':>11}{'found':>8}{'chance':>8}{'std / mean':>12}   at the brightest pixel")
maps, predictions, table = {}, {}, {}
for kind, (x, y, corners) in kinds.items():
    maps[kind] = maps_of(x)
    predictions[kind] = bdl.predict(key, posterior, model, standardise(x), num_samples=args.num_samples)
    first = predictions[kind].probs.argmax(1)
    rows = np.arange(len(x))
    mean, std = np.asarray(maps[kind].mean), np.asarray(maps[kind].standard_deviation)
    found = np.mean([inside(mean[rows, ..., y[:, d]], corners[:, d]) for d in range(y.shape[1])])
    peak = mean[rows, ..., first].reshape(len(x), -1)
    ratio = std[rows, ..., first].reshape(len(x), -1)[rows, peak.argmax(1)] / peak.max(1)
    table[kind] = {
        "accuracy": np.mean((np.asarray(first)[:, None] == y).any(1)),
        "epistemic": float(predictions[kind].epistemic.mean()),
        "found": found,
        "chance": (DIGIT / SIZE) ** 2,
        "ratio": np.median(ratio),
    }
    a, e, f, c, r = table[kind].values()
    print(f"{kind:14}{a:>10.1%}{e:>11.3f}{f:>8.1%}{c:>8.1%}{r:>12.2f}")
print("accuracy: the class predicted is that of a digit in the scene. Epistemic: mutual information, in nats.")

# %% The figure: scenes of each kind, and for two digits the map of each. Typical ones, of middling spread.
panels = [("one digit", 0), ("two digits", 0), ("two digits", 1), ("upside down", 0)]
limit = max(float(np.quantile(np.abs(m.mean), 0.999)) for m in maps.values())
figure, axes = plt.subplots(3, len(panels), figsize=(10, 7.6), layout="constrained")
for (kind, d), column in zip(panels, axes.T, strict=True):
    x, y, _ = kinds[kind]
    spreads = np.asarray(maps[kind].standard_deviation).max(axis=(1, 2, 3))
    n = int(np.argsort(spreads)[len(x) // 2])
    c = int(predictions[kind].probs[n].argmax()) if kind == "upside down" else int(y[n, d])
    title = {"one digit": f"one digit, {c}", "two digits": f"two digits: the {c}"}
    column[0].imshow(x[n, ..., 0], cmap="gray")
    probability = float(predictions[kind].probs[n, c])
    name = title[kind] if kind in title else f"a {int(y[n, d])} upside down: as {c}"
    column[0].set(title=f"{name}\np({c}) = {probability:.2f}", xticks=[], yticks=[])
    plots.activation_map(x[n], maps[kind].mean[n, ..., c], limit=limit, ax=column[1])
    plots.activation_map(x[n], maps[kind].standard_deviation[n, ..., c], spread=True, limit=limit / 2, ax=column[2])
for row, label in enumerate(["scene", "mean map of the class", "standard deviation over draws"]):
    axes[row, 0].set_ylabel(label)
for row in (1, 2):
    figure.colorbar(axes[row, -1].images[1], ax=axes[row], label="share in the logit, times pixels", shrink=0.9)
args.output.mkdir(parents=True, exist_ok=True)
figure.savefig(args.output / "cam.png", dpi=150)
print(f"figure: {args.output / 'cam.png'}")
