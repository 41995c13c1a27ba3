"""Scores of probabilities for each pixel, over the pixels that have a label. NumPy, float64 sums."""

from typing import Any

import numpy as np

BINS = 15


def scores(probs: np.ndarray, uncertainty: np.ndarray, labels: np.ndarray, void: int) -> dict[str, Any]:
    """What is reported of a segmentation.

    Args:
        probs: [N, H, W, K].
        uncertainty: [N, H, W], larger is less certain: pixels are removed from the largest down.
        labels: [N, H, W], classes or `void`.
        void: the label of pixels that do not count.

    Returns:
        iou: the mean over classes of intersection over union, of all images together; `iou_per_class`.
        accuracy: the share of pixels whose most probable class is right.
        nll: −log p(label) in nats, the mean over pixels.
        ece: the expected calibration error of the most probable class, 15 bins of equal width (Guo et al. 2017).
        precision: of the pixels that are left when the most uncertain 10 %, 20 %, ... 90 % are removed (0 % first).
    """
    seen = labels != void
    probs, uncertainty, labels = probs[seen], uncertainty[seen], labels[seen]
    found, confidence = probs.argmax(-1), probs.max(-1)
    right = found == labels
    iou = per_class_iou(found, labels, probs.shape[-1])
    order = np.argsort(uncertainty, kind="stable")
    kept = [right[order[: round(len(order) * (1 - removed / 10))]].mean() for removed in range(10)]
    picked = np.take_along_axis(probs, labels[:, None].astype(int), -1)[:, 0].astype(np.float64)
    return {
        "iou": float(np.nanmean(iou)),
        "iou_per_class": iou.tolist(),
        "accuracy": float(right.mean()),
        "nll": float(-np.log(np.maximum(picked, np.finfo(np.float32).tiny)).mean()),
        "ece": calibration_error(confidence, right),
        "precision": [float(p) for p in kept],
    }


def per_class_iou(found: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Intersection over union of each class, NaN for one that is neither there nor found."""
    confusion = np.bincount(labels.astype(int) * classes + found, minlength=classes**2).reshape(classes, classes)
    union = confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
    return np.divide(np.diag(confusion), union, out=np.full(classes, np.nan), where=union > 0)


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Σ over bins of confidence, share of the pixels × |accuracy − mean confidence|."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gap = np.bincount(bins, right.astype(np.float64) - confidence, minlength=BINS)
    return float(np.abs(gap).sum() / len(confidence))
