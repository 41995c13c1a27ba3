"""What the study of solar flares has in common: its data, and networks that are fitted fold by fold."""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import bdl

FAMILIES = {"mean field": bdl.families.normal(0.05), "dropout": bdl.families.bernoulli_dropout(0.1)}
BATCH, ROWS = 256, 512  # of a training step, and of a prediction


class Records(NamedTuple):
    x: np.ndarray  # [N, D], NaN where missing
    y: np.ndarray  # [N] of 0 and 1
    times: np.ndarray  # [N]
    regions: np.ndarray  # [N]


def read_sharp(folder: Path) -> Records:
    """The records in the order of the file; features are the columns behind the latitude."""
    rows = _rows(folder / "solar_flare_sharp.csv", ";")
    header, rows = rows[0], rows[1:]
    column = {name: [row[i] for row in rows] for i, name in enumerate(header)}
    features = header[header.index("Latitude") + 1 :]
    x = np.array([[float(cell or "nan") for cell in column[name]] for name in features]).T
    times = np.array([time.replace(" ", "T") for time in column["T_REC"]], "datetime64[s]")
    return Records(x, np.array(column["FlareNumber"], int), times, np.array(column["NOAA_AR"], int))


def read_uci(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """One-hot features [N, D] and the largest class of flare [N], 0 for none to 3 for X."""
    rows = _rows(folder / "flare.data2", " ")[1:]
    table = np.array([[cell for cell in row if cell] for row in rows])
    columns = [table[:, [i]] == np.unique(table[:, i]) for i in range(table.shape[1] - 3)]
    x = np.concatenate([values for values in columns if values.shape[1] > 1], axis=1)
    flares = table[:, -3:].astype(int) > 0
    return x.astype(np.float32), np.max(flares * np.arange(1, 4), axis=1)


def _rows(path: Path, delimiter: str) -> list[list[str]]:
    if not path.is_file():
        raise SystemExit(f"no file {path}: pass --data DIR or set BDL_DATA to the folder above `{path.parent.name}`.")
    return [row for row in csv.reader(path.read_text().splitlines(), delimiter=delimiter) if row]


def standardise(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    """arcsinh, which is linear at 0 and logarithmic far from it, then mean 0 and variance 1, all by training rows."""
    unit = np.nanmedian(np.abs(x[train]), axis=0)
    x = np.arcsinh(x / np.where(unit > 0, unit, 1))
    mean, scale = np.nanmean(x[train], axis=0), np.nanstd(x[train], axis=0)
    return np.nan_to_num((x - mean) / np.where(scale > 0, scale, 1)).astype(np.float32)


class Batches:
    """Endless batches of one size, in a fresh order every epoch, so that all folds share a compiled step."""

    def __init__(self, seed: int, x: np.ndarray, y: np.ndarray):
        self.rng, self.x, self.y = np.random.default_rng(seed), x, y

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        size, rows = min(BATCH, len(self.x)), np.empty(0, int)
        while True:
            while len(rows) < size:
                rows = np.concatenate([rows, self.rng.permutation(len(self.x))])
            yield self.x[rows[:size]], self.y[rows[:size]]
            rows = rows[size:]


class Fitter:
    """Fits one network, always from the same start. Made once, so that its folds share what is compiled."""

    def __init__(self, args: argparse.Namespace, inputs: int, outputs: int, likelihood: Any, model: str, widths: Any):
        self.args, key = args, jax.random.key(args.seed)
        network = bdl.networks.mlp(key, jax.ShapeDtypeStruct((1, inputs), np.float32), outputs, widths=widths)
        kind = model.rpartition(", ")[2]
        self.posterior = bdl.variational(network.params, {"*/kernel": FAMILIES[kind]} if kind in FAMILIES else {})
        self.model = bdl.Model(network, likelihood, bdl.priors.fan_in())
        self.algorithm = bdl.inference.vi(optax.adam(optax.cosine_decay_schedule(3e-3, args.steps)))

    def __call__(self, x: np.ndarray, y: np.ndarray, x_new: np.ndarray) -> np.ndarray:
        """Predicted probabilities of new inputs."""
        key = jax.random.key(self.args.seed)
        fitted = bdl.fit(
            key, self.algorithm, self.posterior, self.model, Batches(self.args.seed, x, y), progress=False,
            num_steps=self.args.steps, num_data=max(1, round(len(x) / 500)) * 500,  # each number compiles anew
        )  # fmt: skip
        draws, found = self.args.draws if fitted.posterior.families else None, []
        for start in range(0, len(x_new), ROWS):
            rows = np.minimum(np.arange(start, start + ROWS), len(x_new) - 1)
            batch = bdl.predict(key, fitted.posterior, fitted.model, x_new[rows], num_samples=draws)
            found.append(np.asarray(batch.probs)[: len(x_new) - start])
        return np.concatenate(found)
