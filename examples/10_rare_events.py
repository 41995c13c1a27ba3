"""Rare events in time: a split that tells the truth, thresholds, resampling, and probabilities that mean what they say.

python examples/10_rare_events.py                                       a simulated series of active regions
python examples/10_rare_events.py --data solar_flare_sharp.csv          records of the Sun, 2010 to 2019

A region lives for some days and has a temper that no feature shows, but its features look alike from day to day. A
random split puts some of its days into the training set and others into the test set: a network that remembers regions
seems skilful. Folds of whole regions, blocked by time, ask what a forecast asks: what do regions do that are new?

Then a network is trained on as many quiet days as there are events. Its probabilities are of that balanced world, until
the correction for the prior takes them back; the decisions at its threshold are the same before and after.
"""

# %% Arguments. Run cell by cell, they have their defaults.
import argparse
import csv
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.linear_model import LogisticRegression

import bdl
from bdl import data, families, likelihoods, metrics
from bdl.data import splits

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", type=Path, help="the file solar_flare_sharp.csv (default: a simulated series)")
parser.add_argument("--num-regions", type=int, default=400, help="of the simulated series (default: %(default)s)")
parser.add_argument("--num-steps", type=int, default=1_000, help="training steps of a fit (default: %(default)s)")
parser.add_argument("--num-samples", type=int, default=50, help="draws of a prediction (default: %(default)s)")
parser.add_argument("--seed", type=int, default=0, help="of data, splits, weights and draws (default: %(default)s)")
parser.add_argument("--output", type=Path, default=Path("outputs"), help="folder of the figure (default: %(default)s)")
parser.add_argument("--fast", action="store_true", help="few regions, steps and draws, only to see that it runs")
args = parser.parse_args([] if hasattr(sys, "ps1") else None)
if args.fast:
    args.num_regions, args.num_steps, args.num_samples = 100, 20, 5


# %% The data: features [N, D], events [N], days [N] and the regions that they are of [N].
def simulate(regions: int, days: int = 10) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(args.seed)
    first = np.sort(rng.uniform(0, 3_600, regions))
    cycle = np.cos(2 * np.pi * (first - 1_800) / 3_600)  # the Sun is active in the middle
    strength, temper = cycle + rng.normal(size=regions), 1.5 * rng.normal(size=regions)
    looks = rng.normal(size=(regions, 6))
    region = np.repeat(np.arange(regions), days)
    shown = strength[region] + 0.5 * rng.normal(size=len(region))
    features = np.column_stack([shown, looks[region] + 0.2 * rng.normal(size=(len(region), 6))])
    probability = 1 / (1 + np.exp(4.5 - 1.5 * strength - temper))[region]
    times = first[region] + np.tile(np.arange(days), regions)
    return features, rng.uniform(size=len(region)) < probability, times, region


def read(path: Path) -> tuple[np.ndarray, ...]:
    """Raises a ValueError that names the column that is not there."""
    with path.open() as file:
        rows = list(csv.DictReader(file, delimiter=";"))
    needed = ("FlareNumber", "T_REC", "NOAA_AR", "Latitude")
    missing = [name for name in needed if not rows or name not in rows[0]]
    if missing:
        raise ValueError(f"{path}: no column {missing[0]!r}; expected solar_flare_sharp.csv, separated by semicolons.")
    names = list(rows[0])
    names = names[names.index("Latitude") + 1 :]
    features = np.array([[float(row[name] or "nan") for name in names] for row in rows])
    flare, region = (np.array([int(row[name]) for row in rows]) for name in ("FlareNumber", "NOAA_AR"))
    times = np.array([row["T_REC"].replace(" ", "T") for row in rows], "datetime64[s]")
    return features, flare, (times - times.min()) / np.timedelta64(1, "D"), region


try:
    x, y, days, regions = simulate(args.num_regions) if args.data is None else read(args.data)
except (OSError, ValueError) as error:
    parser.error(str(error))
y = y.astype(int)
print(f"{len(y)} days of {len(np.unique(regions))} regions, {y.sum()} with an event ({y.mean():.1%})")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    data.warn_of_imbalance(metrics.accuracy, y)
print("\n".join(str(warning.message) for warning in caught))

# %% Two kinds of folds. All train on as many rows, so that the split is the only difference (and one program fits all).
key = jax.random.key(args.seed)
folds = {
    "random": splits.random(key, len(y)),
    "blocked": splits.blocked_by_time(days, gap=2, groups=regions),
}
size = min(len(train) for pairs in folds.values() for train, _ in pairs)
thin = np.random.default_rng(args.seed)
folds = {
    kind: [(np.sort(thin.choice(train, size, replace=False)), test) for train, test in pairs]
    for kind, pairs in folds.items()
}

# %% Three models that learn, and climatology, which says the training rows' frequency of events for every day.
network = bdl.networks.mlp(key, jax.ShapeDtypeStruct((1, x.shape[1]), np.float32), 1, widths=(64, 64))
model = bdl.Model(network, likelihoods.Bernoulli(), bdl.priors.fan_in(gain=10.0))
optimizer = bdl.inference.vi(optax.adam(optax.cosine_decay_schedule(3e-3, args.num_steps)))
models = {
    "logistic regression": None,
    "network": bdl.variational(network.params, families.point),
    "Bayesian network": bdl.variational(network.params, {"*/kernel": families.bernoulli_dropout(0.1)}),
}


