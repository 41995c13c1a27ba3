"""Classifiers trained to know what they do not know, after Lee et al. (2018): the toy, and an ablation on images.

    python -m benchmarks.lee2018 toy --picture docs/images/lee-toy.png   # a minute on two cores
    python -m benchmarks.lee2018 images --data DIR --output DIR          # five minutes of processor time

* `toy`: two Gaussians in the plane, and 2,000 outliers for the confidence loss: scattered over a box a hundred wide, or
  in a ring around the data. The mean confidence in the data, in a ring about them, and far away.
* `images`: LeNet on 20,000 images of Fashion-MNIST. Cross-entropy; the confidence loss with 10,000 digits of MNIST as
  outliers; a GAN whose generator knows nothing of the classifier; the joint algorithm; and three neighbours: logit
  normalisation, learned confidence, and the energy bound with the same digits. Tested on the 10,000 images against the
  digits of the test set (seen, in kind, by two of them), and letters (notMNIST), characters (Omniglot) and noise, which
  none has seen.

DIR of the data is the folder above `fashion_mnist`, `mnist`, `notmnist` and `omniglot`.
"""

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

import bdl
from bdl.metrics import detection
from bdl.ood import energy, training
from benchmarks import _command
from benchmarks._timing import environment

CENTRES = np.array([[-5.0, 0.0], [5.0, 0.0]])  # of the toy's classes, with standard deviations of one
BOX, REACH = 50.0, 4.0  # half the width of the toy's box, and how far from its centres the data are


def toy_data(seed: int, count: int = 2_000) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Inputs, labels, and outliers of two kinds."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, count).astype(np.int32)
    x = CENTRES[y] + rng.normal(size=(count, 2))
    box = rng.uniform(-BOX, BOX, (2 * count, 2))
    angle, radius = rng.uniform(0, 2 * np.pi, 4 * count), rng.uniform(REACH, REACH + 2, 4 * count)
    ring = CENTRES[rng.integers(0, 2, 4 * count)] + (radius * np.stack([np.cos(angle), np.sin(angle)])).T
    outside = lambda points: points[distance(points) > REACH][:count].astype(np.float32)
    return x.astype(np.float32), y, {"scattered": outside(box), "boundary": outside(ring)}


def distance(points: np.ndarray) -> np.ndarray:
    """From the nearer of the two centres."""
    return np.linalg.norm(points[..., None, :] - CENTRES, axis=-1).min(-1)


def scaled(points: Any) -> Any:
    """Positions in the unit that the network sees them in."""
    return points / 10


def toy_algorithms(args: argparse.Namespace, outliers: dict[str, np.ndarray]) -> dict[str, Callable[[], Any]]:
    rate = optax.cosine_decay_schedule(3e-3, args.steps)
    return {
        "cross-entropy": lambda: bdl.inference.vi(optax.adam(rate)),
        "scattered outliers": lambda: training.confidence_loss(optax.adam(rate), scaled(outliers["scattered"])),
        "boundary outliers": lambda: training.confidence_loss(optax.adam(rate), scaled(outliers["boundary"])),
    }


def toy(args: argparse.Namespace) -> dict[str, Any]:
    """Mean confidence, in the data, around them and far away, of each training; and the picture."""
    x, y, outliers = toy_data(args.seed)
    grid = np.stack(np.meshgrid(np.linspace(-25, 25, 126), np.linspace(-25, 25, 126)), -1).astype(np.float32)
    away = distance(grid)
    rows, pictures = {}, {}
    for name, algorithm in toy_algorithms(args, outliers).items():
        network = bdl.networks.mlp(jax.random.key(args.seed), x[:1], 2, widths=(64, 64))
        posterior = bdl.variational(network.params, bdl.families.point)
        model = bdl.Model(network, bdl.likelihoods.Categorical())
        fitted = bdl.fit(
            jax.random.key(args.seed), algorithm(), posterior, model, (scaled(x), y),
            num_steps=args.steps, batch_size=64, progress=False,
        )  # fmt: skip
        found = bdl.predict(jax.random.key(args.seed), fitted.posterior, fitted.model, scaled(grid.reshape(-1, 2)))
        confidence = np.asarray(found.probs).max(-1).reshape(grid.shape[:2])
        rows[name] = {
            "inside": float(confidence[away < 2].mean()),
            "around": float(confidence[(away > REACH) & (away < REACH + 4)].mean()),
            "far": float(confidence[away > REACH + 4].mean()),
        }
        pictures[name] = (confidence, outliers.get(name.split()[0]))
    if args.picture:
        draw_toy(pictures, x, args.picture)
    return rows


