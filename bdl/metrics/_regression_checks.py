"""What comes in at the door of a score of a regression: scales, samples and levels."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdl._data_checks import is_traced
from bdl.metrics._checks import check_finite, values, weigh


def normal(name: str, mean: Any, scale: Any, targets: Any, mask: Any = None) -> tuple[jax.Array, ...]:
    """Means, scales and targets of one shape, float32, and weights, checked; 0, 1 and 0 where the mask is False.

    Raises:
        ValueError: as of `values`, or a scale that is not positive.
    """
    check_positive(name, "scale", scale, np.shape(targets), mask)
    mean, scale, targets, weights = values(name, mean, scale, targets, mask=mask, names=("mean", "scale", "targets"))
    return mean, scale if mask is None else jnp.where(weights > 0, scale, 1.0), targets, weights


def interval(name: str, lower: Any, upper: Any, *targets: Any, mask: Any = None) -> tuple[jax.Array, ...]:
    """The ends of intervals, and targets where given, of one shape, float32, and weights, checked.

    Raises:
        ValueError: as of `values`, or a lower end above its upper end.
    """
    names = ("lower", "upper", "targets")[: 2 + len(targets)]
    found = values(name, lower, upper, *targets, mask=mask, names=names)
    # Where masked, both ends are 0.
    if not is_traced(found) and np.any(np.asarray(found[0]) > np.asarray(found[1])):
        raise ValueError(f"{name}: expected lower <= upper, got a lower end above its upper end. Swap the two.")
    return found


def samples(
    name: str, samples: Any, targets: Any, mask: Any = None, *, event_dims: int = 0, least: int = 1
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Samples [S, ..., *event] and targets [..., *event], float32, 0 where the mask is False, and weights [...].

    Args:
        name: of the metric, for the messages.
        samples: draws along axis 0.
        targets: what was observed.
        mask: bool [...], True where an example counts.
        event_dims: the number of axes, the last ones, of one example's target.
        least: how many samples are needed; two where one needs `fair=False`.

    Raises:
        ValueError: shapes that do not match, too few samples, a number that is not finite, no example.
    """
    of_samples, shape = np.shape(samples), np.shape(targets)
    if len(shape) < event_dims or len(of_samples) < 1 or of_samples[1:] != shape:
        event = ", D" * event_dims
        raise ValueError(
            f"{name}: expected samples [S, ...{event}] and targets [...{event}], got shapes {of_samples} and {shape}. "
            "Samples are along axis 0: jnp.moveaxis(samples, axis, 0)."
        )
    if of_samples[0] < least:
        remedy = "Draw at least two, or pass fair=False." if least > 1 else "Draw at least one."
        raise ValueError(f"{name}: expected at least {least} samples, got {of_samples[0]}. {remedy}")
    weights = weigh(name, mask, shape[: len(shape) - event_dims])
    if not is_traced((samples, targets, mask)):
        kept = ... if mask is None else np.asarray(mask)
        check_finite(name, "targets", np.asarray(targets, np.float32)[kept])
        check_finite(name, "samples", np.asarray(samples, np.float32)[slice(None), kept])
    samples, targets = (jnp.asarray(array).astype(jnp.float32) for array in (samples, targets))
    if mask is None:
        return samples, targets, weights
    keep = weights.reshape(weights.shape + (1,) * event_dims) > 0
    return jnp.where(keep[None], samples, 0.0), jnp.where(keep, targets, 0.0), weights


def check_positive(name: str, called: str, array: Any, shape: tuple[int, ...], mask: Any = None) -> None:
    """Whether all numbers that count are above zero."""
    if is_traced((array, mask)) or np.shape(array) not in (shape, ()):
        return  # another shape is told by `values`
    kept = ... if mask is None or np.shape(mask) != shape else np.asarray(mask, bool)
    low = np.broadcast_to(np.asarray(array, np.float32), shape)[kept]
    if low.size and low.min() <= 0:
        raise ValueError(
            f"{name}: expected {called} above 0, got {low.min():.4g}. It is a standard deviation, not its logarithm."
        )


def check_level(name: str, level: Any) -> None:
    """Whether a probability is strictly between 0 and 1."""
    if not is_traced(level) and not np.all((np.asarray(level) > 0) & (np.asarray(level) < 1)):
        raise ValueError(f"{name}: expected a level between 0 and 1, got {level}. 95 % is 0.95.")
