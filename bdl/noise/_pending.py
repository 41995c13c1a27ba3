"""A noisy result that waits for its noise: what is added to it may be noisy too, and one draw does for both."""

import collections
import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from bdl._equation import Literal
from bdl.families._local import with_noise
from bdl.noise._view import Drawn


@dataclasses.dataclass(frozen=True)
class Pending:
    """mean + √variance ε.

    Attributes:
        mean, variance: of the result's shape.
        noise: gives ε of that shape, one for each example and output unit.
        channels: the axes of the result that run over output units.
    """

    mean: jax.Array
    variance: jax.Array
    noise: Callable[[], jax.Array]
    channels: tuple[int, ...]

    def draw(self) -> jax.Array:
        return with_noise(self.mean, self.variance, self.noise())

    def add(self, other: Any) -> jax.Array | None:
        """The sum with a bias that is Normal for each example and output unit, in one draw; `None` for others."""
        if not isinstance(other, Drawn) or not hasattr(other.source.family, "local_moments"):
            return None
        if other.dtype != other.source.dtype:  # a cast would round what the family keeps in float32
            return None
        if any(axes and axis not in self.channels for axis, axes in enumerate(other.axes)):
            return None
        bias = other.source.family.view(other.view).distribution
        mean = self.mean + bias.loc.astype(self.mean.dtype)
        return dataclasses.replace(self, mean=mean, variance=self.variance + bias.variance).draw()


def added_once(jaxpr: Any) -> set[Any]:
    """The variables of a program that are used once, in an addition."""
    uses = collections.Counter(v for v in jaxpr.outvars if not isinstance(v, Literal))
    for eqn in jaxpr.eqns:
        uses.update(v for v in eqn.invars if not isinstance(v, Literal))
    additions = (v for eqn in jaxpr.eqns if eqn.primitive.name == "add" for v in eqn.invars)
    return {v for v in additions if not isinstance(v, Literal) and uses[v] == 1}
