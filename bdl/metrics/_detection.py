"""Detection of a positive class at a threshold: of what is out of distribution, and of one's own errors."""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from bdl._data_checks import is_traced
from bdl.metrics import _auroc, _precision_recall
from bdl.metrics._ranking import Ranking, events, rank


def fpr_at_tpr(scores: Any, labels: Any, *, tpr: float = 0.95, mask: Any = None) -> jax.Array:
    """The false positive rate where at least `tpr` of the positives are found, FPR95 (lower is better, in [0, 1]).

    The threshold is the highest of the scores that finds so many, without interpolation. It takes all examples at once.

    Args:
        scores: [...], higher for what is more likely positive.
        labels: [...], 1 or True for positives, else 0.
        tpr: the true positive rate, in (0, 1].
        mask: bool [...], True where an example counts.

    Returns:
        A number, float32. Under a trace it is NaN where a class is missing or a score is NaN.

    Raises:
        ValueError: shapes that do not match, scores that are not finite, labels that are not 0 and 1, a class missing;
            `tpr` out of its range.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> scores, labels = jnp.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4]), jnp.array([1, 1, 0, 1, 0, 0])
        >>> round(float(bdl.metrics.fpr_at_tpr(scores, labels)), 4)
        0.3333
    """
    return _fpr(*events("fpr_at_tpr", scores, labels, mask), _missed("fpr_at_tpr", tpr))


def tnr_at_tpr(scores: Any, labels: Any, *, tpr: float = 0.95, mask: Any = None) -> jax.Array:
    """The true negative rate where at least `tpr` of the positives are found, TNR95 (higher is better, in [0, 1]).

    It is 1 − `fpr_at_tpr`, with the same arguments.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> scores, labels = jnp.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4]), jnp.array([1, 1, 0, 1, 0, 0])
        >>> round(float(bdl.metrics.tnr_at_tpr(scores, labels)), 4)
        0.6667
    """
    return _tnr(*events("tnr_at_tpr", scores, labels, mask), _missed("tnr_at_tpr", tpr))


def detection_error(scores: Any, labels: Any, *, mask: Any = None) -> jax.Array:
    """The error of the best threshold, both classes equally likely (lower is better, in [0, ½]):

        minₜ ½ (1 − TPRₜ) + ½ FPRₜ, over all thresholds t.

    1 minus it is called detection accuracy. It takes all examples at once.

    Args:
        scores: [...], higher for what is more likely positive.
        labels: [...], 1 or True for positives, else 0.
        mask: bool [...], True where an example counts.

    Returns:
        A number, float32. Under a trace it is NaN where a class is missing or a score is NaN.

    Raises:
        ValueError: shapes that do not match, scores that are not finite, labels that are not 0 and 1, a class missing.

    Reference:
        Liang, Li and Srikant (2018), Enhancing the reliability of out-of-distribution image detection in neural
        networks, https://arxiv.org/abs/1706.02690

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> bdl.metrics.detection_error(jnp.array([0.9, 0.3, 0.7, 0.1]), jnp.array([1, 1, 0, 0]))
        Array(0.25, dtype=float32)
    """
    return _error(*events("detection_error", scores, labels, mask))


def detection(
    scores_in: Any,
    scores_out: Any,
    *,
    positive: Literal["in", "out"] = "in",
    mask_in: Any = None,
    mask_out: Any = None,
    balanced: bool = False,
) -> dict[str, jax.Array]:
    """How well scores tell what is out of distribution from what is in it, by every metric in use, from one sort.

    Args:
        scores_in: [N, ...], of in-distribution examples. Higher means further out: pass −max p, not max p.
        scores_out: [M, ...], of the others.
        positive: which of them `fpr95` and `tnr95` find 95 % of, as the positive class. "in" is the convention of ODIN
            and Mahalanobis, "out" that of OpenOOD. Their numbers are not comparable.
        mask_in: bool, of the shape of `scores_in`, True where an example counts.
        mask_out: bool, of the shape of `scores_out`.
        balanced: whether the two areas under precision and recall come from rates; see `average_precision`.

    Returns:
        Numbers, float32: `auroc`, `aupr_out`, `aupr_in` and `tnr95` (higher is better), `fpr95` and `detection_error`
        (lower is better). `auroc` and `detection_error` are the same for either `positive`.

    Raises:
        ValueError: an unknown `positive`, no example of one kind, scores that are not finite, a mask of another shape.

    Reference:
        Hendrycks and Gimpel (2017), A baseline for detecting misclassified and out-of-distribution examples in neural
        networks, https://arxiv.org/abs/1610.02136

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> found = bdl.metrics.detection(jnp.array([-0.9, -0.8, -0.4]), jnp.array([-0.5, -0.3, -0.2]))
        >>> {name: round(float(value), 3) for name, value in found.items()}
        {'auroc': 0.889, 'aupr_out': 0.917, 'aupr_in': 0.917, 'fpr95': 0.333, 'tnr95': 0.667, 'detection_error': 0.167}
    """
    if positive not in ("in", "out"):
        raise ValueError(f'detection: expected positive="in" or "out", got {positive!r}.')
    scores = _joined("scores", scores_in, scores_out)
    labels = np.repeat([0, 1], (np.size(scores_in), np.size(scores_out)))
    mask = None if mask_in is None and mask_out is None else _masks(scores_in, scores_out, mask_in, mask_out)
    found = _all(*events("detection", scores, labels, mask), _missed("detection", 0.95), positive == "in", balanced)
    names = ("auroc", "aupr_out", "aupr_in", "fpr95", "tnr95", "detection_error")
    return dict(zip(names, found, strict=True))


