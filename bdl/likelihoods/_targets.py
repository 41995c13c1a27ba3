"""Whether targets can be what a distribution describes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import Distribution, constraints

from bdl._data_checks import check_finite, place


def check(distribution: Distribution, y: Any) -> None:
    """Raise where the targets' shape, type or values are not those of the distribution; outside of a trace.

    Raises:
        ValueError: the shape is wrong, or a target is NaN, infinite or outside the support; the message names its row.
        TypeError: the distribution is over integers and the targets are not.
    """
    if isinstance(y, tuple | list | dict):
        raise ValueError(
            f"this likelihood takes the targets as one array, got {len(y)} of them. Pairs (y, mask) are for "
            "`bdl.likelihoods.masked(...)`, pairs (y, is_censored) for `bdl.likelihoods.censored(...)`."
        )
    y = np.asarray(y)
    check_shape(distribution, y)
    check_finite("the targets", y)
    inside = np.asarray(distribution.support(y))
    if not inside.all():
        index = tuple(np.argwhere(~inside)[0])
        raise ValueError(
            f"the targets are {y[index]} at {place(index)}, outside of {_range(distribution.support)}, the values "
            "this likelihood can take."
        )


def check_shape(distribution: Distribution, y: Any) -> None:
    """Raise where the targets' shape or type is not that of the distribution.

    Raises:
        ValueError: the shapes differ.
        TypeError: the distribution is over integers and the targets are not.
    """
    expected = tuple(distribution.batch_shape) + tuple(distribution.event_shape)
    if y.shape != expected:
        edit, all_axes = "", ", ".join(":" * min(y.ndim, len(expected)))
        if (*y.shape, 1) == expected:
            edit = f" Pass y[{all_axes}, None], or let the network return outputs[{all_axes}, 0]."
        elif y.shape == (*expected, 1):
            edit = f" Pass y[{all_axes}, 0]."
        raise ValueError(f"the targets have shape {y.shape}, but the likelihood of the outputs has {expected}.{edit}")
    are_integers = jnp.issubdtype(y.dtype, jnp.integer) or (y.dtype == bool and _is_of_zeros_and_ones(distribution))
    if distribution.is_discrete and not are_integers:
        raise TypeError(f"this likelihood is over integers, but the targets are {y.dtype}. Pass y.astype(int).")


def pair(name: str, second: str, y: Any) -> tuple[Any, jax.Array]:
    """The targets as the pair (y, flags).

    Raises:
        ValueError: they are not a pair, or the flags are not boolean.
    """
    got = f"{len(y)} of them" if isinstance(y, tuple | list) else type(y).__name__
    if not (isinstance(y, tuple | list) and len(y) == 2):
        raise ValueError(f"`{name}` takes the targets as a pair (y, {second}), got {got}.")
    targets, flags = y
    if not hasattr(flags, "dtype") or flags.dtype != bool:
        raise ValueError(
            f"`{name}` takes {second} as a boolean array, got {getattr(flags, 'dtype', type(flags))}. "
            f"Pass the pair (y, {second}.astype(bool))."
        )
    return targets, flags


def check_flags(name: str, second: str, distribution: Distribution, flags: Any) -> None:
    """Raise a ValueError where there is not one flag for each element of the targets."""
    expected = tuple(distribution.batch_shape)
    if flags.shape != expected:
        by_row = bool(expected) and flags.shape == expected[:-1]
        edit = f" Pass np.repeat({second}[..., None], {expected[-1]}, axis=-1)." if by_row else ""
        raise ValueError(f"`{name}`: {second} has shape {flags.shape}, expected {expected}, one for each target.{edit}")


def _is_of_zeros_and_ones(distribution: Distribution) -> bool:
    support = distribution.support
    return getattr(support, "base_constraint", support) is constraints.boolean


def _range(support: Any) -> str:
    if hasattr(support, "lower_bound") and hasattr(support, "upper_bound"):
        return f"[{np.min(support.lower_bound)}, {np.max(support.upper_bound)}]"
    return str(support)
