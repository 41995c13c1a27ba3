"""Two maps of uncertainty for each image: what the pixels cannot tell, and what the model has not seen.

python examples/05_dense_prediction.py             scenes composed of the digits 0 to 3 of scikit-learn
python examples/05_dense_prediction.py --data DIR  street scenes: DIR holds camvid_120x90.npz, of CamVid

A U-Net gives each pixel its class. Its logits have noise of a size that it predicts for each pixel (Kendall and Gal
2017), and dropout on its wide layers makes it a distribution over networks.

The scenes have patches of fog, in training too: the label of a pixel in fog is that of the digit behind, which the
pixels hardly tell (aleatoric). Then something that training has not shown is put into each test image (epistemic): a
digit of 5 to 9, or a disc of squares; into streets as well. The rims of digits are void: not trained on, not scored.

What to expect: the parts are not told apart cleanly, in the paper neither. In fog the epistemic part rises too, and at
what is new the aleatoric one. But entropy calls fog stranger than a never-seen digit (area under the ROC curve 0.46),
the epistemic part does not (0.62), and the ratio epistemic / aleatoric is least in fog and largest at the disc.
"""

# %% Arguments. Run cell by cell, they have their defaults.
import argparse
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib.colors import ListedColormap
from scipy.ndimage import zoom
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

import bdl

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", type=Path, help="folder of camvid_120x90.npz (default: scenes of digits)")
parser.add_argument("--rate", type=float, default=0.2, help="probability of dropping a channel (default: %(default)s)")
parser.add_argument("--widths", type=int, nargs="+", default=(8, 16, 64), help="channels (default: %(default)s)")
parser.add_argument("--num-scenes", type=int, default=2_000, help="training scenes (default: %(default)s)")
parser.add_argument("--num-steps", type=int, default=1_500, help="training steps (default: %(default)s)")
parser.add_argument("--batch-size", type=int, default=16, help="scenes of a step (default: %(default)s)")
parser.add_argument("--num-samples", type=int, default=30, help="draws of a prediction (default: %(default)s)")
parser.add_argument("--seed", type=int, default=0, help="of scenes, weights and draws (default: %(default)s)")
parser.add_argument("--output", type=Path, default=Path("outputs"), help="folder of the figure (default: %(default)s)")
parser.add_argument("--fast", action="store_true", help="few scenes, steps and draws, only to see that it runs")
args = parser.parse_args([] if hasattr(sys, "ps1") else None)
if args.fast:
    args.widths, args.num_scenes, args.num_steps, args.num_samples = (4, 8), 100, 5, 3
num_test = 16 if args.fast else 100
rng = np.random.default_rng(args.seed)

