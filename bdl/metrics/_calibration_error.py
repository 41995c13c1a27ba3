"""Expected and maximum calibration errors, and the noise floor to read them by."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdl.metrics._norms import Norm, check_norm, floor, over_classes, power
from bdl.metrics._reliability import reliability


def expected_calibration_error(
    probs: Any,
    labels: Any,
    *,
    norm: Norm = "l1",
    num_bins: int = 15,
    binning: Any = "width",
    classwise: bool = False,
    debias: bool = False,
    mask: Any = None,
) -> jax.Array:
    """How far confidence is from accuracy, in bins of confidence (lower is better, a difference of probabilities):

        ECE = Σ_b n_b/N |accuracy_b − confidence_b|.

    A calibrated predictor's is not 0 but about `calibration_noise_floor`, which falls as 1/√N: read the two together.
    With the defaults it is the ECE of Guo et al. The norm "l2" is √Σ_b n_b/N (accuracy_b − confidence_b)², "max" the
    largest difference in a bin that is not empty. It streams through `bdl.metrics.reliability`.

    Args:
        probs: [..., K], rows that sum to 1.
        labels: [...], integers in 0, …, K − 1.
        norm: "l1", "l2" or "max".
        num_bins: B.
        binning: "width", "mass" or edges, as of `reliability`.
        classwise: whether to take the probability of every class against whether it was the label, and the mean over
            classes (of squares for "l2", the maximum for "max"), each class alike; else the most probable class only.
        debias: whether to subtract the bias of the estimate. For "l2" the variance a (1 − a) / (n − 1) of each bin's
            accuracy a is subtracted from its square, bins of one example count 0, and the error is 0 where the sum is
            below 0. For "l1" twice the error less E|Normal(accuracy_b − confidence_b, a (1 − a) / n)|, in closed form:
            it can be below 0. There is none for "max".
        mask: bool [...], True where an example counts.

    Returns:
        A number, float32.

    Raises:
        ValueError: shapes, probabilities or labels that are none, no example, or options that are none.

    Example:
        >>> import jax.numpy as jnp, bdl.metrics
        >>> probs = jnp.array([[0.1, 0.9], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]])
        >>> labels = jnp.array([1, 0, 0, 0])
        >>> error = bdl.metrics.expected_calibration_error(probs, labels, num_bins=2)
        >>> f"{error:.2f}, {bdl.metrics.calibration_noise_floor(probs, num_bins=2):.2f} if calibrated"
        '0.00, 0.17 if calibrated'

    Reference:
        Guo et al. (2017), On calibration of modern neural networks, https://arxiv.org/abs/1706.04599; classwise: Kull
        et al. (2019), Beyond temperature scaling, https://arxiv.org/abs/1910.12656; debiased: Kumar, Liang and Ma
        (2019), Verified uncertainty calibration, https://arxiv.org/abs/1909.10155
    """
    check_norm("expected_calibration_error", norm, debias)
    of = "classes" if classwise else "top"
    found = reliability(probs, labels, num_bins=num_bins, binning=binning, of=of, mask=mask)
    return over_classes(power(found.count, found.correct, found.total, norm, debias), norm)


def maximum_calibration_error(
    probs: Any,
    labels: Any,
    *,
    num_bins: int = 15,
    binning: Any = "width",
    classwise: bool = False,
    mask: Any = None,
) -> jax.Array:
    """The largest difference of confidence and accuracy in a bin (lower is better, a difference of probabilities):

        MCE = max_b |accuracy_b − confidence_b|.

    A bin with few examples decides it: read it beside `calibration_noise_floor(probs, norm="max")`, or give bins equal
    mass. It streams through `bdl.metrics.reliability`.

    Args:
        probs: [..., K], rows that sum to 1.
        labels: [...], integers in 0, …, K − 1.
        num_bins: B.
        binning: "width", "mass" or edges, as of `reliability`.
        classwise: whether to take the maximum over all classes too; else the most probable class only.
        mask: bool [...], True where an example counts.

    Returns:
        A number, float32.

    Raises:
        ValueError: shapes, probabilities or labels that are none, no example, or options that are none.

    Example:
        >>> import jax.numpy as jnp, bdl.metrics
        >>> probs = jnp.array([[0.1, 0.9], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]])
        >>> print(f"{bdl.metrics.maximum_calibration_error(probs, jnp.array([1, 0, 0, 0])):.2f}")
        0.80

    Reference:
        Guo et al. (2017), On calibration of modern neural networks, https://arxiv.org/abs/1706.04599
    """
    return expected_calibration_error(
        probs, labels, norm="max", num_bins=num_bins, binning=binning, classwise=classwise, mask=mask
    )


def calibration_noise_floor(
    probs: Any,
    *,
    norm: Norm = "l1",
    num_bins: int = 15,
    binning: Any = "width",
    classwise: bool = False,
    mask: Any = None,
) -> jax.Array:
    """The calibration error that these confidences would have were they right (a difference of probabilities):

        Σ_b n_b/N E|Normal(0, Σ_{n in b} pₙ (1 − pₙ) / n_b²)| = 1/N Σ_b √(2/π Σ_{n in b} pₙ (1 − pₙ)).

    An `expected_calibration_error` near it says nothing against a predictor. For "l2" it is the root of the expected
    square, which is exact; for "max" the expected largest one of independent Normals. The Normal holds for bins of many
    examples: with fewer than about ten, or confidences next to 1, the floor of "l1" and "max" is too high, as a sum of
    few indicators is closer to its mean than its variance says.

    Args:
        probs: [..., K], rows that sum to 1.
        norm: as of `expected_calibration_error`, likewise the rest.
        num_bins: B.
        binning: "width", "mass" or edges.
        classwise: whether for every class; for "max" the classes are taken as independent.
        mask: bool [...], True where an example counts.

    Returns:
        A number, float32.

    Raises:
        ValueError: shapes or probabilities that are none, no example, or options that are none.

    Example:
        >>> import jax.numpy as jnp, bdl.metrics
        >>> probs = jnp.full((100, 2), 0.5)
        >>> print(f"{bdl.metrics.calibration_noise_floor(probs):.4f}")  # √(2/π · 100/4) / 100
        0.0399
    """
    check_norm("calibration_noise_floor", norm)
    no_labels = np.zeros(np.shape(probs)[:-1], np.int32)
    of = "classes" if classwise else "top"
    found = reliability(probs, no_labels, num_bins=num_bins, binning=binning, of=of, mask=mask)
    if norm == "max":
        return floor(jnp.ravel(found.count), jnp.ravel(found.spread), norm)
    return over_classes(floor(found.count, found.spread, norm), norm)