def probabilities(name: str, train: np.ndarray) -> np.ndarray:
    """P(event) of all rows, by a model fitted to the training rows, and standardised by them."""
    if name == "climatology":
        return np.full(len(y), y[train].mean())
    z = np.arcsinh(x / np.nanmedian(np.abs(x[train]), axis=0))  # logarithmic where features are large
    inputs = np.nan_to_num((z - np.nanmean(z[train], axis=0)) / np.nanstd(z[train], axis=0)).astype(np.float32)
    if models[name] is None:
        return LogisticRegression(max_iter=1_000).fit(inputs[train], y[train]).predict_proba(inputs)[:, 1]
    fitted = bdl.fit(
        key, optimizer, models[name], model, (inputs[train], y[train, None]),
        num_steps=args.num_steps, batch_size=min(128, len(train)), progress=False,
    )  # fmt: skip
    draws = args.num_samples if fitted.posterior.families else None
    prediction = bdl.predict(key, fitted.posterior, fitted.model, jnp.asarray(inputs), num_samples=draws)
    return np.asarray(prediction.probs)[:, 0]


def skill(decisions: np.ndarray, labels: np.ndarray) -> float:
    """TSS, NaN in a fold without events."""
    return float(metrics.true_skill_statistic(metrics.confusion_matrix(decisions, labels, 2), undefined=np.nan))


def fit_and_score(name: str):
    def run(train: np.ndarray, test: np.ndarray) -> float:
        # Of calibrated probabilities, the threshold with the best TSS is the frequency of events.
        decisions = (probabilities(name, train)[test] > y[train].mean()).astype(int)
        return skill(decisions, y[test])

    return run


# %% How much does the random split promise too much?
table, found = {}, {}
print(f"\nTSS at the threshold of climatology\n{'':22}{'random':>10}{'blocked':>10}{'overstated by':>20}")
for name in ("climatology", *models):
    found[name] = data.overstatement(fit_and_score(name), *folds.values())
    table[name] = {part: getattr(found[name], part) for part in ("random", "blocked", "difference", "standard_error")}
    random, blocked, difference, error = table[name].values()
    print(f"{name:22}{random:10.3f}{blocked:10.3f}{difference:13.3f} ± {error:.3f}", flush=True)
undefined = sum(np.isnan(found["network"].blocked_scores))
if undefined:
    print(f"{undefined} of the blocked folds without an event, where TSS is not defined and which are left out")

# %% As many quiet days as events, and back.
raw, corrected = np.empty(len(y)), np.empty(len(y))
for train, test in folds["blocked"]:
    balanced = data.undersample(key, y, events=[1], rows=train, within=np.floor(days / 365).astype(int))
    raw[test] = probabilities("logistic regression", balanced)[test]
    prior = lambda p: np.stack([1 - p, p], -1)
    shifted = data.shift_prior(prior(raw[test]), prior(y[balanced].mean()), prior(y[train].mean()))
    corrected[test] = shifted[:, 1]
brier = lambda p: np.mean((p - y) ** 2)
reference = brier(y.mean())
print("\ntrained on as many quiet days as events:")
for name, probs in (("as they are", raw), ("corrected", corrected)):
    table[name] = {"mean": probs.mean(), "brier_skill": 1 - brier(probs) / reference}
    print(f"{name:22}mean probability {probs.mean():.3f} (events: {y.mean():.3f}), Brier skill score "
          f"{table[name]['brier_skill']:.3f}")  # fmt: skip

# %% The figure.
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4.4), layout="constrained")
bins = np.linspace(days.min(), days.max() + 1e-6, 41)
rate = np.histogram(days, bins, weights=y)[0] / np.maximum(np.histogram(days, bins)[0], 1)
left.stairs(rate, bins / 365, fill=True, color="#4477aa", alpha=0.8)
for _, test in folds["blocked"][1:]:
    left.axvline(days[test].min() / 365, color="0.3", ls=":")
left.set(title="Events in time, and the blocks", xlabel="years", ylabel="frequency of events")
for offset, kind, colour in ((-0.15, "random", "#cc3311"), (0.15, "blocked", "#4477aa")):
    for place, name in enumerate(found):
        scores = getattr(found[name], f"{kind}_scores")
        label = kind if place == 0 else None
        middle.scatter(np.full(len(scores), place + offset), scores, s=12, color=colour, alpha=0.5, lw=0)
        middle.plot(place + offset, np.nanmean(scores), marker="_", ms=16, mew=3, color=colour, label=label, ls="")
middle.set(title="The same models, two kinds of folds", ylabel="TSS (dots: folds, lines: means)")
middle.set_xticks(range(len(found)), [name.replace(" ", "\n") for name in found])
middle.legend()
edges = np.quantile(raw, np.linspace(0, 1, 9))
for probs, label, colour in ((raw, "as they are", "#cc3311"), (corrected, "corrected", "#4477aa")):
    groups = np.clip(np.searchsorted(edges, raw, side="right") - 1, 0, 7)
    mean = [[a[groups == k].mean() for k in range(8)] for a in (probs, y)]
    right.plot(*mean, "o-", color=colour, label=label)
right.plot([0, 1], [0, 1], color="0.4", ls="--", lw=1, label="reliable")
right.set(title="Trained on balanced data", xlabel="predicted probability", ylabel="frequency of events")
right.legend()
args.output.mkdir(parents=True, exist_ok=True)
figure.savefig(args.output / "rare_events.png", dpi=150)
print(f"\nfigure: {args.output / 'rare_events.png'}")
