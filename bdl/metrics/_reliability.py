"""Reliability: how often the predicted class is right, beside how often it was said to be, in bins of confidence."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bdl._data_checks import is_traced
from bdl.metrics._bins import sums_in_bins
from bdl.metrics._checks import classes
from bdl.metrics._norms import Norm, check_norm, floor, power, root


class Reliability(eqx.Module):
    """Sums over the examples in each bin of confidence: what reliability diagrams and calibration errors are made of.

    Those of two batches with the same edges are `merge`d, and then equal those of all examples. Printed, it is the
    calibration error beside what a calibrated predictor would have. The shapes are [..., B], for B bins, and [K, B]
    for all classes; bin b holds confidences in (edges[b], edges[b + 1]], the first one 0 too.

    Attributes:
        edges: of the bins, [..., B + 1].
        count: of examples, int32.
        correct: the number of examples that were of the predicted class, int32.
        total: the sum of the confidences.
        spread: the sum of p (1 − p) over the confidences p: the variance of `correct`, were the confidences right.
    """

    edges: jax.Array
    count: jax.Array
    correct: jax.Array
    total: jax.Array
    spread: jax.Array

    @property
    def confidence(self) -> jax.Array:
        """The mean confidence in each bin; NaN in empty ones."""
        return self.total / self._number

    @property
    def accuracy(self) -> jax.Array:
        """The share of examples that were of the predicted class in each bin; NaN in empty ones."""
        return self.correct.astype(jnp.float32) / self._number

    @property
    def standard_error(self) -> jax.Array:
        """The standard deviation of `accuracy − confidence`, were the confidences right: √Σ p (1 − p) / n."""
        return jnp.sqrt(self.spread) / self._number

    def merge(self, other: "Reliability") -> "Reliability":
        """The sums over both sets of examples.

        Raises:
            ValueError: the edges are not the same.
        """
        ours, theirs = self.edges, other.edges
        same = np.shape(ours) == np.shape(theirs)
        if not same or not (is_traced((ours, theirs)) or np.array_equal(np.asarray(ours), np.asarray(theirs))):
            raise ValueError(
                "Reliability.merge: expected the same edges in both. Bins of equal mass have their own in each batch: "
                "pass binning=first.edges to the later ones."
            )
        sums = (getattr(self, name) + getattr(other, name) for name in ("count", "correct", "total", "spread"))
        return Reliability(ours, *sums)

    def error(self, norm: Norm = "l1", *, debias: bool = False) -> jax.Array:
        """The calibration error, for each class where there are several: see `expected_calibration_error`.

        Raises:
            ValueError: `norm` is none of "l1", "l2" and "max", or the maximum is to be debiased.
        """
        check_norm("Reliability.error", norm, debias)
        return root(power(self.count, self.correct, self.total, norm, debias), norm)

    def noise_floor(self, norm: Norm = "l1") -> jax.Array:
        """The error that a calibrated predictor would have, for each class: see `calibration_noise_floor`.

        Raises:
            ValueError: `norm` is none of "l1", "l2" and "max".
        """
        check_norm("Reliability.noise_floor", norm)
        return root(floor(self.count, self.spread, norm), norm)

    @property
    def _number(self) -> jax.Array:
        return jnp.where(self.count > 0, self.count.astype(jnp.float32), jnp.nan)

    def __str__(self) -> str:
        if is_traced(self):
            return repr(self)
        ece, noise = (float(jnp.mean(each)) for each in (self.error(), self.noise_floor()))
        examples = int(np.asarray(self.count).sum(-1).flat[0])
        bins = f"{examples:,} examples in {np.shape(self.count)[-1]} bins"
        return f"expected calibration error {ece:.4f}, {noise:.4f} if calibrated ({bins})"


def reliability(
    probs: Any,
    labels: Any,
    *,
    num_bins: int = 15,
    binning: Any = "width",
    of: int | str = "top",
    mask: Any = None,
) -> Reliability:
    """How often predictions are right in bins of their confidence: the numbers of a reliability diagram.

    Streams with `merge`. Bins of equal mass need all confidences at once, or the edges of an earlier call.

    Args:
        probs: [..., K], rows that sum to 1.
        labels: [...], integers in 0, …, K − 1.
        num_bins: B.
        binning: "width" for bins of equal width, "mass" for bins that hold equally many examples (equal confidences
            stay in one bin), or edges: [B + 1] or [K, B + 1], not decreasing.
        of: "top" for the most probable class, the first one of several; the index of a class for the probability of
            that class; "classes" for that of every class, each by itself, [K, B].
        mask: bool [...], True where an example counts.

    Returns:
        `Reliability`, of shape [B], or [K, B] for "classes".

    Raises:
        ValueError: shapes, probabilities or labels that are none, no example, or bins that are none.

    Example:
        >>> import jax.numpy as jnp, bdl.metrics
        >>> probs = jnp.array([[0.2, 0.8], [0.3, 0.7], [0.9, 0.1], [0.6, 0.4]])
        >>> found = bdl.metrics.reliability(probs, jnp.array([1, 0, 0, 0]), num_bins=2, of=1)
        >>> found.count, found.confidence, found.accuracy
        (Array([2, 2], dtype=int32), Array([0.25, 0.75], dtype=float32), Array([0. , 0.5], dtype=float32))
        >>> print(found.merge(found))
        expected calibration error 0.2500, 0.1668 if calibrated (8 examples in 2 bins)

    Reference:
        Guo et al. (2017), On calibration of modern neural networks, https://arxiv.org/abs/1706.04599; Bröcker and Smith
        (2007), Increasing the reliability of reliability diagrams, https://doi.org/10.1175/WAF993.1
    """
    probs, labels, weights = classes("reliability", probs, labels, mask)
    num_classes = probs.shape[-1]
    if not (of in ("top", "classes") if isinstance(of, str) else 0 <= of < num_classes):
        raise ValueError(f"reliability: expected `of` to be 'top', 'classes' or a class below {num_classes}, got {of}.")
    rows = num_classes if of == "classes" else 1
    edges = given_edges(binning, num_bins, rows)
    found = sums_in_bins(probs, labels, weights, edges, num_bins, of)
    return Reliability(*(found if of == "classes" else (each[0] for each in found)))


def given_edges(binning: Any, num_bins: int, rows: int) -> jax.Array | None:
    """The edges [rows, B + 1] of bins, or None where the confidences are to tell them."""
    if num_bins < 1:
        raise ValueError(f"reliability: expected num_bins of at least 1, got {num_bins}.")
    if isinstance(binning, str):
        if binning not in ("width", "mass"):
            raise ValueError(f"reliability: expected `binning` to be 'width', 'mass' or edges, got {binning!r}.")
        edges = np.arange(num_bins + 1) / num_bins
        return None if binning == "mass" else jnp.asarray(np.broadcast_to(edges, (rows, num_bins + 1)), jnp.float32)
    shape = np.shape(binning)
    if len(shape) not in (1, 2) or shape[-1] < 2 or shape[:-1] not in ((), (rows,)):
        raise ValueError(f"reliability: expected edges [B + 1], or [{rows}, B + 1] for each class, got shape {shape}.")
    if not is_traced(binning) and not np.all(np.diff(np.asarray(binning, np.float32), axis=-1) >= 0):
        raise ValueError("reliability: expected edges that do not decrease, got some that do. Sort them.")
    return jnp.broadcast_to(jnp.asarray(binning).astype(jnp.float32), (rows, shape[-1]))
