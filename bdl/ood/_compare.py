"""Detectors against each other: every metric of every one, on every kind of outliers, over several runs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import numpy as np

from bdl.metrics import detection

_METRICS = "auroc", "aupr_in", "aupr_out", "fpr95", "detection_error"


class Comparison(eqx.Module):
    """What `compare` found; it prints as Markdown: a table for each kind of outliers, means of runs ± standard errors.

    Attributes:
        metrics: of each method and each kind of outliers those of `bdl.metrics.detection`, [R] for R runs.
        scores: of each method those of the inliers, under the name "in", and of each kind of outliers; of the last run,
            for `bdl.plots.scores`.
        positive: which of them FPR95 and TNR95 take as the positive class, "in" or "out".
    """

    metrics: dict[str, dict[str, dict[str, np.ndarray]]]
    scores: dict[str, dict[str, np.ndarray]]
    positive: str = eqx.field(static=True)

    def merge(self, other: "Comparison") -> "Comparison":
        """The runs of both, such as those of another seed.

        Raises:
            ValueError: they have other methods, other outliers or another positive class.
        """
        mine, theirs = (_shape(c) for c in (self, other))
        if mine != theirs:
            raise ValueError(
                f"merge: expected the methods, outliers and positive class {mine}, got {theirs}. Compare "
                "the same in each run."
            )
        # By hand, as jax.tree.map would put the names in alphabetical order.
        joined = {
            method: {
                kind: {
                    name: np.concatenate([runs, other.metrics[method][kind][name]]) for name, runs in of_kind.items()
                }
                for kind, of_kind in found.items()
            }
            for method, found in self.metrics.items()
        }
        return Comparison(joined, other.scores, self.positive)

    def table(self, metric: str = "auroc", *, groups: Mapping[str, Sequence[str]] | None = None) -> str:
        """One metric as Markdown, a row for each method and a column for each kind of outliers.

        Args:
            metric: one of `bdl.metrics.detection`.
            groups: kinds of outliers by the name of their mean, such as {"near": ["letters"], "far": ["noise"]}; a
                column for each.

        Raises:
            ValueError: there is no such metric or kind of outliers.
        """
        first = next(iter(self.metrics.values()))
        known = next(iter(first.values()))
        if metric not in known:
            raise ValueError(f"table: there is no metric {metric!r}; there are {', '.join(known)}.")
        columns = {name: [name] for name in first} | {name: list(kinds) for name, kinds in (groups or {}).items()}
        missing = [kind for kinds in columns.values() for kind in kinds if kind not in first]
        if missing:
            raise ValueError(f"table: there are no outliers named {missing[0]!r}; there are {', '.join(first)}.")
        cells = {
            method: [_cell(np.mean([found[kind][metric] for kind in kinds], 0)) for kinds in columns.values()]
            for method, found in self.metrics.items()
        }
        return _markdown(metric, list(columns), cells)

    def __str__(self) -> str:
        kinds = next(iter(self.metrics.values()))
        parts = [
            _markdown(kind, list(_METRICS), {m: [_cell(f[kind][n]) for n in _METRICS] for m, f in self.metrics.items()})
            for kind in kinds
        ]
        note = "95 % of the inliers are kept" if self.positive == "in" else "95 % of the outliers are found"
        return "\n\n".join([*parts, f"FPR95: where {note}."])


def compare(
    methods: Mapping[str, Callable[[Any], Any]],
    inside: Any,
    outside: Mapping[str, Any],
    *,
    positive: Literal["in", "out"] = "in",
) -> Comparison:
    """How well each of several detectors tells outliers of each kind from inliers: all metrics in use, as a table.

    A study over seeds merges its runs: `found = found.merge(compare(...))`.

    Args:
        methods: by name, a `Detector` of inputs or any function from inputs to scores [N], higher = more
            out-of-distribution.
        inside: inliers, which no detector was fitted to, examples along axis 0.
        outside: outliers of each kind, by name, each like the inliers.
        positive: as in `bdl.metrics.detection`: "in" is the convention of ODIN and Mahalanobis, "out" that of OpenOOD.

    Returns:
        A `Comparison` of one run.

    Raises:
        TypeError: methods or outliers without names.
        ValueError: no method, no outliers or some named "in", a method that does not give one score an input.

    Reference:
        Hendrycks and Gimpel (2017), https://arxiv.org/abs/1610.02136; near and far outliers: Yang et al. (2022),
        OpenOOD, https://arxiv.org/abs/2210.07242

    Example:
        >>> import jax.numpy as jnp, bdl.ood
        >>> methods = {"size": lambda x: jnp.abs(x), "sign": lambda x: x}
        >>> inside = jnp.arange(-4, 5)
        >>> found = bdl.ood.compare(methods, inside, {"below": inside - 9, "thrice": 3 * inside})
        >>> print(found.table("auroc"))
        | auroc | below | thrice |
        |---|---|---|
        | size | 1.0000 | 0.8210 |
        | sign | 0.0000 | 0.5000 |
    """
    for called, named in (("methods", methods), ("outside", outside)):
        if not isinstance(named, Mapping):
            raise TypeError(
                f"compare: expected `{called}` by name, a dict, got {type(named).__name__}. Give each a name for the "
                'table: {"noise": x}.'
            )
    if not methods or not outside:
        raise ValueError("compare: expected methods and outliers, by name, at least one of either; got none.")
    if "in" in outside:
        raise ValueError('compare: "in" is the name of the inliers. Give these outliers another one.')
    scores = {method: {"in": _scores(method, f, inside)} for method, f in methods.items()}
    metrics: dict[str, dict[str, dict[str, np.ndarray]]] = {method: {} for method in methods}
    for method, function in methods.items():
        for kind, x in outside.items():
            far = scores[method][kind] = _scores(method, function, x)
            found = detection(scores[method]["in"], far, positive=positive)
            metrics[method][kind] = {name: np.asarray(value)[None] for name, value in found.items()}
    return Comparison(metrics, scores, positive)


def _scores(name: str, method: Callable[[Any], Any], x: Any) -> np.ndarray:
    found, count = np.asarray(method(x)), len(jax.tree.leaves(x)[0])
    if found.shape != (count,):
        raise ValueError(
            f"compare: expected one score for each of {count} inputs from {name!r}, got the shape {found.shape}. A "
            "detector of logits or features becomes one of inputs by bdl.ood.through."
        )
    return found


def _shape(comparison: Comparison) -> tuple[list[str], list[str], str]:
    kinds = next(iter(comparison.metrics.values()))
    return list(comparison.metrics), list(kinds), comparison.positive


def _cell(runs: np.ndarray) -> str:
    """The mean over runs, ± its standard error."""
    if len(runs) == 1:
        return f"{runs[0]:.4f}"
    return f"{runs.mean():.4f} ± {runs.std(ddof=1) / np.sqrt(len(runs)):.4f}"


def _markdown(corner: str, columns: list[str], rows: dict[str, list[str]]) -> str:
    lines = ["| " + " | ".join([corner, *columns]) + " |", "|---" * (len(columns) + 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join([label, *cells]) + " |" for label, cells in rows.items()])
