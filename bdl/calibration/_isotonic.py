"""Isotonic regression of labels on a probability."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bdl._data_checks import is_traced
from bdl.calibration._checks import new_each
from bdl.calibration._one_vs_rest import apply_each, each_class


class Isotonic(eqx.Module):
    """p ↦ a non-decreasing, piecewise linear curve, what `isotonic` fits; of K classes, normalised.

    Attributes:
        x: the curve's knots, increasing, [1, M] for one probability, [K, M] for those of K classes.
        y: its values there. Where curves have fewer than M knots the last one is repeated.
        binary: whether probabilities are those of class 1, without an axis for classes.
    """

    x: jax.Array
    y: jax.Array
    binary: bool = eqx.field(static=True)

    def __call__(self, probs: Any) -> jax.Array:
        """Calibrated probabilities, of the shape of `probs`: [...], or [..., K].

        Raises:
            ValueError: these are no probabilities, or not of K classes.
        """
        return _applied(self, new_each(probs, self.binary, len(self.x)))


def isotonic(probs: Any, labels: Any, *, mask: Any = None) -> Isotonic:
    """Isotonic calibration: the non-decreasing curve with the least squared error of the labels, by scikit-learn.

    It is linear between the knots and constant outside of them. Values of exactly 0 and 1 are possible, where the NLL
    of a label to come may be infinite. Of K classes each is taken against the rest, and what comes out is normalised.
    It is fitted outside of `jax.jit`, and the calibrator may be used inside.

    Args:
        probs: [...], probabilities of class 1, or [..., K].
        labels: [...], 0 and 1, or integers in 0, …, K − 1.
        mask: bool [...], True where an example counts; `None` for all.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: numbers that are no probabilities, shapes that do not match, labels outside the range, no example,
            or a call under `jax.jit`.

    Example:
        >>> import jax.numpy as jnp, numpy as np, bdl
        >>> probs = jnp.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
        >>> calibrator = bdl.calibration.isotonic(probs, jnp.array([0, 1, 0, 1, 1, 1]))
        >>> print(np.asarray(calibrator(jnp.array([0.05, 0.25, 0.35, 0.9]))).round(2))
        [0.   0.5  0.75 1.  ]

    Reference:
        Zadrozny and Elkan (2002), Transforming classifier scores into accurate multiclass probability estimates,
        https://doi.org/10.1145/775047.775151
    """
    try:
        from sklearn.isotonic import IsotonicRegression
    except ImportError as error:
        raise ImportError("isotonic needs scikit-learn: pip install 'bdl[calibration]'.") from error
    if is_traced((probs, labels, mask)):
        raise ValueError(
            "isotonic: the fit is scikit-learn's, which takes no traced arrays. Call it outside of jax.jit and "
            "jax.vmap, and the calibrator inside."
        )
    all_probs, all_labels, weights = map(np.asarray, each_class("isotonic", probs, labels, mask))
    curves = []
    for p, y in zip(all_probs, all_labels, strict=True):
        found = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(p[weights > 0], y[weights > 0])
        curves.append((found.X_thresholds_, found.y_thresholds_))
    most = max(len(x) for x, _ in curves)
    x, y = (np.stack([np.pad(c[i], (0, most - len(c[i])), mode="edge") for c in curves]) for i in (0, 1))
    return Isotonic(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32), np.shape(probs) == np.shape(labels))


@jax.jit
def _applied(calibrator: Isotonic, probs: jax.Array) -> jax.Array:
    curve = lambda knots, p: jnp.interp(p, *knots)
    return apply_each(curve, (calibrator.x, calibrator.y), probs, calibrator.binary)
