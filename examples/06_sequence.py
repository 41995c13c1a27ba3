"""A forecast of months to come, with both bands: a recurrent network on a series of one number a month.

python examples/06_sequence.py                        a simulated series like that of CO2, of which the noise is known
python examples/06_sequence.py --data co2-mm-mlo.csv  Mauna Loa's: months in the first column, ppm in `Average`

An LSTM reads five years and gives mean and log variance of each of the months to come, all at once: the bands widen
because it has learned how far such forecasts miss, not because errors were fed back. Dropout is on its recurrent
weights and its head. A posterior draws weights, not activations, so a sequence has one mask for all of its steps: in
training each sequence has its own (local noise), and at prediction a draw is one network for all of them. This is
variational recurrent dropout (Gal and Ghahramani 2016).

The last windows before the forecast begins have futures of which only some months have been observed: their targets
are NaN where it is not so, and `masked` leaves these out.

What to expect: dropout's bands are not calibrated by themselves. The spread of the masks is learned as noise as well,
and counted twice: one month ahead the predicted standard deviation is 1.2 times the error on the simulated series and
1.4 times on Mauna Loa's. And windows that begin in neighbouring months share most of their future: there are far fewer
independent futures than windows, in training and in the test.
"""

# %% Arguments. Run cell by cell, they have their defaults.
import argparse
import csv
import sys
import time
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from scipy.stats import norm

import bdl

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", type=Path, help="a CSV with a header, a row a month (default: a simulated series)")
parser.add_argument("--column", default="Average", help="the values' column in it (default: %(default)s)")
parser.add_argument("--horizon", type=int, default=36, help="months to forecast (default: %(default)s)")
parser.add_argument("--held-out", type=int, default=108, help="last months, for the test (default: %(default)s)")
parser.add_argument("--rate", type=float, default=0.1, help="the probability of dropping a unit (default: %(default)s)")
parser.add_argument("--num-steps", type=int, default=3_000, help="training steps (default: %(default)s)")
parser.add_argument("--batch-size", type=int, default=64, help="windows of a step (default: %(default)s)")
parser.add_argument("--num-samples", type=int, default=300, help="draws of a prediction (default: %(default)s)")
parser.add_argument("--seed", type=int, default=0, help="of series, weights and draws (default: %(default)s)")
parser.add_argument("--output", type=Path, default=Path("outputs"), help="folder of the figure (default: %(default)s)")
parser.add_argument("--fast", action="store_true", help="few steps and draws, only to see that it runs")
args = parser.parse_args([] if hasattr(sys, "ps1") else None)
if args.fast:
    args.num_steps, args.num_samples = 20, 10
WINDOW, YEAR = 60, 12
horizon = args.horizon

# %% The series, and the noise of each month where it is known.
WALK = 0.12  # ppm, the standard deviation of a month's step of a random walk


def simulated(years: int = 68) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times in years; trend + season + random walk + noise, larger in winter; the noise's standard deviation."""
    rng = np.random.default_rng(args.seed)
    t = np.arange(YEAR * years) / YEAR
    scale = 0.15 + 0.35 * (1 + np.cos(2 * np.pi * t)) / 2
    smooth = 315 + 0.8 * t + 0.012 * t**2 + 2.8 * np.sin(2 * np.pi * t) + 0.8 * np.sin(4 * np.pi * t + 1)
    return 1958 + t, smooth + np.cumsum(WALK * rng.normal(size=t.shape)) + scale * rng.normal(size=t.shape), scale


