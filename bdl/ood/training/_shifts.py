"""Shifts: maps that take an image out of its distribution, so that a network can be asked which one it was."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bdl.networks._reference import check_images

Shift = Callable[[Any], Any]


def _rotated(x: Any, *, quarter_turns: int) -> jax.Array:
    """Images [N, H, W, C] rotated by 90°, so many times, against the clock."""
    check_images(x, "rotations")
    if quarter_turns % 2 and x.shape[1] != x.shape[2]:
        raise ValueError(
            f"rotations: expected square images [N, H, H, C], got {x.shape[1]} × {x.shape[2]}: a quarter turn would "
            "change their shape. Crop or pad them to squares, or pass shifts=bdl.ood.training.permuted_patches."
        )
    return jnp.rot90(x, quarter_turns, axes=(1, 2))


def _permuted(x: Any, *, vertical: bool, horizontal: bool) -> jax.Array:
    """Images [N, H, W, C] cut in the middle, with the halves of their height and of their width exchanged."""
    check_images(x, "permuted_patches")
    # The second half comes first: a roll by the first one's length.
    return jnp.roll(x, (-(x.shape[1] // 2) * vertical, -(x.shape[2] // 2) * horizontal), (1, 2))


rotations: tuple[Shift, ...] = tuple(functools.partial(_rotated, quarter_turns=k) for k in range(4))
"""Rotations of square images [N, H, H, C] by 0°, 90°, 180° and 270°, against the clock.

No shift for what looks the same in all directions, such as textures, discs, or pictures from above.
"""

permuted_patches: tuple[Shift, ...] = tuple(
    functools.partial(_permuted, vertical=bool(k // 2), horizontal=bool(k % 2)) for k in range(4)
)
"""Images [N, H, W, C] as they are, with left and right half exchanged, with upper and lower half, and with both.

Of any height and width, and of what has no upright position.
"""


def check_shifts(name: str, shifts: Any) -> tuple[Shift, ...]:
    """The shifts as a tuple.

    Raises:
        TypeError: they are no functions.
        ValueError: there are fewer than two.
    """
    if not isinstance(shifts, Sequence) or not all(map(callable, shifts)):
        raise TypeError(
            f"{name}: expected `shifts` as a tuple of functions from inputs to inputs of the same shape, got "
            f"{shifts!r}. Pass bdl.ood.training.rotations, or (lambda x: x, ...)."
        )
    if len(shifts) < 2:
        raise ValueError(
            f"{name}: expected at least two shifts to tell apart, got {len(shifts)}. The first leaves inputs as they "
            "are: (lambda x: x, other)."
        )
    return tuple(shifts)


def concatenated(name: str, shifts: Sequence[Shift], copies: Sequence[Any]) -> Any:
    """Each shift of its own copy of the data, one after the other along axis 0.

    Raises:
        ValueError: a shift changes a shape, or the number of arrays.
    """
    parts = []
    for place, (shift, x) in enumerate(zip(shifts, copies, strict=True)):
        parts.append(shift(x))
        check_kept(f"{name}: shift {place}", x, parts[-1])
    return jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *parts)


def check_kept(what: str, before: Any, after: Any) -> None:
    """Whether a function of inputs has kept their structure and shapes.

    Raises:
        ValueError: it has not.
    """
    expected, found = (jax.tree.map(jnp.shape, tree) for tree in (before, after))
    if expected != found:
        raise ValueError(
            f"{what} changed inputs of shape {expected} into {found}. Let it return what has the shape of its input."
        )