def draw_toy(pictures: dict[str, Any], x: np.ndarray, file: Path) -> None:
    """The confidence over the plane, a panel for each training."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(pictures), figsize=(3.3 * len(pictures), 3.7), layout="constrained")
    for axes, (name, (confidence, used)) in zip(panels, pictures.items(), strict=True):
        image = axes.imshow(confidence, vmin=0.5, vmax=1, extent=(-25, 25, -25, 25), origin="lower", cmap="cividis")
        axes.scatter(*x[:300].T, s=2, c="white", linewidths=0)
        if used is not None:
            axes.scatter(*used[:500].T, s=3, c="#D55E00", linewidths=0)
        axes.set(title=name, xlim=(-25, 25), ylim=(-25, 25), xticks=(-20, 0, 20), yticks=(-20, 0, 20))
    figure.colorbar(image, ax=panels, label="confidence, max p", shrink=0.8)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
    plt.close(figure)


def confidence(outputs: Any) -> Any:
    """−max p: the paper's score with the sign of `bdl.ood`, its ties with it."""
    return -jax.nn.softmax(outputs, -1).max(-1)


def image_algorithms(args: argparse.Namespace, x: Any, seen: Any) -> dict[str, tuple[Callable[[], Any], Any]]:
    """Of each row: its algorithm, and the score that is for it."""
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, args.steps))
    adam = optax.adam(args.gan_rate, b1=0.5)
    players = functools.partial(training.dcgan, jax.random.key(args.seed + 2), x[:1], channels=args.channels)
    gan = functools.partial(training.confidence_gan, generator_optimizer=adam, discriminator_optimizer=adam)
    return {
        "cross-entropy": (lambda: bdl.inference.vi(optimizer), confidence),
        "joint": (lambda: gan(optimizer, *players(), weight=args.weight), confidence),
        "GAN": (lambda: gan(optimizer, *players(), weight=args.weight, generator_weight=0.0), confidence),
        "given outliers": (lambda: training.confidence_loss(optimizer, seen, weight=args.weight), confidence),
        "logit norm": (lambda: training.logit_norm(optimizer), confidence),
        "learned confidence": (lambda: training.learned_confidence(optimizer), training.unconfidence),
        "energy bound": (lambda: training.energy_bound(optimizer, seen, inside=-12.0, outside=-4.0), energy),
    }