def from_file(path: Path, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Times in years, from YYYY-MM in the first column, and the values.

    Raises:
        SystemExit: there is no such column, or a month or its value is missing.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    first, *others = filter(None, rows[0])  # cells beyond the header have no name
    if column not in others:
        parser.error(f"{path}: no column {column!r}; the columns are {', '.join(others)}. Name one with --column.")
    months = np.array([row[first][:7] for row in rows], "datetime64[M]").astype(int)
    gaps = np.flatnonzero(np.diff(months) != 1)
    if len(gaps):
        parser.error(f"{path}: expected a row for each month, but after {rows[gaps[0]][first]} comes another one.")
    found = np.array([float(row[column]) for row in rows])
    missing = np.flatnonzero(~(found > 0))  # NOAA writes negative numbers for them
    if len(missing):
        parser.error(f"{path}: no value of {rows[missing[0]][first]}: {found[missing[0]]}. Interpolate, or cut it off.")
    return 1970 + months / YEAR, found


times, values, scale = (*from_file(args.data, args.column), None) if args.data else simulated()
train_end = len(values) - args.held_out
shortest = WINDOW + 2 * horizon
if train_end < shortest or args.held_out < horizon:
    parser.error(f"{shortest} months before those held out and {horizon} held out are needed, got {train_end} and "
                 f"{args.held_out}. Choose a shorter --horizon or another --held-out.")  # fmt: skip


# %% Windows. What a network sees and what it forecasts are relative to a line through the window, as levels never seen
# before are what a growing series is made of.
def windows(origins: np.ndarray, end: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs [N, WINDOW, 3] that end in month `origin`, targets [N, horizon], NaN from month `end` on, and the line."""
    past = origins[:, None] + np.arange(1 - WINDOW, 1)
    future = origins[:, None] + np.arange(1, horizon + 1)
    level = values[past[:, -YEAR:]].mean(1, keepdims=True)
    growth = (level - values[past[:, :YEAR]].mean(1, keepdims=True)) / (WINDOW - YEAR)
    line = level + growth * (np.arange(1 - WINDOW, horizon + 1) + (YEAR - 1) / 2)
    angle = 2 * np.pi * times[past]
    x = np.stack([values[past] - line[:, :WINDOW], np.sin(angle), np.cos(angle)], axis=-1)
    y = np.where(future < end, values[np.minimum(future, len(values) - 1)] - line[:, WINDOW:], np.nan)
    return x, y, line[:, WINDOW:]


x_train, y_train, line_train = windows(np.arange(WINDOW - 1, train_end - 1), train_end)
origins = np.arange(train_end - 1, len(values) - horizon)
x_test, y_test, line_test = windows(origins, len(values))
unit = np.nanstd(y_train)
standardise = lambda x: (x / [unit, 1, 1]).astype(np.float32)

# %% The network, the model, and dropout by path: on what the hidden state enters, in the cell and in the head.
key = jax.random.key(args.seed)
network = bdl.networks.lstm(key, standardise(x_train[:1]), 2 * horizon, width=32, last=True)
model = bdl.Model(network, bdl.likelihoods.masked(bdl.likelihoods.HeteroscedasticNormal(), void=np.nan))
posterior = bdl.variational(
    network.params, dict.fromkeys(["*/h?/kernel", "head/kernel"], bdl.families.bernoulli_dropout(args.rate))
)
start = time.perf_counter()
optimizer = optax.chain(optax.clip_by_global_norm(1e4), optax.adam(optax.cosine_decay_schedule(3e-3, args.num_steps)))
fitted = bdl.fit(
    key, bdl.inference.vi(optimizer), posterior, model, (standardise(x_train), (y_train / unit).astype(np.float32)),
    num_steps=args.num_steps, batch_size=args.batch_size,
)  # fmt: skip
ragged = int(np.isnan(y_train).any(1).sum())
print(f"fitted to {len(x_train)} windows, of {ragged} of which the future is observed in part,", end=" ")
print(f"in {time.perf_counter() - start:.0f} s")

# %% Forecasts from each month of the held-out ones that has a whole future in them.
start = time.perf_counter()
found = bdl.predict(
    key, fitted.posterior, fitted.model, standardise(x_test), num_samples=args.num_samples, quantiles=(0.025, 0.975)
)
data = standardise(x_test), (y_test / unit).astype(np.float32)
log_density = bdl.log_predictive(key, fitted.posterior, fitted.model, data, num_samples=args.num_samples)
mean = line_test + unit * np.asarray(found.mean)
aleatoric, epistemic = (unit * np.sqrt(part) for part in (found.aleatoric, found.epistemic))
deviation = unit * np.sqrt(found.variance)
band = line_test + unit * np.asarray(found.quantiles)
truth = line_test + y_test
print(f"{args.num_samples} draws of {len(origins)} forecasts in {time.perf_counter() - start:.1f} s")


# %% What they have to beat: the month of the year before, and that with the growth of the years before. Their errors
# have, for each month ahead, the standard deviation that they have in the training windows.
def naive(origins: np.ndarray, line: np.ndarray, growing: bool) -> np.ndarray:
    ahead = np.arange(1, horizon + 1)
    back = YEAR * -(-ahead // YEAR)
    growth = (line[:, 1:2] - line[:, :1]) * growing
    return values[origins[:, None] + ahead - back] + growth * back


methods = {
    "network": (mean, log_density.mean() / horizon - np.log(unit), band),
    "without epistemic": (mean, norm.logpdf(truth, mean, aleatoric).mean(), mean + 1.96 * aleatoric * [[[-1]], [[1]]]),
}
for name, growing in (("seasonal naive + growth", True), ("seasonal naive", False)):
    before = np.arange(WINDOW - 1, train_end - 1)
    spread = np.sqrt(np.nanmean((line_train + y_train - naive(before, line_train, growing)) ** 2, axis=0))
    forecast = naive(origins, line_test, growing)
    density = norm.logpdf(truth, forecast, spread).mean()
    methods[name] = forecast, density, forecast + 1.96 * spread * np.array([[[-1]], [[1]]])

years = {"first year": slice(0, YEAR), f"months {horizon - YEAR + 1} to {horizon}": slice(horizon - YEAR, horizon)}
table = {}
print(f"\n{'':25}{'RMSE, ppm':>10}{'log-likelihood':>16}{'95 % interval':>15}{'its width':>11}   coverage of")
print(f"{'':35}{'nats a month':>16}{'covers':>15}{'ppm':>11}   " + ", ".join(years))
for name, (forecast, density, (low, high)) in methods.items():
    covered = (low <= truth) & (truth <= high)
    table[name] = {
        "rmse": np.sqrt(np.mean((truth - forecast) ** 2)),
        "log_likelihood": float(density),
        "coverage": covered.mean(),
        "width": np.mean(high - low),
        **{year: covered[:, months].mean() for year, months in years.items()},
    }
    rmse, density, coverage, width, *parts = table[name].values()
    print(f"{name:25}{rmse:>10.2f}{density:>16.2f}{coverage:>15.1%}{width:>11.2f}   ", end="")
    print(", ".join(f"{part:.1%}" for part in parts))
print(f"{len(origins)} forecasts of {horizon} months, which overlap: the errors of neighbours are not independent.")

# %% The bands by months ahead, beside the errors; and beside the noise to come, which no forecast can avoid.
ahead = np.arange(1, horizon + 1)
root = lambda a: np.sqrt(np.mean(np.square(a), axis=0))
by_month = {"aleatoric": root(aleatoric), "epistemic": root(epistemic), "both": root(deviation)}
by_month["RMSE"] = root(truth - mean)
if scale is not None:
    future = origins[:, None] + ahead
    by_month["noise to come"] = root(np.sqrt(WALK**2 * ahead + scale[future] ** 2))
print(f"\n{'ppm, months ahead':20}" + "".join(f"{h:>8}" for h in ahead[[0, *range(YEAR - 1, horizon, YEAR)]]))
for name, numbers in by_month.items():
    picked = numbers[[0, *range(YEAR - 1, horizon, YEAR)]]
    table[f"by month, {name}"] = {str(i): v for i, v in enumerate(picked)}
    print(f"{name:20}" + "".join(f"{v:>8.2f}" for v in picked))

# %% The figure: the last years with forecasts one after the other; what they miss; the bands by months ahead.
figure, axes = plt.subplot_mosaic(
    [["series", "series"], ["errors", "ahead"]], figsize=(11, 7.5), width_ratios=[1.7, 1], layout="constrained"
)
tail = slice(train_end - 2 * YEAR, None)
axes["series"].plot(times[tail], values[tail], ".", color="k", ms=3, label="observed", zorder=3)
axes["series"].plot(*(a[origins[0] + 1 :] for a in (times, values)), "o", color="k", ms=3, mfc="w", zorder=3)
for n in range(0, len(origins), horizon):
    t = times[origins[n] + ahead]
    for name, center in (("series", mean[n]), ("errors", np.zeros(horizon))):
        labels = [None] * 3 if n else ["mean", "95 %, aleatoric", "95 %, with epistemic"]
        axes[name].fill_between(t, *(band[:, n] - mean[n] + center), color="#F3CF80", lw=0, label=labels[2])
        low, high = center - 1.96 * aleatoric[n], center + 1.96 * aleatoric[n]
        axes[name].fill_between(t, low, high, color="#9BD1F1", lw=0, label=labels[1])
        axes[name].plot(t, center, color="C0", lw=1.2, label=labels[0])
        axes[name].axvline(times[origins[n]] + 0.5 / YEAR, color="0.5", ls=":", lw=1)
    axes["errors"].plot(t, truth[n] - mean[n], "o", color="k", ms=3, mfc="w")
what = "CO₂" if args.data else "simulated CO₂"
axes["series"].set(ylabel=f"{what}, ppm", title=f"forecasts of {horizon} months, each made at a dotted line")
axes["series"].legend(loc="upper left", frameon=False)
axes["errors"].set(xlabel="year", ylabel="observed − mean, ppm", title="the same, less the mean")
axes["errors"].set_xlim(times[train_end] - 0.3, times[-1] + 0.3)
styles = {"aleatoric": "C0-", "epistemic": "C1-", "both": "C2-", "RMSE": "ko", "noise to come": "k--"}
for name, numbers in by_month.items():
    label = f"RMSE of {len(origins)} forecasts" if name == "RMSE" else name
    axes["ahead"].plot(ahead, numbers, styles[name], ms=3, label=label)
axes["ahead"].set(
    xlabel="months ahead",
    ylabel="standard deviation, ppm",
    title="all forecasts",
    ylim=(0, 1.45 * by_month["both"].max()),
)
axes["ahead"].legend(frameon=False, loc="upper left")
args.output.mkdir(parents=True, exist_ok=True)
figure.savefig(args.output / "sequence.png", dpi=150)
print(f"\nfigure: {args.output / 'sequence.png'}")
