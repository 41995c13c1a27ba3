"""Solar flares: rare events in time. What is a forecast's skill, and how much of it is the split's?

    python -m benchmarks.solar_flares --data DIR                 # both studies, minutes on two cores
    python -m benchmarks.solar_flares ordinal --data DIR

* `sharp`: is there an M or X flare one or two days ahead? 8,874 records of 1,289 active regions, 2010 to 2019, of 25
  magnetic features, 4.3 % events. Climatology, logistic regression, a network and two posteriors over its weights, by
  folds of two years each (`temporal`), by active region (`grouped`) and at random; TSS and HSS with 95 % intervals from
  a bootstrap of whole regions; how much the random split overstates; what class weights and resampling do.
* `ordinal`: the largest flare of a region in a day (none, C, M, X) from ten categorical features, 1,066 rows: an
  ordinal likelihood beside a softmax and climatology, in five stratified folds. The set has neither times nor names of
  regions, so that no split can respect them.

Thresholds are those with the best TSS, or HSS, on a third of the training rows (whole regions of them, unless the split
is random), by a model fitted to the other two thirds. Inputs are standardised by training rows. The years 2018 and 2019
have no event: TSS is not defined there, and the fold counts in what is pooled by its false alarms alone.

DIR is the folder above `solar_flare_sharp` and `solar_flare_uci`.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from sklearn.linear_model import LogisticRegression

import bdl
from bdl import data, metrics
from benchmarks import _command
from benchmarks._solar_flares import Fitter, Records, read_sharp, read_uci, standardise
from benchmarks._timing import environment

EDGES = np.array([f"{year}-01-01" for year in (2012, 2014, 2016, 2018)], "datetime64[s]")
GAP = np.timedelta64(2, "D")  # as far ahead as a label looks
MODELS = ("climatology", "logistic regression", "network", "network, mean field", "network, dropout")
KINDS = ("temporal", "grouped", "random")
SCORES = {"tss": metrics.true_skill_statistic, "hss": metrics.heidke_skill_score}
CLASSES = ("none", "C", "M", "X")


class Study:
    """Probabilities of events for test rows, by models that saw the training rows alone."""

    def __init__(self, records: Records, args: argparse.Namespace):
        self.records, self.args = records, args
        self.fitters: dict[str, Fitter] = {}

    def predict(self, model: str, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        """P(event) of the test rows."""
        records = self.records
        if model == "climatology":
            return np.full(len(test), records.y[train].mean())
        x, y = standardise(records.x, train), records.y
        if model == "logistic regression":
            return LogisticRegression(max_iter=2_000).fit(x[train], y[train]).predict_proba(x[test])[:, 1]
        if model not in self.fitters:
            widths = (self.args.width, self.args.width)
            self.fitters[model] = Fitter(self.args, x.shape[1], 1, bdl.likelihoods.Bernoulli(), model, widths)
        return self.fitters[model](x[train], y[train, None], x[test])[:, 0]

    def splits(self, kind: str, rows: np.ndarray, num_folds: int = 5) -> list[tuple[np.ndarray, np.ndarray]]:
        """Folds of `rows`; temporal ones are the blocks of years in which there are some."""
        key, records = jax.random.key(self.args.seed + 1), self.records
        if kind == "temporal":
            blocks = np.unique(np.searchsorted(EDGES, records.times[rows], side="right"))
            found = data.splits.blocked_by_time(
                records.times[rows], edges=EDGES[blocks[1:] - 1], gap=GAP, groups=records.regions[rows]
            )
        elif kind == "grouped":
            found = data.splits.grouped(key, records.regions[rows], labels=records.y[rows], num_folds=num_folds)
        else:
            found = data.splits.random(key, len(rows), num_folds=num_folds)
        return [(rows[train], rows[test]) for train, test in found]

    def forecast(self, model: str, kind: str) -> dict[str, np.ndarray]:
        """For all rows, each by the fold that it is the test of: probabilities, and decisions for either score."""
        size = len(self.records.y)
        found = {"probs": np.empty(size), "reference": np.empty(size), "fold": np.empty(size, int)}
        found |= {name: np.empty(size, int) for name in SCORES}
        for number, (train, test) in enumerate(self.splits(kind, np.arange(size))):
            probs = self.predict(model, train, test)
            found["probs"][test], found["fold"][test] = probs, number
            found["reference"][test] = self.records.y[train].mean()
            inner, held_out = self.splits("random" if kind == "random" else "grouped", train, num_folds=3)[0]
            within = self.predict(model, inner, held_out)
            for name, threshold in best_thresholds(within, self.records.y[held_out]).items():
                found[name][test] = probs >= threshold
        return found


def best_thresholds(probs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Those with the largest score, of 400 quantiles of the probabilities."""
    grid = np.quantile(probs, np.linspace(0, 1, 401))
    confusion = np.stack([confusion_of(probs >= threshold, labels) for threshold in grid])
    return {name: float(grid[np.argmax(np.asarray(score(confusion)))]) for name, score in SCORES.items()}


