"""Weights that make rare classes count."""

from typing import Any

import numpy as np

from bdl.data._checks import classes, whole_number


def class_weights(labels: Any, *, num_classes: int | None = None, power: float = 1.0, mask: Any = None) -> np.ndarray:
    """Weights of the classes that fall with their frequency, for `bdl.likelihoods.class_weighted`:

        w_k = N n_k^−power / Σ_j n_j^(1 − power),   so that the mean weight of an example is 1.

    A power of 1 gives every class the same say, w_k = N / (K n_k); ½ is between that and none. A network trained with
    them predicts for a population where the classes are as frequent as n_k w_k: `shift_prior` takes that back.

    Args:
        labels: [N] integers in 0, …, K − 1, of the training rows.
        num_classes: K; `None` for the largest label plus one.
        power: from 0, all weights 1, to 1.
        mask: bool [N], True where a label counts; `None` for all.

    Returns:
        [K], float32.

    Raises:
        ValueError: a class has no label, and its weight would be infinite; a label or a power out of range.

    Example:
        >>> import bdl
        >>> weights = bdl.data.class_weights([0, 0, 0, 1])
        >>> weights, bdl.likelihoods.class_weighted(bdl.likelihoods.Categorical(), weights).weights
        (array([0.6666667, 2.       ], dtype=float32), Array([0.5, 1.5], dtype=float32))
    """
    labels = classes("class_weights", labels)
    if mask is not None:
        mask = np.asarray(mask)
        if mask.dtype != bool or mask.shape != labels.shape or not mask.any():
            raise ValueError(
                f"class_weights: expected a mask of bool {labels.shape} that keeps a label, got {mask.dtype} "
                f"{mask.shape} that keeps {np.count_nonzero(mask)}."
            )
        labels = labels[mask]
    if not 0 <= power <= 1:
        raise ValueError(f"class_weights: expected a power from 0 to 1, got {power!r}.")
    count = (
        int(labels.max()) + 1 if num_classes is None else whole_number("class_weights", "num_classes", num_classes, 2)
    )
    if labels.min() < 0 or labels.max() >= count:
        wrong = labels[(labels < 0) | (labels >= count)][0]
        raise ValueError(
            f"class_weights: expected labels in 0, …, {count - 1}, got {wrong}. Leave voids out by `mask`."
        )
    numbers = np.bincount(labels, minlength=count)
    if count < 2 or not numbers.all():
        missing = int(np.argmin(numbers)) if count > 1 else 1
        raise ValueError(
            f"class_weights: no label is {missing}, so that its weight would be infinite. Join classes, or take a "
            "split in which all classes are trained on."
        )
    weights = numbers ** -float(power)
    return np.asarray(len(labels) * weights / (numbers * weights).sum(), np.float32)
