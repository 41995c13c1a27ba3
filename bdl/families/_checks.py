"""Whether the numbers that a user hands to a family make sense. What is traced cannot be looked at, and passes."""

import math
from typing import Any

import jax

from bdl._learned import Learned


def check_positive(family: str, name: str, value: Any, advice: str = "") -> None:
    """Whether a number is positive and finite.

    Raises:
        ValueError: it is not; the message ends with `advice`.
    """
    if not isinstance(value, jax.core.Tracer) and not 0 < float(value) < math.inf:
        message = f"families.{family}: expected a positive, finite {name}, got {float(value)}."
        raise ValueError(f"{message} {advice}".rstrip())


def check_rate(family: str, rate: Any) -> None:
    """Whether a number can be the rate of hard masks.

    Raises:
        ValueError: it is outside [0, 1), or marked as learned.
    """
    if isinstance(rate, Learned):
        raise ValueError(
            f"families.{family}: the objective has no gradient with respect to the rate of hard masks, so it cannot be "
            "learned. Give a number; learning it needs relaxed masks, as in concrete_dropout (Gal, Hron and Kendall "
            "2017)."
        )
    if not isinstance(rate, jax.core.Tracer) and not 0 <= float(rate) < 1:
        raise ValueError(
            f"families.{family}: expected rate, the probability of dropping, in [0, 1); got {float(rate)}."
        )


def check_members(family: str, members: Any) -> None:
    """Whether `members` can be a number of members.

    Raises:
        ValueError: it is not a whole number of at least 1.
    """
    if not isinstance(members, int) or members < 1:
        raise ValueError(f"families.{family}: expected members as a whole number of at least 1, got {members!r}.")
