"""Histogram binning: the share of ones in each bin of a probability."""

import functools
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bdl.calibration._checks import new_each
from bdl.calibration._one_vs_rest import apply_each, each_class


class HistogramBinning(eqx.Module):
    """p ↦ the value of its bin, what `histogram_binning` fits; of K classes, normalised.

    Attributes:
        edges: the upper edges of all bins but the last, which belong to them, [1, B − 1] for one probability,
            [K, B − 1] for those of K classes.
        values: [1, B] or [K, B].
        binary: whether probabilities are those of class 1, without an axis for classes.
    """

    edges: jax.Array
    values: jax.Array
    binary: bool = eqx.field(static=True)

    def __call__(self, probs: Any) -> jax.Array:
        """Calibrated probabilities, of the shape of `probs`: [...], or [..., K].

        Raises:
            ValueError: these are no probabilities, or not of K classes.
        """
        return _applied(self, new_each(probs, self.binary, len(self.edges)))


def histogram_binning(
    probs: Any, labels: Any, *, num_bins: int = 15, binning: Literal["mass", "width"] = "mass", mask: Any = None
) -> HistogramBinning:
    """Histogram binning: a probability becomes the share of ones among the examples of its bin.

    An empty bin keeps its midpoint. Values of exactly 0 and 1 are possible, where the NLL of a label to come may be
    infinite. Of K classes each is taken against the rest, and what comes out is normalised.

    Args:
        probs: [...], probabilities of class 1, or [..., K].
        labels: [...], 0 and 1, or integers in 0, …, K − 1.
        num_bins: B.
        binning: "mass" for bins with equally many examples, up to ties, or "width" for equally wide ones.
        mask: bool [...], True where an example counts; `None` for all.

    Raises:
        ValueError: numbers that are no probabilities, shapes that do not match, labels outside the range, no example,
            or a bad number or kind of bins.

    Example:
        >>> import jax.numpy as jnp, numpy as np, bdl
        >>> probs = jnp.array([0.1, 0.2, 0.3, 0.6, 0.7, 0.8])
        >>> calibrator = bdl.calibration.histogram_binning(probs, jnp.array([0, 1, 0, 1, 1, 0]), num_bins=2)
        >>> print(np.asarray(calibrator(jnp.array([0.0, 0.4, 0.5, 1.0]))).round(2))
        [0.33 0.33 0.67 0.67]

    Reference:
        Zadrozny and Elkan (2001), Obtaining calibrated probability estimates from decision trees and naive Bayesian
        classifiers; Kumar et al. (2019), Verified uncertainty calibration, https://arxiv.org/abs/1909.10155
    """
    if num_bins < 1 or binning not in ("mass", "width"):
        raise ValueError(
            f"histogram_binning: expected num_bins of at least 1 and binning 'mass' or 'width', got {num_bins} and "
            f"{binning!r}."
        )
    edges, shares = _fit(*each_class("histogram_binning", probs, labels, mask), num_bins, binning)
    return HistogramBinning(edges, shares, np.shape(probs) == np.shape(labels))


@jax.jit
def _applied(calibrator: HistogramBinning, probs: jax.Array) -> jax.Array:
    curve = lambda bins, p: bins[1][jnp.searchsorted(bins[0], p, side="left")]
    return apply_each(curve, (calibrator.edges, calibrator.values), probs, calibrator.binary)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _fit(
    probs: jax.Array, labels: jax.Array, weights: jax.Array, num_bins: int, binning: str
) -> tuple[jax.Array, jax.Array]:
    count = jnp.sum(weights > 0, dtype=jnp.int32)

    def one(p: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        widths = jnp.arange(1, num_bins, dtype=jnp.float32) / num_bins
        edges = _equal_mass(jnp.where(weights > 0, p, jnp.inf), count, num_bins) if binning == "mass" else widths
        bins = jnp.searchsorted(edges, p, side="left")
        # Sums by bin are products with indicators: they are exact where scattered sums of many are not.
        inside = (bins[None] == jnp.arange(num_bins, dtype=bins.dtype)[:, None]).astype(jnp.float32)
        total, ones = (jnp.matmul(inside, a, precision="highest") for a in (weights, weights * y))
        ends = jnp.concatenate([jnp.zeros(1), edges, jnp.ones(1)])
        middle = (ends[1:] + ends[:-1]) / 2
        return edges, jnp.where(total > 0, ones / jnp.maximum(total, 1.0), middle)

    return jax.vmap(one)(probs, labels)


def _equal_mass(p: jax.Array, count: jax.Array, num_bins: int) -> jax.Array:
    """Edges [B − 1] between the `count` smallest numbers, so that bins have equally many of them, up to one."""
    ordered = jnp.sort(p)
    # ⌊b n / B⌋ examples are below edge b; written so that no product is larger than n.
    b = jnp.arange(1, num_bins, dtype=jnp.int32)
    below = b * (count // num_bins) + b * (count % num_bins) // num_bins
    at = lambda index: ordered[jnp.clip(index, 0, count - 1)]
    return (at(below - 1) + at(below)) / 2
