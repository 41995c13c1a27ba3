"""One table of what suits a prediction: is it right, and can its uncertainty be trusted?"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import entr

from bdl import metrics
from bdl._keys import derive
from bdl.metrics._checks import classes, values
from bdl.uncertainty import ClassPrediction, Prediction

_HALF = 1.959964  # standard deviations to each side of a Normal that hold 95 %


class Score(NamedTuple):
    """A row of an evaluation.

    Attributes:
        value: of the metric; NaN where it is undefined.
        better: "higher" or "lower", or the value that it should have.
        unit: of the value; empty for shares.
        standard_error: from the bootstrap; `None` without one.
        note: what else is to know: the noise floor of a calibration error, or why the value is undefined.
    """

    value: float
    better: str
    unit: str = ""
    standard_error: float | None = None
    note: str = ""


class Evaluation(dict[str, Score]):
    """Scores by the names of their metrics; it prints as a table."""

    def as_dict(self) -> dict[str, float]:
        """The values by name."""
        return {name: score.value for name, score in self.items()}

    def as_frame(self) -> Any:
        """A pandas data frame with a row for each metric.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("as_frame needs pandas: pip install pandas.") from error
        return pd.DataFrame.from_dict({name: score._asdict() for name, score in self.items()}, orient="index")

    def __str__(self) -> str:
        bootstrapped = any(score.standard_error is not None for score in self.values())
        lines = [("metric", "value", *["± s.e."] * bootstrapped, "better", "unit", "")]
        for name, score in self.items():
            error = f"{score.standard_error:.2g}" if score.standard_error is not None else ""
            value = "undefined" if math.isnan(score.value) else f"{score.value:.4g}"
            lines.append((name, value, *[error] * bootstrapped, score.better, score.unit, score.note))
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def evaluate(
    prediction: Any, targets: Any, *, mask: Any = None, key: Any = None, num_resamples: int = 200
) -> Evaluation:
    """What there is to say of a prediction once the targets are known: is it right, and can its uncertainty be trusted?

    Of classes: accuracy, balanced accuracy, macro F1, Matthews correlation; log-likelihood and Brier score; expected
    calibration error in 15 bins, that of the most probable class and that over all classes, each with its noise floor,
    which is what a calibrated prediction of this size would show; and how well the entropy orders right answers before
    wrong ones. Of two classes also AUROC, average precision and the true skill statistic.

    Of real numbers: RMSE and MAE; of the Normal with the predicted mean and standard deviation the log-likelihood,
    CRPS, and coverage and width of the 95 % interval; the calibration error over all quantiles with its noise floor;
    sharpness; and how well the predicted deviation orders small errors before large ones.

    Each is a function of `bdl.metrics`, with the same name or the one its docstring gives.

    Args:
        prediction: of `bdl.predict`, or anyone's: probabilities [..., K] for integer targets, or for real ones a pair
            (mean, standard deviation).
        targets: [...], for a regression of the mean's shape.
        mask: bool, of the targets' shape, True where one counts; `None` for all.
        key: of the bootstrap over examples along axis 0; without one there are no standard errors.
        num_resamples: of the bootstrap, all metrics on the same ones.

    Returns:
        `Evaluation`, a dict of scores by name that prints as a table, with `as_dict()` and `as_frame()`. What is
        undefined for these targets is NaN, and its note says why.

    Raises:
        ValueError: shapes that do not match, probabilities that are none, labels outside the range, numbers that are
            not finite, no example.
        TypeError: the prediction is none of the above, or the targets are a pair with what was observed of them.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> probs = jnp.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]])
        >>> scores = bdl.evaluate(probs, jnp.array([0, 0, 1, 0]))
        >>> scores["accuracy"].value, round(scores["brier"].value, 3)
        (0.75, 0.35)
    """
    if isinstance(targets, tuple) and any(np.ndim(part) for part in targets):
        raise TypeError(
            f"evaluate: expected the targets as one array, got a tuple of {len(targets)}. For a pair (y, observed) "
            "pass evaluate(prediction, y, mask=observed)."
        )
    arrays, rows = _of_classes(prediction, targets, mask) or _of_numbers(prediction, targets, mask)
    scores = Evaluation({name: row.score(arrays, mask) for name, row in rows.items()})
    if key is None:
        return scores
    defined = _All(tuple((name, rows[name].function) for name, score in scores.items() if not math.isnan(score.value)))
    weights = np.ones(np.shape(targets), bool) if mask is None else mask
    found = metrics.bootstrap(derive(key, "evaluate"), defined, *arrays, weights, num_resamples=num_resamples)
    errors = {name: float(error) for name, error in found.standard_error.items() if np.isfinite(error)}
    return Evaluation({name: score._replace(standard_error=errors.get(name)) for name, score in scores.items()})


