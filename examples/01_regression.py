"""Regression with uncertainty: Monte Carlo dropout beside a plain network and linear regression.

python examples/01_regression.py                               the diabetes data that come with scikit-learn
python examples/01_regression.py --data my.csv --target price  a table of your own: numbers under a header
python examples/01_regression.py --splits 20                   then 20 random splits as well, trained in one program

The two networks are equal but for their last layer, and see the same rows; held-out rows, which are not the test rows,
say when to stop. Rate, width and step size were chosen of a few by cross-validation without the default test rows.
"""

# %% Arguments. Run cell by cell, they have their defaults.
import argparse
import csv
import dataclasses
import math
import re
import sys
import time
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression

import bdl
from bdl import plots

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", type=Path, help="a CSV of numbers under a header (default: the diabetes data)")
parser.add_argument("--target", help="the column to predict (default: the last)")
parser.add_argument("--rate", type=float, default=0.1, help="the probability of dropping a unit (default: %(default)s)")
parser.add_argument("--num-steps", type=int, default=2_000, help="training steps, at most (default: %(default)s)")
parser.add_argument("--batch-size", type=int, default=64, help="rows of a step (default: %(default)s)")
parser.add_argument("--num-samples", type=int, default=500, help="draws of a prediction (default: %(default)s)")
parser.add_argument("--splits", type=int, default=1, help="random splits to average over (default: %(default)s)")
parser.add_argument("--seed", type=int, default=0, help="of split, weights and draws (default: %(default)s)")
parser.add_argument("--output", type=Path, default=Path("outputs"), help="folder of the figure (default: %(default)s)")
parser.add_argument("--fast", action="store_true", help="few steps and draws, only to see that it runs")
args = parser.parse_args([] if hasattr(sys, "ps1") else None)
if args.fast:
    args.num_steps, args.num_samples = 100, 50


# %% The data: inputs [N, D], targets [N], and what they are called.
def read_csv(path: Path, target: str | None) -> tuple[np.ndarray, np.ndarray, list[str], str]:
    """Raises a ValueError that names the line and the column of what is not a number."""
    lines = path.read_text(encoding="utf-8-sig").splitlines() or [""]
    reader = csv.reader(lines, delimiter=max(",;\t", key=lines[0].count))
    header = [name.strip() for name in next(reader)]
    if len(set(header)) < max(len(header), 2) or all(re.fullmatch(r"[-+.\deE]+", name) for name in header):
        raise ValueError(f"{path}: expected a first line that names two columns or more, each once; got {lines[0]!r}.")
    target = header[-1] if target is None else target
    if target not in header:
        raise ValueError(f"{path}: no column {target!r}; the columns are {', '.join(header)}.")
    rows = []
    for cells in filter(None, reader):
        where = f"{path}, line {reader.line_num}"
        if len(cells) != len(header):
            raise ValueError(f"{where}: {len(cells)} cells under a header of {len(header)}.")
        rows.append([number(cell, f"{where}, column {name!r}") for cell, name in zip(cells, header, strict=True)])
    if len(rows) < 20:
        raise ValueError(f"{path}: expected a header and at least 20 rows, got {len(rows)} rows.")
    columns = dict(zip(header, np.array(rows).T, strict=True))
    y = columns.pop(target)
    if np.ptp(y) == 0:
        raise ValueError(f"{path}: the target {target!r} is {y[0]} in every row, and there is nothing to predict.")
    constant = [name for name, column in columns.items() if np.ptp(column) == 0]
    if constant:
        print(f"left out, as they are the same in every row: {', '.join(constant)}")
    columns = {name: column for name, column in columns.items() if name not in constant}
    return np.stack(list(columns.values()), axis=1), y, list(columns), target