def images(args: argparse.Namespace, results: _command.Results) -> dict[str, Any]:
    """Accuracy, and detection of four kinds of outliers, of each training."""
    read = lambda name, *arrays: _command.arrays(args.data / name, *arrays)
    data = read("fashion_mnist/fashion_mnist.npz")
    x, y = _command.grey_images(data["x_train"][: args.count]), data["y_train"][: args.count].astype(np.int32)
    x_new, y_new = _command.grey_images(data["x_test"]), data["y_test"]
    digits = read("mnist/mnist.npz", "x_train", "x_test")
    outside = {
        "digits": _command.grey_images(digits["x_test"]),
        "letters": _command.grey_images(read("notmnist/notmnist_t10k.npz")["x_test"]),
        "characters": _command.grey_images(read("omniglot/images_background_small1_28x28.npz")["x"]),
        "noise": np.random.default_rng(args.seed).uniform(size=(2_000, 28, 28, 1)).astype(np.float32),
    }
    if args.fast:
        x_new, y_new, outside = x_new[:100], y_new[:100], {name: far[:100] for name, far in outside.items()}
    rows = results.setdefault(f"images, {args.steps} steps, seed {args.seed}", {})
    algorithms = image_algorithms(args, x, _command.grey_images(digits["x_train"][:10_000]))
    for name in args.methods or algorithms:
        if name in rows:
            continue
        algorithm, score = algorithms[name]
        extra = score is training.unconfidence
        likelihood = training.CategoricalWithConfidence() if extra else bdl.likelihoods.Categorical()
        network = bdl.networks.lenet(jax.random.key(args.seed), x[:1], 10 + extra)
        posterior = bdl.variational(network.params, bdl.families.point)
        fitted = bdl.fit(
            jax.random.key(args.seed + 1), algorithm(), posterior, bdl.Model(network, likelihood), (x, y),
            num_steps=args.steps, batch_size=64, progress=False, block_size=50,
        )  # fmt: skip
        outputs = jax.jit(bdl.function_draw(jax.random.key(args.seed), fitted.posterior, fitted.model))
        at = lambda a, f=outputs: np.concatenate([np.asarray(f(a[i : i + 500])) for i in range(0, len(a), 500)])
        inside = at(x_new)
        rows[name] = {"accuracy": float(np.mean(inside[:, :10].argmax(1) == y_new))}
        for kind, far in outside.items():
            found = detection(score(inside), score(at(far)), positive="in")
            rows[name] |= {f"auroc_{kind}": float(found["auroc"]), f"tnr95_{kind}": float(found["tnr95"])}
        results.save()
        print(f"{name}: " + ", ".join(f"{key} {value:.4f}" for key, value in rows[name].items()), flush=True)
        if args.picture and hasattr(fitted.state, "generator"):
            draw_images(np.asarray(training.generate(jax.random.key(0), fitted.state, 40)), name, args.picture)
    return rows


def draw_images(made: np.ndarray, name: str, folder: Path) -> None:
    """What a generator makes, in five rows of eight."""
    import matplotlib.pyplot as plt

    height, width = made.shape[1:3]
    tiles = made[..., 0].reshape(5, 8, height, width).swapaxes(1, 2).reshape(5 * height, 8 * width)
    folder.mkdir(parents=True, exist_ok=True)
    plt.imsave(folder / f"lee-{name.lower()}.png", tiles, cmap="gray", vmin=0, vmax=1)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _command.parser(__doc__, ".")
    parser.add_argument("study", choices=("toy", "images"))
    parser.add_argument("--methods", nargs="+", help="rows of `images`; default: all")
    parser.add_argument("--steps", type=int, help="of a fit; default: 3000 of the toy, 400 of images")
    parser.add_argument("--count", type=int, default=20_000, help="training images, default: %(default)s")
    parser.add_argument("--weight", type=float, default=1.0, help="of the KL from uniform, default: %(default)s")
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 8], help="of the generator, default: 16 8")
    parser.add_argument("--gan-rate", type=float, default=1e-3, help="of its Adam, default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, help="of the toy: a file; of images: a folder for what is generated")
    parser.add_argument("--output", type=Path, help="folder of lee2018.json; what is in it is not run again")
    parser.add_argument("--fast", action="store_true", help="3 steps, few images: does it run?")
    # The toy needs no data.
    args = parser.parse_args(argv)
    if args.study == "images" and args.data is None:
        parser.error("pass --data DIR, or set BDL_DATA to the folder of the data sets")
    args.steps = args.steps or {"toy": 3_000, "images": 400}[args.study]
    if args.fast:
        args.steps, args.count, args.channels = 3, 500, [4, 2]
    return args


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the study, save its rows as they come, print the table."""
    args = _arguments(argv)
    results = _command.Results(args.output, "lee2018.json")
    results["environment"] = environment()
    if args.study == "images":
        rows = images(args, results)
    else:
        rows = results["toy"] = toy(args)
        results.save()
    print(f"\n{_command.table(rows)}")
    return results


if __name__ == "__main__":
    main(sys.argv[1:])