class _Row(NamedTuple):
    function: Callable[..., jax.Array]  # of the arrays and mask=
    better: str
    unit: str = ""
    note: Callable[..., str] | None = None

    def score(self, arrays: tuple[Any, ...], mask: Any) -> Score:
        try:
            value = float(self.function(*arrays, mask=mask))
        except ValueError as undefined:  # the arrays themselves have been checked
            return Score(math.nan, self.better, self.unit, note=str(undefined))
        return Score(value, self.better, self.unit, note=self.note(*arrays, mask=mask) if self.note else "")


@dataclasses.dataclass(frozen=True)
class _All:
    """All metrics of the same arrays, the last of which is a mask; equal ones are compiled once."""

    functions: tuple[tuple[str, Callable[..., jax.Array]], ...]

    def __call__(self, *given: Any) -> dict[str, jax.Array]:
        return {name: function(*given[:-1], mask=given[-1]) for name, function in self.functions}


def _of_classes(prediction: Any, targets: Any, mask: Any) -> tuple[tuple[Any, ...], dict[str, _Row]] | None:
    """Probabilities and labels, and what is to say of them; `None` where these are no classes."""
    if isinstance(prediction, Prediction | tuple | list):
        return None
    probs = prediction.probs if isinstance(prediction, ClassPrediction) else prediction
    if isinstance(prediction, ClassPrediction) and np.shape(probs) == np.shape(targets):
        probs, targets = jnp.stack([1 - probs, probs], -1), jnp.asarray(targets).astype(jnp.int32)
    if not hasattr(probs, "ndim"):
        raise TypeError(
            "evaluate: expected a prediction of `bdl.predict`, probabilities [..., K], or a pair (mean, standard "
            f"deviation); got {type(prediction).__name__}."
        )
    classes("evaluate", probs, targets, mask)
    return (probs, targets), _CLASSES | (_TWO_CLASSES if probs.shape[-1] == 2 else {})


def _of_numbers(prediction: Any, targets: Any, mask: Any) -> tuple[tuple[Any, ...], dict[str, _Row]]:
    """Mean, standard deviation and targets, and what is to say of them."""
    if isinstance(prediction, Prediction):
        prediction = prediction.mean, jnp.sqrt(prediction.variance)
    if len(prediction) != 2:
        raise ValueError(f"evaluate: expected a pair (mean, standard deviation), got {len(prediction)} arrays.")
    mean, scale = (jnp.broadcast_to(jnp.asarray(a), np.shape(targets)) if np.ndim(a) == 0 else a for a in prediction)
    values("evaluate", mean, targets, mask=mask, names=("mean", "targets"))
    return (mean, scale, targets), _NUMBERS


def _floor(classwise: bool) -> Callable[..., str]:
    def note(probs: Any, labels: Any, mask: Any) -> str:
        return f"{float(metrics.calibration_noise_floor(probs, classwise=classwise, mask=mask)):.4g} if calibrated"

    return note


