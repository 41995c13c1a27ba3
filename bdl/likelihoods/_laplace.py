"""Laplace noise: the median and the absolute error."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from numpyro import distributions as dist

from bdl._hyper import Hyper
from bdl._learned import Learned
from bdl._positive import from_log, to_log
from bdl.likelihoods._heads import clipped, halves


class Laplace(eqx.Module):
    """y ~ Laplace(f(x), b): outputs are the median, noise is the same everywhere.

    −log p(y | f) = |y − f| / b + log 2b, the absolute error. Outputs and targets have one shape, [N, ...].

    Args:
        scale: b, in the units of the targets; the noise's standard deviation is √2 b. Fixed, or `bdl.learned(...)`;
            one number, or one for each column of the targets.

    Raises:
        ValueError: `scale` is not positive.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> bdl.likelihoods.Laplace(scale=0.5)(jnp.zeros((2, 1))).variance.ravel()
        Array([0.5, 0.5], dtype=float32)
    """

    log_scale: jax.Array | Hyper | Learned

    def __init__(self, scale: Any = 1.0):
        self.log_scale = to_log("scale", scale)

    @property
    def scale(self) -> jax.Array:
        """B."""
        return from_log(self.log_scale)

    def __call__(self, outputs: Any, *, key: Any = None) -> dist.Distribution:
        """The distribution of targets of the outputs' shape, [N, ...]."""
        del key
        return dist.Laplace(outputs, self.scale)


class HeteroscedasticLaplace(eqx.Module):
    """y ~ Laplace(m(x), b(x)), b(x)² = exp(s(x)): outputs are the median m and the log squared scale s.

    −log p(y | m, s) = exp(−½ s) |y − m| + ½ s + log 2. The heads are those of `HeteroscedasticNormal`, and s is clipped
    in the same way; the noise's variance is 2 exp(s).

    Reference:
        Kendall and Gal (2017), What uncertainties do we need in Bayesian deep learning for computer vision?, whose
        depth regression has this form, https://arxiv.org/abs/1703.04977

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> targets = bdl.likelihoods.HeteroscedasticLaplace()(jnp.zeros((5, 2)))
        >>> targets.batch_shape, float(targets.variance[0, 0])
        ((5, 1), 2.0)
    """

    def __call__(self, outputs: Any, *, key: Any = None) -> dist.Distribution:
        """The distribution of targets [N, ..., K], from outputs [N, ..., 2K] or a pair (median, log squared scale).

        Raises:
            ValueError: the columns are odd in number, the pair's shapes differ, or, outside of a trace, a log squared
                scale is not finite.
        """
        del key
        median, log_square = halves("HeteroscedasticLaplace", "median", "log squared scale", outputs)
        return dist.Laplace(median, jnp.exp(0.5 * clipped("HeteroscedasticLaplace", "log squared scale", log_square)))
