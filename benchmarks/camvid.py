"""Dense prediction: one U-Net on CamVid at 120 × 90, plain, aleatoric, epistemic and both (Kendall and Gal 2017).

    python -m benchmarks.camvid --data DIR              # the four models: forty minutes on two cores
    python -m benchmarks.camvid --data DIR --sizes      # "both" on 1/4 and 1/2 of the training images as well
    python -m benchmarks.camvid --data DIR --family normal

* plain: `Categorical`, point masses;
* aleatoric: `HeteroscedasticCategorical`, whose logits have noise of a size that the network predicts for each pixel;
* epistemic: `Categorical`, and a family over the kernels of the convolutions at the lower resolutions: Monte Carlo
  dropout of the channels that enter them, or with `--family normal` mean field around the weights that the crops
  gave, on whole images;
* both.

All have the same trunk, initial weights, batches and steps: as in the paper first on crops, which are quarters here,
then on whole images, with their mirror images and in batches of 8, by Adam with a cosine-decayed learning rate.
Void pixels count nowhere. The scores on the validation images are kept beside those on the test images. The rate and
the scale were chosen by the former; that Normals come late, and the root of the prior, with both in view.

The columns: mean intersection over union of the 11 classes, by the largest probability and by the largest probability
under another prior, the square roots of the classes' frequencies (IoU gives the rarest class the same say as the road);
accuracy, negative log-likelihood per pixel in nats, expected calibration error (15 bins), and the precision of the
pixels that are left when the most uncertain half is removed, by predictive entropy. Then, as in the paper's Table 3,
the mean expected entropy (aleatoric) and the variance over draws of the logits (epistemic), on the test images and on
images of another kind: CIFAR-10's, magnified to the same size.

DIR holds camvid_120x90.npz with x_train, x_val, x_test [N, 90, 120, 3] and labels y_train, y_val, y_test, of which 11
is void; the folder beside it `cifar10/cifar10_test.npz`. Neither may be copied into this repository.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import bdl
from benchmarks import _command
from benchmarks._timing import environment

VOID, CLASSES, BATCH = 11, 11, 8
MODELS = "plain", "aleatoric", "epistemic", "both"
RANDOM = "epistemic", "both"


class Images(NamedTuple):
    """Images in [0, 1], padded from 90 to 96 rows, and labels, void in the padding."""

    x: np.ndarray
    y: np.ndarray


def read(folder: Path, part: str) -> Images:
    x, y = _command.arrays(folder / "camvid_120x90.npz", f"x_{part}", f"y_{part}").values()
    rows = (0, 0), (0, 6), (0, 0)
    x = np.pad(x.astype(np.float32) / 255, (*rows, (0, 0)), mode="edge")
    return Images(x, np.pad(y.astype(np.int32), rows, constant_values=VOID))


def others(folder: Path, count: int) -> np.ndarray | None:
    """Images of another kind, of the same size; `None` where there are none."""
    path = folder.parent / "cifar10" / "cifar10_test.npz"
    if not path.is_file():
        return None
    x = _command.arrays(path, "x_test")["x_test"][:count].astype(np.float32) / 255
    return x.repeat(3, 1).repeat(4, 2)[:, :, 4:124]


def build(name: str, args: argparse.Namespace, images: Images) -> tuple[Any, Any]:
    """Weights before training and the model."""
    noisy = name in ("aleatoric", "both")
    heads = 2 * CLASSES if noisy else CLASSES
    network = bdl.networks.unet(jax.random.key(args.seed), images.x[:1], heads, widths=args.widths)
    likelihood = bdl.likelihoods.HeteroscedasticCategorical(10) if noisy else bdl.likelihoods.Categorical()
    return network.params, bdl.Model(network, bdl.likelihoods.masked(likelihood, void=VOID))


def families(name: str, args: argparse.Namespace, params: Any) -> Any:
    """Those of the posterior by path, around `params`."""
    if name not in RANDOM:
        return bdl.families.point
    # The convolutions of the lower resolutions: those with many channels, which a dropped one does not blind.
    wide = [path for path, shape in _kernels(params) if shape[2] >= args.widths[-2]]
    dropout = args.family == "dropout"
    family = bdl.families.bernoulli_dropout(args.rate) if dropout else bdl.families.normal(args.scale)
    return dict.fromkeys(wide, family)


def _kernels(params: Any) -> list[tuple[str, tuple[int, ...]]]:
    paths = jax.tree_util.tree_flatten_with_path(params)[0]
    named = [("/".join(str(entry.key) for entry in path), array.shape) for path, array in paths]
    return [(path, shape) for path, shape in named if len(shape) == 4 and shape[0] == 3]


def quarters(images: Images) -> Images:
    """The four quarters of every image, without those that have no label."""
    parts = Images(*(np.concatenate([h for v in np.split(a, 2, 1) for h in np.split(v, 2, 2)]) for a in images))
    seen = (parts.y != VOID).any((1, 2))
    return Images(parts.x[seen], parts.y[seen])


def train(name: str, args: argparse.Namespace, images: Images) -> tuple[Any, Any, float]:
    """The fitted posterior and model, and the seconds it took."""
    params, model = build(name, args, images)
    posterior = bdl.variational(params, bdl.families.point)
    mirrored = Images(*(np.concatenate([a, a[:, :, ::-1]]) for a in images))
    start = time.perf_counter()
    for whole, data, steps, rate in (
        (False, quarters(mirrored), args.crop_steps, args.learning_rate),
        (True, mirrored, args.steps, args.learning_rate / 3),
    ):
        if whole == (args.family == "normal"):  # dropout before the crops, Normals after them
            posterior = bdl.variational(posterior.mean, families(name, args, posterior.mean))
        schedule = optax.cosine_decay_schedule(rate, steps)
        algorithm = bdl.inference.vi(optax.chain(optax.clip_by_global_norm(args.clip), optax.adam(schedule)))
        key = jax.random.key(args.seed)
        fitted = bdl.fit(key, algorithm, posterior, model, data, num_steps=steps, batch_size=BATCH)
        posterior, model = fitted.posterior, fitted.model
    jax.block_until_ready(posterior)
    return posterior, model, time.perf_counter() - start


def run(name: str, args: argparse.Namespace, images: Images, validation: Images, test: Images) -> dict[str, Any]:
    """Train one model and score it."""
    posterior, model, seconds = train(name, args, images)
    draws = args.draws if posterior.families else None

    def predict(x: np.ndarray) -> Any:
        key = jax.random.key(args.seed + 1)
        return bdl.predict(key, posterior, model, x, num_samples=draws, batch_size=2 * BATCH)

    def split(prediction: Any, seen: np.ndarray) -> dict[str, float]:
        return {
            "aleatoric": float(np.asarray(prediction.aleatoric)[seen].mean()),
            "mutual_information": float(np.asarray(prediction.epistemic)[seen].mean()),
            "logit_variance": float(np.asarray(prediction.logit_variance)[seen].mean()),
        }

    start = time.perf_counter()
    prediction = predict(test.x)
    counts = np.bincount(images.y[images.y != VOID], minlength=CLASSES) + 1
    result = scores(prediction, test.y, counts)
    result["validation"] = scores(predict(validation.x), validation.y, counts)
    result |= {"images": len(images.x), "train_seconds": seconds, "predict_seconds": time.perf_counter() - start}
    result["in_data"] = split(prediction, test.y != VOID)
    strange = others(args.data, len(test.x))
    if strange is not None:
        prediction = predict(strange)
        result["out_of_data"] = split(prediction, np.ones(prediction.entropy.shape, bool))
    return result


def scores(prediction: Any, labels: np.ndarray, counts: np.ndarray) -> dict[str, Any]:
    """What is reported of the pixels that have a label; `precision` when 0 %, 10 %, ... 90 % of them are removed.

    `counts` are those of the classes' pixels in training.
    """
    probs, uncertainty = np.asarray(prediction.probs), np.asarray(prediction.entropy)
    seen = labels != VOID
    confusion = bdl.metrics.confusion_matrix(probs, labels, mask=seen)
    iou = np.asarray(bdl.metrics.iou(confusion, undefined=np.nan))
    root = np.sqrt(counts)
    shifted = bdl.data.shift_prior(probs, counts / counts.sum(), root / root.sum())
    shifted_iou = bdl.metrics.iou(bdl.metrics.confusion_matrix(shifted, labels, mask=seen), undefined=np.nan)
    right = (probs.argmax(-1) == labels)[seen]
    order = np.argsort(uncertainty[seen], kind="stable")
    kept = [right[order[: round(len(order) * (1 - removed / 10))]].mean() for removed in range(10)]
    tiny = np.finfo(np.float32).tiny
    return {
        "iou": float(np.nanmean(iou)),
        "iou_per_class": iou.tolist(),
        "iou_root_prior": float(np.nanmean(shifted_iou)),
        "accuracy": float(bdl.metrics.accuracy(confusion)),
        "nll": -float(bdl.metrics.log_likelihood(np.maximum(probs, tiny), labels, mask=seen)),
        "ece": float(bdl.metrics.expected_calibration_error(probs, labels, mask=seen)),
        "precision": [float(p) for p in kept],
    }


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    rows = [
        "| model | images | IoU | IoU, root prior | accuracy | NLL | ECE | precision, half removed "
        "| aleatoric | epistemic | aleatoric, other images | epistemic, other images | minutes |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        if "iou" not in result:
            continue
        cells = [name, str(result["images"])]
        cells += [f"{100 * result[k]:.1f}" if k in result else "–" for k in ("iou", "iou_root_prior", "accuracy")]
        cells += [f"{result['nll']:.3f}", f"{result['ece']:.3f}", f"{100 * result['precision'][5]:.1f}"]
        for part in ("in_data", "out_of_data"):
            split = result.get(part)
            cells += [f"{split[k]:.3f}" for k in ("aleatoric", "logit_variance")] if split else ["–", "–"]
        cells += [f"{(result['train_seconds'] + result['predict_seconds']) / 60:.1f}"]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _command.parser(__doc__, "camvid_120x90")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, help="default: all four")
    parser.add_argument("--sizes", action="store_true", help="the last model on 1/4 and 1/2 of the images as well")
    parser.add_argument("--widths", type=int, nargs="+", default=(16, 32, 64), help="channels, default: %(default)s")
    parser.add_argument("--family", choices=("dropout", "normal"), default="dropout", help="default: %(default)s")
    parser.add_argument("--rate", type=float, default=0.05, help="of dropout, default: %(default)s")
    parser.add_argument("--scale", type=float, default=0.01, help="of the Normals at first, default: %(default)s")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="default: %(default)s")
    parser.add_argument("--clip", type=float, default=1e6, help="norm of the gradient, default: %(default)s")
    parser.add_argument("--crop-steps", type=int, default=4_000, help="on quarters of images, default: %(default)s")
    parser.add_argument("--steps", type=int, default=500, help="on whole images, after these; default: %(default)s")
    parser.add_argument("--draws", type=int, default=50, help="of the weights at prediction, default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--output",
        type=Path,
        help="folder of camvid.json or camvid_normal.json; what is there is not run again",
    )
    parser.add_argument("--fast", action="store_true", help="few steps, 8 images, 2 draws: does it run?")
    args = _command.parse(parser, argv)
    if args.fast:
        args.crop_steps, args.steps, args.draws, args.widths = 2, 2, 2, (4, 8)
    return args


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run what the command line asks for, save after every model, print the table."""
    args = _arguments(argv)
    results = _command.Results(args.output, "camvid.json" if args.family == "dropout" else "camvid_normal.json")
    results["environment"] = environment()
    images, *held_out = (read(args.data, part) for part in ("train", "val", "test"))
    if args.fast:
        images, *held_out = (Images(*(a[:8] for a in part)) for part in (images, *held_out))
    seed = f", seed {args.seed}" if args.seed else ""
    jobs = {name + seed: (name, images) for name in args.models}
    if args.sizes:
        for part in (4, 2):
            # Every fourth or second image: the sequences are films, whose neighbours look alike.
            jobs[f"{args.models[-1]}, 1/{part}{seed}"] = args.models[-1], Images(*(a[::part] for a in images))
    noise = {"dropout": "rate", "normal": "scale"}[args.family]
    chosen = "widths", noise, "learning_rate", "clip", "crop_steps", "steps", "draws", "seed"
    settings = _command.settings(args, *chosen)
    for label, (name, some) in jobs.items():
        if results.has(label, settings):
            print(f"{label}: already in {results.file}")
            continue
        results[label] = run(name, args, some, *held_out)
        print(f"{label}: {json.dumps(results[label])}", flush=True)
        results.save()
    print(table(results))
    return results


if __name__ == "__main__":
    main(sys.argv[1:])