def _impossible(probs: Any, labels: Any, mask: Any) -> str:
    scores = metrics.log_likelihood(probs, labels, mask=mask, average=False)
    count = int(np.isneginf(scores).sum())
    return f"{count} of the labels had a probability of 0" if count else ""


def _confusion(metric: Callable[..., jax.Array], **options: Any) -> Callable[..., jax.Array]:
    return lambda probs, labels, mask: metric(metrics.confusion_matrix(probs, labels, mask=mask), **options)


def _error(probs: Any, labels: Any) -> jax.Array:
    return (jnp.argmax(probs, -1) != jnp.asarray(labels)).astype(jnp.float32)


def _entropy(probs: Any) -> jax.Array:
    return entr(jnp.asarray(probs).astype(jnp.float32)).sum(-1)


def _interval(mean: Any, scale: Any) -> tuple[Any, Any]:
    return mean - _HALF * scale, mean + _HALF * scale


def _pit_error(mean: Any, scale: Any, targets: Any, mask: Any) -> jax.Array:
    return metrics.regression_calibration_error(metrics.pit_normal(mean, scale, targets, mask=mask), mask=mask)


def _pit_floor(mean: Any, scale: Any, targets: Any, mask: Any) -> str:
    # (m + 2) / (6 (m + 1) N) on average, of m = 99 levels.
    count = np.size(targets) if mask is None else np.sum(mask)
    return f"{101 / (600 * count):.2g} if calibrated"


_CLASSES = {
    "accuracy": _Row(_confusion(metrics.accuracy), "higher"),
    "balanced_accuracy": _Row(_confusion(metrics.balanced_accuracy), "higher"),
    "f1": _Row(_confusion(metrics.f1), "higher"),
    "matthews_correlation": _Row(_confusion(metrics.matthews_correlation), "higher"),
    "log_likelihood": _Row(metrics.log_likelihood, "higher", "nats", _impossible),
    "brier": _Row(metrics.brier, "lower"),
    "expected_calibration_error": _Row(metrics.expected_calibration_error, "lower", note=_floor(False)),
    "classwise_calibration_error": _Row(
        functools.partial(metrics.expected_calibration_error, classwise=True), "lower", note=_floor(True)
    ),
    "aurc": _Row(lambda p, y, mask: metrics.aurc(_entropy(p), _error(p, y), mask=mask), "lower"),
    "error_auroc": _Row(lambda p, y, mask: metrics.auroc(_entropy(p), _error(p, y), mask=mask), "higher"),
}

_TWO_CLASSES = {
    "auroc": _Row(lambda p, y, mask: metrics.auroc(p[..., 1], y, mask=mask), "higher"),
    "average_precision": _Row(lambda p, y, mask: metrics.average_precision(p[..., 1], y, mask=mask), "higher"),
    "true_skill_statistic": _Row(_confusion(metrics.true_skill_statistic), "higher"),
}

_UNIT = "the target's"

_NUMBERS = {
    "rmse": _Row(lambda m, s, y, mask: metrics.rmse(m, y, mask=mask), "lower", _UNIT),
    "mae": _Row(lambda m, s, y, mask: metrics.mae(m, y, mask=mask), "lower", _UNIT),
    "normal_log_likelihood": _Row(metrics.normal_log_likelihood, "higher", "nats"),
    "crps_normal": _Row(metrics.crps_normal, "lower", _UNIT),
    "coverage": _Row(lambda m, s, y, mask: metrics.coverage(*_interval(m, s), y, mask=mask), "0.95"),
    "interval_width": _Row(lambda m, s, y, mask: metrics.interval_width(*_interval(m, s), mask=mask), "lower", _UNIT),
    "regression_calibration_error": _Row(_pit_error, "lower", note=_pit_floor),
    "sharpness": _Row(lambda m, s, y, mask: metrics.sharpness(s, mask=mask), "lower", _UNIT),
    "sparsification_error": _Row(
        lambda m, s, y, mask: metrics.sparsification_error(s, jnp.abs(m - y), mask=mask), "lower"
    ),
}
