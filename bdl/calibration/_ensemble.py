"""Several calibrators as one."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp


class Ensemble(eqx.Module):
    """probs ↦ the mean of what several calibrators make of them, what `ensemble` returns.

    Attributes:
        calibrators: the calibrators.
    """

    calibrators: tuple[Any, ...]

    def __call__(self, *predictions: Any) -> jax.Array:
        """The mean of their probabilities, of the shape of each.

        Raises:
            ValueError: as the calibrators.
        """
        return jnp.mean(jnp.stack([calibrator(*predictions) for calibrator in self.calibrators]), 0)


def ensemble(*calibrators: Any) -> Ensemble:
    """The calibrator whose probabilities are the mean of those of several, such as of one fit for each fold.

    The NLL of a mean of probabilities is at most the mean of the NLLs.

    Raises:
        ValueError: there is none.

    Example:
        >>> import jax.numpy as jnp, numpy as np, bdl
        >>> probs = jnp.array([0.1, 0.2, 0.3, 0.6, 0.7, 0.8])
        >>> labels = jnp.array([0, 1, 0, 1, 1, 0])
        >>> members = [bdl.calibration.histogram_binning(probs, labels, num_bins=bins) for bins in (1, 2)]
        >>> print(np.asarray(bdl.calibration.ensemble(*members)(probs)).round(2))
        [0.42 0.42 0.42 0.58 0.58 0.58]
    """
    if not calibrators:
        raise ValueError("ensemble: expected at least one calibrator, got none.")
    return Ensemble(calibrators)
