"""Normal noise of one size."""

from typing import Any

import equinox as eqx
import jax
from numpyro import distributions as dist

from bdl._hyper import Hyper
from bdl._learned import Learned
from bdl._positive import from_log, to_log


class Normal(eqx.Module):
    """y ~ Normal(f(x), scale²): outputs are the mean, noise is the same everywhere.

    Args:
        scale: the noise's standard deviation, in the units of the targets: fixed, or `bdl.learned(...)`; one number,
            or one for each column of the targets.

    Raises:
        ValueError: `scale` is not positive.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> likelihood = bdl.likelihoods.Normal(scale=0.5)
        >>> likelihood(jnp.zeros((4, 1))).variance.ravel()
        Array([0.25, 0.25, 0.25, 0.25], dtype=float32)
    """

    log_scale: jax.Array | Hyper | Learned

    def __init__(self, scale: Any = 1.0):
        self.log_scale = to_log("scale", scale)

    @property
    def scale(self) -> jax.Array:
        """The noise's standard deviation."""
        return from_log(self.log_scale)

    def __call__(self, outputs: Any, *, key: Any = None) -> dist.Distribution:
        """The distribution of targets of the outputs' shape, [N, ...]."""
        del key
        return dist.Normal(outputs, self.scale)