def confusion_of(decisions: Any, labels: Any) -> np.ndarray:
    """[2, 2], rows true."""
    return np.bincount(2 * labels.astype(int) + decisions, minlength=4).reshape(2, 2)


def skill(name: str, decisions: np.ndarray, labels: np.ndarray) -> float:
    """The score, NaN where it is not defined."""
    return float(SCORES[name](confusion_of(decisions, labels), undefined=np.nan))


def of_regions(decisions: np.ndarray, records: Records) -> np.ndarray:
    """The confusion matrix of each region, [G, 2, 2]; what a resample of whole regions counts is a sum of them."""
    region = np.unique(records.regions, return_inverse=True)[1]
    counts = np.bincount(4 * region + 2 * records.y + decisions, minlength=4 * (region.max() + 1))
    return counts.reshape(-1, 2, 2)


# Functions that are made once are compiled once.
POOLED = {name: lambda matrices, of=of: of(matrices.sum(0), undefined=np.nan) for name, of in SCORES.items()}


def tss_difference(one: Any, other: Any) -> Any:
    return POOLED["tss"](one) - POOLED["tss"](other)


def interval(seed: int, metric: Any, *matrices: np.ndarray) -> list[float]:
    """95 %, from a bootstrap of whole regions."""
    found = metrics.bootstrap(jax.random.key(seed), metric, *matrices)
    return [float(found.lower), float(found.upper)]


def score(found: dict[str, np.ndarray], records: Records, seed: int) -> dict[str, Any]:
    """What a model's forecasts are worth: pooled over the folds, and fold by fold."""
    y, probs, row = records.y, found["probs"], {}
    for name in SCORES:
        row[name] = skill(name, found[name], y)
        row[f"{name}_interval"] = interval(seed, POOLED[name], of_regions(found[name], records))
        row[f"{name}_folds"] = [
            skill(name, found[name][found["fold"] == k], y[found["fold"] == k]) for k in range(found["fold"].max() + 1)
        ]
    brier = lambda p: np.mean((p - y) ** 2)
    row["brier_skill"] = float(1 - brier(probs) / brier(found["reference"]))
    row["log_likelihood"] = float(np.mean(np.log(np.where(y == 1, probs, 1 - probs) + 1e-12)))
    last = found["fold"] == found["fold"].max()
    row["last_fold"] = {
        "events": int(y[last].sum()), "rows": int(last.sum()),
        "false_alarms": {name: int(found[name][last & (y == 0)].sum()) for name in SCORES},
    }  # fmt: skip
    return row


def sharp(args: argparse.Namespace) -> dict[str, Any]:
    """The binary study."""
    records = read_sharp(args.data / "solar_flare_sharp")
    study, results = Study(records, args), {}
    forecasts = {}
    for model in MODELS:
        for kind in KINDS:
            start = time.perf_counter()
            forecasts[model, kind] = study.forecast(model, kind)
            results[f"{model}, {kind}"] = score(forecasts[model, kind], records, args.seed)
            print(f"  {model}, {kind}: {time.perf_counter() - start:.0f} s", flush=True)
    temporal = {model: forecasts[model, "temporal"]["tss"] for model in MODELS}
    return {
        "rows": results,
        "random over temporal": {model: flattery(model, forecasts, records, args.seed) for model in MODELS[1:]},
        "over logistic regression": {
            model: difference(temporal[model], temporal["logistic regression"], records, args.seed)
            for model in MODELS[2:]
        },
        "remedies": remedies(records, args),
    }


