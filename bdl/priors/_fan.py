"""Weights whose scale keeps the size of a layer's signals whatever its width."""

import math
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from numpyro.distributions import Distribution, Normal

from bdl._hyper import Hyper
from bdl._learned import Learned
from bdl._positive import from_log, to_log
from bdl.networks._use import Use
from bdl.priors._base import FactorisedPrior


class _Fan(FactorisedPrior):
    """Normal weights of variance gain / fan, where `_fan` says of which number of units."""

    _name: ClassVar[str]
    log_gain: jax.Array | Learned | Hyper
    # How the network uses each array, where it shows it; `None` before `bind`.
    uses: tuple[tuple[str, Use], ...] | None = eqx.field(static=True, default=None)

    @property
    def gain(self) -> jax.Array:
        """The variance of a weight times its fan."""
        return from_log(self.log_gain)

    @property
    def bound(self) -> bool:
        """Whether the network has been looked at."""
        return self.uses is not None

    def distribution(self, path: str, array: Any) -> Distribution:
        """The distribution of the array at `path`.

        Raises:
            ValueError: the fan of an array of three or more axes is asked for before `bind`.
        """
        if path.rsplit("/", 1)[-1] == "scale" and array.ndim == 1:
            return Normal(1.0, 1.0)
        use = self._use(path, tuple(array.shape))
        # Var(w) = gain / fan, and 1 for a bias.
        return Normal(0.0, jnp.sqrt(self.gain / self._fan(use, tuple(array.shape))) if use.in_axes else 1.0)

    def bind(self, uses: dict[str, Use]) -> Any:
        """The prior that knows how the network was seen to use each array."""
        known = {path: use._replace(shared="") for path, use in uses.items() if use.fan_in}
        return type(self)(self.log_gain, tuple(sorted(known.items())))

    def _fan(self, use: Use, shape: tuple[int, ...]) -> float:
        raise NotImplementedError

    def _use(self, path: str, shape: tuple[int, ...]) -> Use:
        known = dict(self.uses or ())
        if path in known:
            return known[path]
        if len(shape) > 2 and not self.bound:
            raise ValueError(
                f"priors.{self._name} does not know which axes of {path!r}, of shape {shape}, are inputs: it has not "
                "seen the network. fit, predict and elbo tell it; before them, call bdl.bind(posterior, model, x)."
            )
        return Use(in_axes=tuple(range(len(shape) - 1)), fan_in=math.prod(shape[:-1]))


class FanIn(_Fan):
    """Normal weights of variance gain / fan_in. See `fan_in`."""

    _name = "fan_in()"

    def _fan(self, use: Use, shape: tuple[int, ...]) -> float:
        return use.fan_in


class FanAverage(_Fan):
    """Normal weights of variance gain / (fan_in + fan_out). See `fan_average`."""

    _name = "fan_average()"

    def _fan(self, use: Use, shape: tuple[int, ...]) -> float:
        return use.fan_in + use.fan_out(shape)


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


def fan_average(gain: Any = 2.0) -> FanAverage:
    """Glorot scales: w ~ Normal(0, gain / (fan_in + fan_out)), between those that keep outputs and gradients in size.

    With gain 2 this is the variance that Glorot and Bengio proposed for tanh layers. fan_out is the number of outputs
    that one input unit reaches (`bdl.networks.Use.fan_out`): a convolution's pixels count, whatever its stride, and of
    a grouped one only the outputs of its group. The rest is as in `fan_in`.

    Args:
        gain: the variance of a weight times fan_in + fan_out; fixed, or `bdl.learned(...)`.

    Reference:
        Glorot and Bengio (2010), Understanding the difficulty of training deep feedforward neural networks,
        https://proceedings.mlr.press/v9/glorot10a.html

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> prior = bdl.priors.fan_average()
        >>> prior.distribution("Dense_0/kernel", jnp.zeros((40, 10))).scale
        Array(0.2, dtype=float32)
    """
    return FanAverage(to_log("gain", gain))