def error_detection(
    uncertainty: Any, correct: Any, *, mask: Any = None, balanced: bool = False
) -> dict[str, jax.Array]:
    """How well an uncertainty tells wrong predictions from correct ones, from one sort.

    Args:
        uncertainty: [...], higher for what is more likely wrong: an entropy, or −max p.
        correct: [...], 1 or True where the prediction was correct.
        mask: bool [...], True where an example counts.
        balanced: whether the two areas under precision and recall come from rates; see `average_precision`.

    Returns:
        Numbers, float32: `auroc`, `aupr_error` and `aupr_success` (higher is better), and `fpr95` (lower is better),
        the share of errors accepted where 95 % of the correct predictions are.

    Raises:
        ValueError: shapes that do not match, no error or nothing correct, an uncertainty that is not finite.

    Reference:
        Hendrycks and Gimpel (2017), https://arxiv.org/abs/1610.02136; Corbière et al. (2019), Addressing failure
        prediction by learning model confidence, https://arxiv.org/abs/1910.04851

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> found = bdl.metrics.error_detection(jnp.array([0.1, 0.2, 0.9, 0.4]), jnp.array([1, 1, 0, 0]))
        >>> {name: float(value) for name, value in found.items()}
        {'auroc': 1.0, 'aupr_error': 1.0, 'aupr_success': 1.0, 'fpr95': 0.0}
    """
    certainty = -jnp.asarray(uncertainty).astype(jnp.float32)
    sorted_events = events("error_detection", certainty, correct, mask, ("uncertainty", "correct"))
    auroc, success, error, fpr, *_ = _all(*sorted_events, _missed("error_detection", 0.95), False, balanced)
    return {"auroc": auroc, "aupr_error": error, "aupr_success": success, "fpr95": fpr}


def _missed(name: str, tpr: float) -> np.float32:
    """The share of positives that may be missed, which loses fewer digits than the share that is found."""
    if not 0 < tpr <= 1:
        raise ValueError(f"{name}: expected tpr in (0, 1], got {tpr}. 95 % is tpr=0.95.")
    return np.float32(1 - tpr)


def _joined(what: str, of_in: Any, of_out: Any) -> jax.Array:
    for called, array in (("in", of_in), ("out", of_out)):
        if np.size(array) == 0:
            raise ValueError(f"detection: there is no example in {what}_{called}. Pass at least one.")
    return jnp.concatenate([jnp.asarray(a).astype(jnp.float32).reshape(-1) for a in (of_in, of_out)])


def _masks(scores_in: Any, scores_out: Any, mask_in: Any, mask_out: Any) -> jax.Array:
    masks = []
    for called, scores, mask in (("in", scores_in, mask_in), ("out", scores_out, mask_out)):
        mask = np.ones(np.shape(scores), bool) if mask is None else mask
        if np.shape(mask) != np.shape(scores):
            raise ValueError(f"detection: expected mask_{called} of shape {np.shape(scores)}, got {np.shape(mask)}.")
        if not (is_traced(mask) or np.any(mask)):
            raise ValueError(f"detection: there is no example that mask_{called} keeps. Pass at least one.")
        masks.append(jnp.asarray(mask).reshape(-1))
    return jnp.concatenate(masks)


@jax.jit
def _fpr(keys: jax.Array, labels: jax.Array, missed: jax.Array) -> jax.Array:
    return _false_positive_rate(rank(keys, labels), missed)


@jax.jit
def _tnr(keys: jax.Array, labels: jax.Array, missed: jax.Array) -> jax.Array:
    return 1 - _false_positive_rate(rank(keys, labels), missed)


@jax.jit
def _error(keys: jax.Array, labels: jax.Array) -> jax.Array:
    return _smallest_error(rank(keys, labels))


@functools.partial(jax.jit, static_argnames=("reverse", "balanced"))
def _all(keys: jax.Array, labels: jax.Array, missed: jax.Array, reverse: bool, balanced: bool) -> tuple[jax.Array, ...]:
    ranking = rank(keys, labels)
    turned = ranking.reversed()
    fpr = _false_positive_rate(turned if reverse else ranking, missed)
    positive, negative = (_precision_recall.area(r, balanced) for r in (ranking, turned))
    return _auroc.area(ranking), positive, negative, fpr, 1 - fpr, _smallest_error(ranking)


def _false_positive_rate(ranking: Ranking, missed: jax.Array) -> jax.Array:
    # (1 − tpr) P is seldom a float32: what is within its rounding of a whole number is that number.
    allowed = missed * ranking.positives * jnp.float32(1 + 2**-22)
    enough = ranking.threshold & (ranking.positives - ranking.true.astype(jnp.float32) <= allowed)
    rate = ranking.false.astype(jnp.float32) / ranking.negatives
    return ranking.or_nan(jnp.min(jnp.where(enough, rate, 1.0)))


def _smallest_error(ranking: Ranking) -> jax.Array:
    missed = 1 - ranking.true.astype(jnp.float32) / ranking.positives
    error = 0.5 * missed + 0.5 * ranking.false.astype(jnp.float32) / ranking.negatives
    # ½ is the error of a threshold that nothing reaches.
    return ranking.or_nan(jnp.minimum(jnp.min(jnp.where(ranking.threshold, error, 0.5)), 0.5))