def difference(one: np.ndarray, other: np.ndarray, records: Records, seed: int) -> dict[str, Any]:
    """Of the pooled TSS of two forecasts for the same rows."""
    found = [skill("tss", decisions, records.y) for decisions in (one, other)]
    matrices = [of_regions(decisions, records) for decisions in (one, other)]
    return {"difference": found[0] - found[1], "interval": interval(seed, tss_difference, *matrices)}


def flattery(model: str, forecasts: Any, records: Records, seed: int) -> dict[str, Any]:
    """How much the random split overstates TSS: pooled with its interval, and as a difference of means over folds."""
    random, temporal = forecasts[model, "random"], forecasts[model, "temporal"]
    folds = lambda forecast: [(forecast["tss"], forecast["fold"] == k) for k in range(forecast["fold"].max() + 1)]
    found = data.overstatement(
        # All is fitted already: what stands for the training rows are the decisions.
        lambda decisions, test: skill("tss", decisions[test], records.y[test]),
        folds(random),
        folds(temporal),
    )
    row = difference(random["tss"], temporal["tss"], records, seed)
    return row | {"of_folds": found.difference, "standard_error": found.standard_error}


def remedies(records: Records, args: argparse.Namespace) -> dict[str, Any]:
    """What training as if events were frequent does to a network's forecasts, on the temporal folds."""
    study, y = Study(records, args), records.y
    months = records.times.astype("datetime64[M]")
    resample = {"undersampling": data.undersample, "oversampling": data.oversample}
    rows, fitter = {}, None
    for name in ("none", "class weights", *resample):
        raw, corrected, base = (np.empty(len(y)) for _ in range(3))
        for train, test in study.splits("temporal", np.arange(len(y))):
            used, likelihood = train, bdl.likelihoods.Bernoulli()
            if name in resample:
                used = resample[name](jax.random.key(args.seed), y, events=[1], rows=train, within=months)
            if name == "class weights":
                likelihood = bdl.likelihoods.class_weighted(likelihood, data.class_weights(y[train]))
            x = standardise(records.x, train)
            fitter = fitter or Fitter(args, x.shape[1], 1, likelihood, "network", (args.width, args.width))
            fitter.model = bdl.Model(fitter.model.network, likelihood, fitter.model.prior)
            raw[test] = fitter(x[used], y[used, None], x[test])[:, 0]
            base[test] = y[train].mean()
            trained_on = 0.5 if name == "class weights" else y[used].mean()
            pair = lambda p: np.stack([1 - p, p], -1)
            shifted = data.shift_prior(pair(raw[test]), pair(trained_on), pair(y[train].mean()))
            corrected[test] = shifted[:, 1]
        rows[name] = {"training_rows": len(used), "tss_at_half": skill("tss", (raw >= 0.5).astype(int), y)}
        for when, probs in (("raw", raw), ("corrected", corrected)):
            rows[name][f"brier_skill_{when}"] = float(1 - np.mean((probs - y) ** 2) / np.mean((base - y) ** 2))
            rows[name][f"mean_probability_{when}"] = float(probs.mean())
        rows[name]["tss_corrected_at_base_rate"] = skill("tss", (corrected >= base).astype(int), y)
    return rows