# %% Digits of 8 × 8 pixels, magnified. A fifth of them is for test scenes only.
KNOWN, HEIGHT, WIDTH, SIDE, FOG = range(4), 24, 36, 12, 0.96
digits = load_digits()
parts = dict(
    zip(("test", "train"), np.split(rng.permutation(len(digits.target)), [len(digits.target) // 5]), strict=True)
)
known = {part: rows[np.isin(digits.target[rows], KNOWN)] for part, rows in parts.items()}
unknown = np.flatnonzero(digits.target > 4)


def magnified(row: int, side: int) -> np.ndarray:
    return np.clip(zoom(digits.images[row] / 16, side / 8, order=1), 0, 1)


def put(image: np.ndarray, opacity: np.ndarray, colour: np.ndarray, top: int, left: int) -> tuple[slice, slice]:
    """Put a shape into an image [H, W, C], in place; where it is."""
    where = slice(top, top + len(opacity)), slice(left, left + len(opacity))
    image[where] += opacity[..., None] * (colour - image[where])
    return where


# %% The data: images [N, H, W, C], labels [N, H, W] with the number of classes for void, and where there is fog.
class Scenes(NamedTuple):
    x: np.ndarray
    y: np.ndarray
    fog: np.ndarray


def scenes(part: str, count: int) -> Scenes:
    shape, rim = (count, HEIGHT, WIDTH), len(KNOWN) + 1
    x, y = np.zeros((*shape, 1), np.float32), np.zeros(shape, np.int32)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    middle = rng.uniform((0, 0), (HEIGHT, WIDTH), (count, 2))[:, :, None, None]
    distance = np.hypot(rows - middle[:, 0], columns - middle[:, 1])
    fog = FOG * np.exp(-((distance / 9) ** 6))
    corners = np.argwhere(np.ones((HEIGHT // SIDE, WIDTH // SIDE))) * SIDE
    for image, label in zip(x, y, strict=True):
        for corner in rng.permutation(corners)[: rng.integers(3, 6)]:
            row = rng.choice(known[part])
            opacity = magnified(row, SIDE)
            top, left = np.clip(corner + rng.integers(-3, 4, 2), 0, (HEIGHT - SIDE, WIDTH - SIDE))
            where = put(image, opacity, rng.uniform(0.7, 1, 1), top, left)
            label[where] = np.where(opacity > 0.5, 1 + digits.target[row], np.where(opacity > 0.25, rim, label[where]))
    x += fog[..., None] * (0.5 - x) + rng.normal(0, 0.05, x.shape)
    return Scenes(x.astype(np.float32), y, fog > FOG / 2)


def streets(part: str) -> Scenes:
    """CamVid, padded from 90 to 96 rows: a U-Net of three resolutions halves the image twice."""
    rows = (0, 0), (0, 6), (0, 0)
    with np.load(args.data / "camvid_120x90.npz") as file:
        x = np.pad(file[f"x_{part}"].astype(np.float32) / 255, (*rows, (0, 0)), mode="edge")
        y = np.pad(file[f"y_{part}"].astype(np.int32), rows, constant_values=11)
    if part == "train":  # and their mirror images
        x, y = (np.concatenate([a, a[:, :, ::-1]]) for a in (x, y))
    else:
        some = rng.permutation(len(x))[:num_test]
        x, y = x[some], y[some]
    return Scenes(x, y, np.zeros(y.shape, bool))


if args.data:
    classes = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]
    train, test = streets("train"), streets("test")
else:
    classes = ["background", *(f"digit {k}" for k in KNOWN)]
    train, test = scenes("train", args.num_scenes), scenes("test", num_test)
void = len(classes)


def with_never_seen(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """The test images with something new in each, in a scene where there is least beside it, and a mask of where."""
    images, masks = test.x.copy(), np.zeros(test.y.shape, bool)
    side = 32 if args.data else SIDE
    rows, columns = np.mgrid[:side, :side]
    disc = np.hypot(rows + 0.5 - side / 2, columns + 0.5 - side / 2) < side / 2
    squares = ((rows // 2 + columns // 2) % 2)[..., None]
    taken = test.fog | ((test.y > 0) & (args.data is None))
    for image, mask, full in zip(images, masks, taken, strict=True):
        places = rng.integers(0, np.subtract(image.shape[:2], side - 1), (20, 2))
        top, left = min(places, key=lambda place: full[place[0] : place[0] + side, place[1] : place[1] + side].sum())
        colour = rng.uniform(0.7, 1, image.shape[-1])
        if kind == "digits":
            opacity = magnified(rng.choice(unknown), side)
        else:
            opacity, colour = disc.astype(float), colour * np.where(squares, 1, 0.1)
        where = put(image, opacity, colour, top, left)
        mask[where] = opacity > 0.5
    noise = 0 if args.data else rng.normal(0, 0.05, images.shape)
    return (images + masks[..., None] * noise).astype(np.float32), masks


strange = {f"never-seen {kind}": with_never_seen(kind) for kind in ("digits", "texture")}

# %% Noise on the logits, dropout on the convolutions of the lower resolutions: they have channels to spare.
key = jax.random.key(args.seed)
network = bdl.networks.unet(key, train.x[:1], 2 * len(classes), widths=args.widths)
likelihood = bdl.likelihoods.masked(bdl.likelihoods.HeteroscedasticCategorical(num_samples=5), void=void)
model = bdl.Model(network, likelihood)


def wide(params: dict) -> list[str]:
    """The paths of the 3 × 3 convolutions of many channels."""
    leaves = {"/".join(k.key for k in path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    return [path for path, shape in leaves.items() if shape[:2] == (3, 3) and shape[2] >= args.widths[-2]]


posterior = bdl.variational(
    network.params, dict.fromkeys(wide(network.params), bdl.families.bernoulli_dropout(args.rate))
)
start = time.perf_counter()
optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, args.num_steps))
fitted = bdl.fit(
    key, bdl.inference.vi(optimizer), posterior, model, (train.x, train.y),
    num_steps=args.num_steps, batch_size=args.batch_size,
)  # fmt: skip
height, width = train.x.shape[1:3]
print(f"fitted to {len(train.x)} images of {height} × {width} in {time.perf_counter() - start:.0f} s")


# %% Predict: some images at a time, so that memory does not grow with their number.
def predict(x: np.ndarray) -> bdl.ClassPrediction:
    found = bdl.predict(key, fitted.posterior, fitted.model, x, num_samples=args.num_samples, batch_size=20)
    return jax.tree.map(np.asarray, found)


start = time.perf_counter()
found = predict(test.x)
found_strange = {name: predict(x) for name, (x, _) in strange.items()}
print(f"{args.num_samples} draws for {3 * len(test.x)} images in {time.perf_counter() - start:.0f} s")

# %% Scores of the pixels that have a label.
seen = test.y != void
labels, answers = test.y[seen], found.probs.argmax(-1)
right = answers[seen] == labels
both = np.bincount(labels * void + answers[seen], minlength=void**2).reshape(void, void)
union = both.sum(0) + both.sum(1) - both.diagonal()
log_loss = -np.log(np.maximum(np.take_along_axis(found.probs[seen], labels[:, None], 1)[:, 0], 1e-30))
surest = right[np.argsort(found.entropy[seen], kind="stable")]
table = {
    "test": {
        "mean IoU": np.mean(both.diagonal()[union > 0] / union[union > 0]),
        "accuracy": right.mean(),
        "NLL": log_loss.mean(),
        **{f"precision, {part} % removed": surest[: len(surest) * (100 - part) // 100].mean() for part in (20, 50)},
    }
}
print("\npixels of test images with a label; the most uncertain are removed by their predictive entropy")
for name, value in table["test"].items():
    print(f"  {name:26}{value:>8.3f}" + (" nats a pixel" if name == "NLL" else ""))

# %% The split, by what a pixel shows.
regions = {
    "clear digits": (found, seen & (test.y > 0) & ~test.fog),
    "digits in fog": (found, seen & (test.y > 0) & test.fog),
}
if args.data:
    regions = {"all labelled": (found, seen)}
others = list(regions)
regions |= {name: (found_strange[name], mask) for name, (_, mask) in strange.items()}
print(f"\n{'means, in nats':20}{'pixels':>9}{'accuracy':>10}{'aleatoric':>11}{'epistemic':>11}{'ratio':>8}")
for name, (prediction, where) in regions.items():
    aleatoric, epistemic = prediction.aleatoric[where].mean(), prediction.epistemic[where].mean()
    table[name] = {"aleatoric": aleatoric, "epistemic": epistemic, "ratio": epistemic / aleatoric}
    accuracy = "-" if name in strange else f"{np.mean(answers[where] == test.y[where]):.1%}"
    print(f"{name:20}{where.sum():>9}{accuracy:>10}{aleatoric:>11.3f}{epistemic:>11.3f}{epistemic / aleatoric:>8.2f}")

print("\nnever-seen pixels told from others, area under the ROC curve")
for new in strange:
    for other in others:
        pair = [(prediction, where) for prediction, where in (regions[other], regions[new])]
        truth = np.repeat([0, 1], [where.sum() for _, where in pair])
        areas = {
            part: roc_auc_score(truth, np.concatenate([getattr(prediction, part)[where] for prediction, where in pair]))
            for part in ("entropy", "epistemic")
        }
        table[f"{new} from {other}"] = areas
        print(f"  {f'{new} from {other}':40}" + ", ".join(f"{part} {area:.2f}" for part, area in areas.items()))


# %% The figure: two test images, and two with what training has not shown. One scale in a column.
def typical(values: np.ndarray, where: np.ndarray) -> list[int]:
    """Two images of middling values in a region, among those of which it is a good part."""
    size = where.sum((1, 2))
    rows = np.flatnonzero(size >= np.quantile(size, 0.7))
    means = [values[row][where[row]].mean() for row in rows]
    return list(rows[np.argsort(means)[[len(rows) // 2, 3 * len(rows) // 4]]])


fogged = seen if args.data else seen & test.fog & (test.y > 0)
rows = [("test image", test.x, test.y, found, n, None) for n in typical(found.aleatoric, fogged)]
for name, (x, mask) in strange.items():
    n = typical(found_strange[name].epistemic, mask)[0]
    rows.append((name, x, np.where(mask, void, test.y), found_strange[name], n, mask))
everything = [found, *found_strange.values()]
limits = [max(np.quantile(getattr(p, part), 0.998) for p in everything) for part in ("aleatoric", "epistemic")]
colours = ListedColormap(
    [*(plt.colormaps["tab20"].colors[:11] if args.data else ["0.15", "C0", "C1", "C2", "C4"]), "1.0"]
)
classes_of = {"cmap": colours, "vmin": -0.5, "vmax": void + 0.5, "interpolation": "nearest"}
figure, axes = plt.subplots(
    len(rows) + 1, 5, figsize=(12.5, 8), height_ratios=[*[1] * len(rows), 0.07], layout="constrained"
)
for line, (name, x, y, prediction, n, mask) in zip(axes[:-1], rows, strict=True):
    line[0].imshow(np.clip(x[n], 0, 1), cmap="gray")
    line[1].imshow(y[n], **classes_of)
    line[2].imshow(prediction.probs[n].argmax(-1), **classes_of)
    for ax, part, limit in zip(line[3:], ("aleatoric", "epistemic"), limits, strict=True):
        ax.imshow(getattr(prediction, part)[n], cmap="magma", vmin=0, vmax=limit)
    if mask is not None:
        for ax in line:
            ax.contour(mask[n], [0.5], colors="cyan", linewidths=0.8)
    line[0].set_ylabel(name)
for ax in axes[:-1].flat:
    ax.set(xticks=[], yticks=[])
for ax, title in zip(axes[0], ("image", "label", "prediction", "aleatoric", "epistemic"), strict=True):
    ax.set_title(title)
for ax in axes[-1, :3]:
    ax.remove()
key_of_classes = figure.add_subplot(axes[-1, 0].get_gridspec()[-1, :3])
bar = figure.colorbar(axes[0, 2].images[0], cax=key_of_classes, orientation="horizontal", ticks=range(void + 1))
bar.ax.set_xticklabels([*classes, "void"], rotation=20 if args.data else 0, fontsize="small")
for column, name in ((3, "expected entropy, nats"), (4, "mutual information, nats")):
    figure.colorbar(axes[0, column].images[0], cax=axes[-1, column], orientation="horizontal", label=name)
args.output.mkdir(parents=True, exist_ok=True)
figure.savefig(args.output / "dense_prediction.png", dpi=150)
print(f"\nfigure: {args.output / 'dense_prediction.png'}")
