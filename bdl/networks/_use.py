"""How a network uses each of its weights."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Use(NamedTuple):
    """How a weight array meets its inputs, found by tracing the network once.

    Attributes:
        in_axes: the axes of the array that are summed over with the input units: (0,) for a Dense kernel [D, K], (2,)
            for a convolution's [h, w, C, K], (0, 1) for the output projection of attention [heads, d, D].
        window_axes: the other axes that are summed over, the pixels of a convolution's kernel.
        stack_axes: axes along which the array is a stack of weights that never mix: layers of a scan, heads of an
            einsum with a batch axis.
        fan_in: the number of inputs of one output unit, pixels included; 0 where it is unknown.
        groups: the number of groups of a grouped convolution, whose output axis `group_axis` is cut into them.
        group_axis: the axis that the groups cut.
        shared: why local noise is impossible and one draw is shared by the batch, or "" where it is possible.
    """

    in_axes: tuple[int, ...] = ()
    window_axes: tuple[int, ...] = ()
    stack_axes: tuple[int, ...] = ()
    fan_in: int = 0
    groups: int = 1
    group_axis: int = -1
    shared: str = ""

    def row_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one number per row (all weights that leave one input unit), 1 along the other axes."""
        rows = {*self.in_axes, *self.stack_axes}
        sizes = [size if axis in rows else 1 for axis, size in enumerate(shape)]
        if self.groups > 1:
            sizes[self.group_axis] = self.groups
        return tuple(sizes)

    def out_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one number per output unit, 1 along the axes that are summed over."""
        summed = {*self.in_axes, *self.window_axes}
        return tuple(1 if axis in summed else size for axis, size in enumerate(shape))

    def fan_out(self, shape: tuple[int, ...]) -> int:
        """The number of outputs that one input unit reaches, pixels included; 0 where `fan_in` is unknown.

        As in Glorot and Bengio (2010), https://proceedings.mlr.press/v9/glorot10a.html: the units of one group of a
        grouped convolution, and all pixels of its kernel whatever the stride. An embedding's row reaches all of its
        features, an entry of a bias one output.

        Example:
            >>> Use(in_axes=(2,), window_axes=(0, 1), fan_in=36, groups=2, group_axis=3).fan_out((3, 3, 4, 10))
            45
        """
        if not self.fan_in or not self.in_axes:
            return min(self.fan_in, 1)
        unreached = {*self.in_axes, *self.stack_axes}
        return math.prod(size for axis, size in enumerate(shape) if axis not in unreached) // self.groups

    def expand(self, rows: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Numbers of `row_shape` repeated so that they broadcast against the array; axes before are kept."""
        axis = rows.ndim - len(shape) + self.group_axis
        if self.groups == 1 or rows.shape[axis] == shape[self.group_axis]:
            return rows
        return jnp.repeat(rows, shape[self.group_axis] // self.groups, axis)


def matrix_use(shape: tuple[int, ...]) -> Use:
    """The use of an array that no network has been traced for: a vector is a bias, a matrix is [inputs, outputs].

    Raises:
        ValueError: the array has three axes or more, which can be used in many ways.
    """
    if len(shape) < 2:
        return Use(fan_in=1)
    if len(shape) == 2:
        return Use(in_axes=(0,), fan_in=shape[0])
    raise ValueError(
        f"an array of shape {shape} may meet its inputs along any of its axes, and the network has not been looked at "
        "yet. `fit`, `predict` and `elbo` do so by themselves; elsewhere call "
        "`posterior, model = bdl.bind(posterior, model, x)` first."
    )