def ordinal(args: argparse.Namespace) -> dict[str, Any]:
    """The study of ordered classes."""
    x, y = read_uci(args.data / "solar_flare_uci")
    likelihoods = {"softmax": bdl.likelihoods.Categorical(), "ordinal": bdl.likelihoods.Ordinal(len(CLASSES))}
    models = {
        f"{name}, {size}{kind}": (likelihood, 1 if name == "ordinal" else len(CLASSES), widths, kind)
        for name, likelihood in likelihoods.items()
        for size, widths, kind in (
            ("linear", (), ""),
            ("network", (args.width,), ""),
            ("network", (args.width,), ", mean field"),
        )
    }
    probs = {name: np.empty((len(y), len(CLASSES))) for name in ("climatology", *models)}
    folds = data.splits.stratified(jax.random.key(args.seed), y)
    for train, test in folds:
        probs["climatology"][test] = np.bincount(y[train], minlength=len(CLASSES)) / len(train)
    for name, (likelihood, outputs, widths, kind) in models.items():
        fitter = Fitter(args, x.shape[1], outputs, likelihood, kind, widths)
        for train, test in folds:
            probs[name][test] = fitter(x[train], y[train], x[test])
    scores = {name: class_scores(p, y) for name, p in probs.items()}
    return {
        "counts": np.bincount(y).tolist(),
        "rows": {
            name: {
                "log_likelihood": float(values[0].mean()),
                "ranked_probability_score": float(values[1].mean()),
                "log_likelihood_over_softmax": paired(values[0], scores["softmax, linear"][0]),
                "ranked_probability_over_softmax": paired(values[1], scores["softmax, linear"][1]),
            }
            for name, values in scores.items()
        },
    }


def class_scores(probs: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihood in nats and ranked probability score Σ_k (P(y ≤ k) − [y ≤ k])² of each row."""
    happened = y[:, None] <= np.arange(probs.shape[1])
    return (
        np.log(probs[np.arange(len(y)), y] + 1e-12),
        np.sum((np.cumsum(probs, axis=1) - happened)[:, :-1] ** 2, axis=1),
    )


def paired(values: np.ndarray, others: np.ndarray) -> list[float]:
    """The mean difference and its standard error over rows."""
    differences = values - others
    return [float(differences.mean()), float(differences.std(ddof=1) / np.sqrt(len(differences)))]


STUDIES = {"sharp": sharp, "ordinal": ordinal}


def tables(results: dict[str, Any]) -> str:
    """The results of a study as Markdown."""
    parts = [_table(results["rows"], leave_out=("last_fold",))]
    others = [key for key in ("random over temporal", "over logistic regression", "remedies") if key in results]
    parts += [f"{key}\n\n{_table(results[key])}" for key in others]
    return "\n\n".join(parts)


def _table(rows: dict[str, Any], leave_out: Sequence[str] = ()) -> str:
    names = [name for name in next(iter(rows.values())) if name not in leave_out]
    lines = ["| | " + " | ".join(n.replace("_", " ") for n in names) + " |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {label} | " + " | ".join(_cell(row[n]) for n in names) + " |" for label, row in rows.items()]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return ", ".join(map(_cell, value)) if isinstance(value, list) else f"{value:.3f}".removesuffix(".000")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run what the command line asks for, save after every study, print the tables."""
    parser = _command.parser(__doc__, ".")
    parser.add_argument("studies", nargs="*", choices=[[], *STUDIES], default=[], help="default: both")
    parser.add_argument("--steps", type=int, default=1_000, help="of a fit, default: %(default)s")
    parser.add_argument("--width", type=int, default=32, help="of the hidden layers, default: %(default)s")
    parser.add_argument("--draws", type=int, default=50, help="of the weights at prediction, default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="folder of solar_flares.json; what is in it is not run again")
    parser.add_argument("--fast", action="store_true", help="5 steps, 2 draws: does it run?")
    args = _command.parse(parser, argv)
    if args.fast:
        args.steps, args.draws = 5, 2
    results = _command.Results(args.output, "solar_flares.json")
    results["environment"] = environment()
    for name in args.studies or STUDIES:
        if not results.has(name, _command.settings(args, "steps", "width", "draws", "seed")):
            start, processor = time.perf_counter(), time.process_time()
            results[name] = STUDIES[name](args)
            results[name]["seconds"] = time.perf_counter() - start
            results[name]["processor_seconds"] = time.process_time() - processor
            results.save()
        print(f"\n{name}\n\n{tables(results[name])}", flush=True)
    return results


if __name__ == "__main__":
    main(sys.argv[1:])
