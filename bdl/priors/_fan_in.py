"""Weights whose scale keeps the size of a layer's outputs whatever its width."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from numpyro.distributions import Distribution, Normal

from bdl._learned import Learned
from bdl._positive import from_log, to_log
from bdl.networks._use import Use
from bdl.priors._base import FactorisedPrior


class FanIn(FactorisedPrior):
    """Normal weights of variance gain / fan_in. See `fan_in`."""

    log_gain: jax.Array | Learned
    # The number of inputs of each array that shows it, 0 for a bias; `None` before `bind`.
    inputs: tuple[tuple[str, int], ...] | None = eqx.field(static=True, default=None)

    @property
    def gain(self) -> jax.Array:
        """The variance of a weight times its fan-in."""
        return from_log(self.log_gain)

    @property
    def bound(self) -> bool:
        """Whether the network has been looked at."""
        return self.inputs is not None

    def distribution(self, path: str, array: Any) -> Distribution:
        """The distribution of the array at `path`.

        Raises:
            ValueError: the fan-in of an array of three or more axes is asked for before `bind`.
        """
        if path.rsplit("/", 1)[-1] == "scale" and array.ndim == 1:
            return Normal(1.0, 1.0)
        inputs = self._inputs(path, array)
        # Var(w) = gain / fan_in, and 1 for a bias.
        return Normal(0.0, jnp.sqrt(self.gain / inputs) if inputs else 1.0)

    def bind(self, uses: dict[str, Use]) -> "FanIn":
        """The prior with the fan-in that the network was seen to use each array with."""
        known = {path: use.fan_in if use.in_axes else 0 for path, use in uses.items() if use.fan_in}
        return FanIn(self.log_gain, tuple(sorted(known.items())))

    def _inputs(self, path: str, array: Any) -> int:
        known = dict(self.inputs or ())
        if path in known:
            return known[path]
        if array.ndim > 2 and not self.bound:
            raise ValueError(
                f"priors.fan_in() does not know which axes of {path!r}, of shape {tuple(array.shape)}, are inputs: it "
                "has not seen the network. fit, predict and elbo tell it; before them, call "
                "bdl.bind(posterior, model, x)."
            )
        return math.prod(array.shape[:-1]) if array.ndim > 1 else 0


def fan_in(gain: Any = 2.0) -> FanIn:
    """The default prior: w ~ Normal(0, gain / fan_in), so that outputs have the same size for any width.

    With gain 2 these are the scales of He et al. for ReLU layers; fan_in is the number of inputs of one output unit, a
    convolution's pixels included, as the network uses the array (attention kernels of three axes too); an embedding's
    is 1. Where the use shows none, all axes but the last are inputs. Arrays that are added or multiplied entry by entry
    (biases) have Normal(0, 1). One-axis arrays named `scale`, those of normalisation layers, have Normal(1, 1): exempt
    from the rule, but not flat, so that the objective of a mean-field posterior stays a bound.

    Args:
        gain: the variance of a weight times its fan-in; fixed, or `bdl.learned(...)`.

    Reference:
        He et al. (2015), Delving deep into rectifiers, https://arxiv.org/abs/1502.01852

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> prior = bdl.priors.fan_in()
        >>> prior.distribution("Dense_0/kernel", jnp.zeros((50, 10))).scale
        Array(0.2, dtype=float32)
    """
    return FanIn(to_log("gain", gain))
