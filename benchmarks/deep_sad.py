"""Deep SAD with more and more labelled anomalies, after Figure 2 of Ruff et al. (2020), on images and on tables.

    python -m benchmarks.deep_sad --data DIR --output DIR   # six minutes of one core

* `fashion`: one class of Fashion-MNIST is normal, one other gives the labelled anomalies, and both are drawn anew with
  each seed; LeNet without biases. Tested against that other class, and against the eight that were never labelled.
* `cancer`: scikit-learn's breast cancer data; benign is normal, malignant are the anomalies.
* `sharp`: active regions of the Sun; a flare of class M or X is the anomaly. Regions of the test are others than those
  of the training.

The share of labelled anomalies is that of all training examples, whose number stays. Weights begin as those of an
autoencoder's encoder, as the authors' do. Beside it, without labels: this autoencoder's reconstruction error, a
variational autoencoder's density and its likelihood ratio against one fitted to perturbed inputs, and the distance to
the fifth nearest of the training data. DIR of the data is the folder above `fashion_mnist` and `solar_flare_sharp`.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import bdl
from bdl import networks, ood
from bdl.metrics import detection
from bdl.ood.training import DeepSAD, deep_sad_centre
from benchmarks import _command
from benchmarks._solar_flares import read_sharp, standardise
from benchmarks._timing import environment

SHARES = 0.0, 0.01, 0.05, 0.1, 0.2
DECAY = 1e-6  # the authors' λ, of ½ λ ‖w‖² beside a mean loss
RATE, WEIGHT_SCALE = 0.2, 1.0  # of the perturbed inputs, and of the variational autoencoders' prior
ROWS = 500  # of a prediction
Study = Callable[[argparse.Namespace, int], "Data"]


class Data(NamedTuple):
    normal: np.ndarray  # for training
    anomalies: np.ndarray  # that may be labelled
    inside: np.ndarray  # of the test, normal
    outside: dict[str, np.ndarray]  # of the test, by whether their like was labelled
    low: Any  # of the inputs' range
    high: Any


def fashion(args: argparse.Namespace, seed: int) -> Data:
    arrays = _command.arrays(args.data / "fashion_mnist" / "fashion_mnist.npz")
    rng = np.random.default_rng(seed)
    of, known = rng.permutation(10)[:2]
    train = lambda c: _command.grey_images(arrays["x_train"][rng.permutation(np.flatnonzero(arrays["y_train"] == c))])
    x, y = _command.grey_images(arrays["x_test"]), arrays["y_test"]
    never = rng.permutation(np.flatnonzero((y != of) & (y != known)))[:2_000]
    outside = {"labelled": x[y == known], "never": x[never]}
    return Data(train(of)[:3_000], train(known), x[y == of], outside, 0.0, 1.0)


def cancer(args: argparse.Namespace, seed: int) -> Data:
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    rng = np.random.default_rng(seed)
    train = rng.uniform(size=len(y)) < 0.6
    normal = train & (y == 1)
    x = ((x - x[normal].mean(0)) / x[normal].std(0)).astype(np.float32)
    return _table(rng, x, y == 0, train, 200)


def sharp(args: argparse.Namespace, seed: int) -> Data:
    records = read_sharp(args.data / "solar_flare_sharp")
    rng = np.random.default_rng(seed)
    regions = np.unique(records.regions)
    train = np.isin(records.regions, regions[rng.uniform(size=len(regions)) < 0.6])
    x = standardise(records.x, train & (records.y == 0))
    return _table(rng, x, records.y == 1, train, 800)


def _table(rng: np.random.Generator, x: np.ndarray, anomalous: np.ndarray, train: np.ndarray, count: int) -> Data:
    normal, anomalies = (rng.permutation(x[train & which]) for which in (~anomalous, anomalous))
    outside = {"labelled": x[~train & anomalous]}
    normal = normal[:count]
    return Data(normal, anomalies, x[~train & ~anomalous], outside, normal.min(0), normal.max(0))


STUDIES: dict[str, Study] = {"fashion": fashion, "cancer": cancer, "sharp": sharp}


class Runner:
    """Fits all methods to the data of one study after another seed; its algorithms are compiled once."""

    def __init__(self, args: argparse.Namespace, name: str):
        self.args, self.images = args, name == "fashion"
        self.latents, self.codes, self.batch = (16, 32, 64) if self.images else (4, 8, 128)
        self.map, self.steps = bdl.inference.map(_adam(1e-3, args.steps)), args.steps
        # The first gradients of a variational autoencoder are large, and Adam would remember them.
        clipped = optax.chain(optax.clip_by_global_norm(10.0), _adam(3e-3, 2 * args.steps))
        self.vae, self.vae_steps = bdl.inference.map(clipped), 2 * args.steps
        self.encoder = (
            networks.LeNet(self.codes, use_bias=False)
            if self.images
            else networks.MLP(self.codes, (64, 32), use_bias=False)
        )

    def fit(self, key: Any, network: Any, likelihood: Any, scale: float, x: Any, y: Any, vae: bool = False) -> Any:
        posterior = bdl.variational(network.params, bdl.families.point)
        model = bdl.Model(network, likelihood, bdl.priors.normal(scale=scale))
        algorithm, steps = (self.vae, self.vae_steps) if vae else (self.map, self.steps)
        return bdl.fit(key, algorithm, posterior, model, (x, y), num_steps=steps, batch_size=self.batch, progress=False)

    def autoencoder(self, key: Any, x: np.ndarray) -> Any:
        shape = x.shape[1:]
        module = networks.Autoencoder(self.encoder, networks.MLP(shape, (128,) if self.images else (32, 64)))
        network = bdl.from_linen(module, module.init(key, x[:1]))
        fitted = self.fit(key, network, bdl.likelihoods.Normal(scale=0.2), WEIGHT_SCALE, x, x)
        return bdl.from_linen(module, {"params": fitted.posterior.mean})

    def density(self, key: Any, x: np.ndarray) -> ood.Detector:
        network = networks.vae(key, x[:1], self.latents, widths=(128,) if self.images else (64,))
        likelihood = bdl.latent(bdl.likelihoods.Normal(scale=bdl.learned(0.3 if self.images else 1.0)))
        fitted = self.fit(key, network, likelihood, WEIGHT_SCALE, x, x, vae=True)
        return ood.negative_log_density(key, fitted.posterior, fitted.model, num_samples=20, batch_size=ROWS)

    def detectors(self, key: Any, data: Data) -> Iterator[tuple[str, ood.Detector]]:
        """What learns of no label, and Deep SAD of a share of them."""
        x = data.normal
        flat = lambda x: x.reshape(len(x), -1)
        nearest = ood.nearest_neighbours(flat(x), k=5, normalise=False)
        yield "5th nearest neighbour", ood.Detector(lambda x: nearest(flat(x)))
        coder = self.autoencoder(key, x)
        yield "reconstruction error", ood.reconstruction_error(coder, batch_size=ROWS)
        density = self.density(key, x)
        yield "VAE, −log p", density
        noisy = ood.perturbed(key, x, rate=RATE, low=data.low, high=data.high)
        yield "VAE, likelihood ratio", ood.likelihood_ratio(density, self.density(key, np.asarray(noisy)))
        network = bdl.from_linen(self.encoder, {"params": coder.params["encoder"]})
        centre = deep_sad_centre(network, x, batch_size=ROWS)
        for share in SHARES:
            known = round(share * len(x))
            labelled = np.concatenate([x[: len(x) - known], data.anomalies[:known]])
            y = np.repeat(np.array([0, -1], np.int32), [len(x) - known, known])
            # λ = 1 / (N σ²)
            likelihood, scale = DeepSAD(centre), (DECAY * len(x)) ** -0.5
            fitted = self.fit(key, network, likelihood, scale, labelled, y)
            function = bdl.from_linen(self.encoder, {"params": fitted.posterior.mean})
            name = f"Deep SAD, {100 * share:.0f} %" if share else "Deep SVDD"
            yield name, ood.through(function, likelihood.squared_distance, batch_size=ROWS)

    def run(self, seed: int, data: Data) -> dict[str, dict[str, float]]:
        """The AUROC of each method, by the kind of the anomalies."""
        if self.args.fast:
            cut = lambda a: a[:100]
            data = Data(*map(cut, data[:3]), {kind: cut(x) for kind, x in data.outside.items()}, data.low, data.high)
        rows = {}
        for name, detector in self.detectors(jax.random.key(seed), data):
            inside = detector(jnp.asarray(data.inside))
            outside = {kind: detector(jnp.asarray(x)) for kind, x in data.outside.items()}
            rows[name] = {kind: float(detection(inside, far, positive="in")["auroc"]) for kind, far in outside.items()}
            print(f"  {name}: " + ", ".join(f"{kind} {value:.3f}" for kind, value in rows[name].items()), flush=True)
        return rows


def _adam(rate: float, steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(rate, steps))


def summary(runs: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Means over the seeds, and their standard errors."""
    rows = {}
    for name in runs[0]:
        rows[name] = {}
        for kind in runs[0][name]:
            values = np.array([run[name][kind] for run in runs])
            rows[name][kind] = float(values.mean())
            rows[name][f"± s.e. {kind}"] = float(values.std(ddof=min(1, len(values) - 1)) / np.sqrt(len(values)))
    return rows


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _command.parser(__doc__, ".")
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=list(STUDIES), help="default: all")
    parser.add_argument("--seeds", type=int, default=3, help="how many, default: %(default)s")
    parser.add_argument("--steps", type=int, default=400, help="of a fit, default: %(default)s")
    parser.add_argument("--output", type=Path, help="folder of deep_sad.json; what is in it is not run again")
    parser.add_argument("--fast", action="store_true", help="3 steps, one seed, few examples: does it run?")
    args = _command.parse(parser, argv)
    if args.fast:
        args.steps, args.seeds = 3, 1
    return args


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the studies, save each seed as it comes, print the tables."""
    args = _arguments(argv)
    results = _command.Results(args.output, "deep_sad.json")
    results["environment"] = environment()
    for name in args.studies:
        runs, runner = results.setdefault(f"{name}, {args.steps} steps", {}), Runner(args, name)
        for seed in range(args.seeds):
            if str(seed) not in runs:
                print(f"{name}, seed {seed}", flush=True)
                runs[str(seed)] = runner.run(seed, STUDIES[name](args, seed))
                results.save()
        print(f"\n{name}: AUROC\n\n{_command.table(summary(list(runs.values())), '.3f')}\n")
    return results


if __name__ == "__main__":
    main(sys.argv[1:])