def number(cell: str, where: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        edit = "Encode text as numbers." if cell.strip() else "Impute what is missing, or drop the row."
        raise ValueError(f"{where}: expected a number, got {cell!r}. {edit}")
    return value


if args.data is None:
    x, y = load_diabetes(return_X_y=True, scaled=False)
    names = [
        "age [years]", "sex", "body mass index [kg/m²]", "blood pressure [mmHg]", "total cholesterol [mg/dl]",
        "LDL [mg/dl]", "HDL [mg/dl]", "total cholesterol / HDL", "log triglycerides", "glucose [mg/dl]",
    ]  # fmt: skip
    target = "disease progression after a year [score]"
else:
    try:
        x, y, names, target = read_csv(args.data, args.target)
    except (OSError, ValueError) as error:
        parser.error(str(error))


# %% A split: a fifth of the rows are the test, some more tell when to stop; standardised by the training rows.
class Split(NamedTuple):
    test: tuple[np.ndarray, np.ndarray]
    held_out: tuple[np.ndarray, np.ndarray]
    train: tuple[np.ndarray, np.ndarray]
    inputs: tuple[np.ndarray, np.ndarray]  # mean and standard deviation of the columns
    target: tuple[np.ndarray, np.ndarray]


def split(seed: int) -> Split:
    order = np.random.default_rng(seed).permutation(len(x))
    parts = np.split(order, [len(x) // 5, len(x) // 3])
    (x_mean, x_std), (y_mean, y_std) = ((a[parts[-1]].mean(0), a[parts[-1]].std(0)) for a in (x, y[:, None]))
    x_std, y_std = np.where(x_std > 0, x_std, 1), np.where(y_std > 0, y_std, 1)
    z, t = ((x - x_mean) / x_std).astype(np.float32), ((y[:, None] - y_mean) / y_std).astype(np.float32)
    return Split(*((z[rows], t[rows]) for rows in parts), (x_mean, x_std), (y_mean, y_std))


data = split(args.seed)
print(f"{target}: {len(x)} rows, of which {len(data.test[0])} are the test; {len(names)} inputs\n")

# %% Monte Carlo dropout: mean and log variance are the network's outputs, and all of its kernels have dropout.
key = jax.random.key(args.seed)


def mlp(outputs: int) -> bdl.networks.Network:
    module = nn.Sequential([nn.Dense(50), nn.relu, nn.Dense(50), nn.relu, nn.Dense(outputs)])
    return bdl.from_linen(module, module.init(key, data.train[0][:1]))


network = mlp(2)
dropout = (
    bdl.inference.vi(optax.adam(1e-3)),
    bdl.variational(network.params, {"*/kernel": bdl.families.bernoulli_dropout(rate=args.rate)}),
    bdl.Model(network, bdl.likelihoods.HeteroscedasticNormal(), bdl.priors.fan_in()),
)

# %% A plain network: its weights are point masses, and its noise has one size, which is learned.
network = mlp(1)
plain = (
    bdl.inference.map(optax.adam(1e-3)),
    bdl.variational(network.params, bdl.families.point),
    bdl.Model(network, bdl.likelihoods.Normal(scale=bdl.learned(0.7)), bdl.priors.fan_in()),
)
methods = {"plain network": plain, "Monte Carlo dropout": dropout}


# %% Fit to the training rows and predict the test rows.
def fit_and_predict(key, algorithm, posterior, model, data):
    fitted = bdl.fit(
        key, algorithm, posterior, model, data.train,
        num_steps=args.num_steps, batch_size=args.batch_size, validation=data.held_out, patience=10,
    )  # fmt: skip
    draws = {"num_samples": args.num_samples}
    prediction = bdl.predict(key, fitted.posterior, fitted.model, data.test[0], quantiles=(0.025, 0.975), **draws)
    log_density = bdl.log_predictive(key, fitted.posterior, fitted.model, data.test, **draws)
    return fitted, prediction, log_density


def linear_regression(data):
    z, t = (np.concatenate(pair) for pair in zip(data.train, data.held_out, strict=True))
    line = LinearRegression().fit(z, t)
    mean = line.predict(data.test[0])
    variance = np.full_like(mean, np.sum((t - line.predict(z)) ** 2) / (len(z) - z.shape[1] - 1))
    interval = mean + np.sqrt(variance) * np.reshape([-1.96, 1.96], (2, 1, 1))
    log_density = -0.5 * ((data.test[1] - mean) ** 2 / variance + np.log(2 * np.pi * variance))
    none = np.zeros_like(mean)
    return bdl.Prediction(mean, variance, variance, none, none, 1, interval), log_density


# %% Scores, in the target's units.
def scores(data, prediction, log_density):
    t, std = data.test[1], data.target[1]
    lower, upper = prediction.quantiles
    return {
        "RMSE": jnp.sqrt(jnp.mean((t - prediction.mean) ** 2)) * std.squeeze(),
        "NLL [nats]": -jnp.mean(log_density) + jnp.log(std).squeeze(),
        "95 % coverage": jnp.mean((lower <= t) & (t <= upper)),
        "aleatoric std": jnp.mean(jnp.sqrt(prediction.aleatoric) * std),
        "epistemic std": jnp.mean(jnp.sqrt(prediction.epistemic) * std),
    }


def show(table):
    """Prints a row for each method; of several splits mean ± standard error."""
    forms = {"RMSE": ".1f", "NLL [nats]": ".3f", "95 % coverage": ".1%", "aleatoric std": ".1f", "epistemic std": ".1f"}
    print("\n" + " " * 20 + "".join(f"{name:>17}" for name in forms))
    for method, row in table.items():
        print(f"{method:20}" + "".join(f"{cell(row[name], form):>17}" for name, form in forms.items()))
    print("RMSE and NLL: lower is better. Coverage: 95 % is right.\n", flush=True)


def cell(values, form):
    if not np.any(values):
        return "-"
    error = f" ± {np.std(values, ddof=1) / math.sqrt(len(values)):{form}}" if np.ndim(values) else ""
    return f"{np.mean(values):{form}}{error}"


table = {"linear regression": scores(data, *linear_regression(data))}
for name, method in methods.items():
    print(f"{name}:", flush=True)
    start = time.perf_counter()
    fitted, *result = fit_and_predict(key, *method, data)
    table[name] = scores(data, *result)
    best = fitted.history.held_out_steps[fitted.history.held_out.argmax()]
    print(f"fitted and predicted in {time.perf_counter() - start:.1f} s; best on the held-out rows after {best} steps")
show(table)


# %% The figure: along the input that tells most, and on the test rows.
def in_units(prediction):
    """The prediction of the standardised target, in the target's units."""
    mean, std = data.target
    variances = {name: std**2 * getattr(prediction, name) for name in ("variance", "aleatoric", "epistemic")}
    return dataclasses.replace(prediction, mean=mean + std * prediction.mean, **variances)


prediction = in_units(result[0])
z, t = data.train
column = int(np.argmax(np.abs(z.T @ t)))  # the input with the largest correlation
low, high = z[:, column].min(), z[:, column].max()
row = np.argsort(prediction.epistemic[:, 0])[len(prediction.epistemic) // 2]  # a test row like many
grid = np.tile(data.test[0][row], (200, 1))
grid[:, column] = np.linspace(1.5 * low - 0.5 * high, 1.5 * high - 0.5 * low, 200)
along = bdl.predict(key, fitted.posterior, fitted.model, grid, num_samples=args.num_samples)
units = lambda values: data.inputs[0][column] + data.inputs[1][column] * values

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained")
plots.bands(units(grid[:, column]), in_units(along), ax=left)
left.scatter(units(z[:, column]), data.target[0] + data.target[1] * t, s=6, color="0.3", label="training rows")
left.axvline(units(low), color="0.4", ls=":", label="their range")
left.axvline(units(high), color="0.4", ls=":")
left.set(title="One test row, one of its inputs varied", xlabel=names[column], ylabel=target)
plots.intervals(data.target[0] + data.target[1] * data.test[1], prediction, ax=right)
right.set(title="All test rows", xlabel=f"predicted {target}", ylabel=f"observed {target}")
for ax in (left, right):
    ax.legend(fontsize=8, loc="upper left")
args.output.mkdir(parents=True, exist_ok=True)
figure.savefig(args.output / "regression.png", dpi=150)
print(f"figure: {args.output / 'regression.png'}")

# %% Many splits: under `vmap`, fit and predict are one program for all of them.
if args.splits > 1:
    splits = [split(args.seed + i) for i in range(args.splits)]
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(args.splits))
    stack = lambda trees: jax.tree.map(lambda *leaves: np.stack(leaves).astype(np.float32), *trees)
    every = lambda method: jax.vmap(lambda key, data: scores(data, *fit_and_predict(key, *method, data)[1:]))
    table = {"linear regression": stack([scores(data, *linear_regression(data)) for data in splits])}
    for name, method in methods.items():
        start = time.perf_counter()
        table[name] = jax.jit(every(method))(keys, stack(splits))
        print(f"{name}: {args.splits} splits in {time.perf_counter() - start:.1f} s")
    show(table)
