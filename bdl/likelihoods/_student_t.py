"""Student's t noise: outliers weigh less."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from numpyro import distributions as dist

from bdl._hyper import Hyper
from bdl._learned import Learned
from bdl._positive import from_log, to_log
from bdl.likelihoods._heads import clipped, halves


class StudentT(eqx.Module):
    """y ~ StudentT(df, f(x), scale²): outputs are the location, noise is the same everywhere.

    Its variance is scale² df / (df − 2) for df > 2. For 1 < df ≤ 2 it is infinite, and `bdl.predict` says so, with a
    finite epistemic part; for df ≤ 1 there is no mean either, and mean, variance and epistemic are NaN. Quantiles
    (`quantiles=`) exist for any df.

    Args:
        df: degrees of freedom; the lower, the heavier the tails.
        scale: in the units of the targets. Each is fixed, or `bdl.learned(...)`; one number, or one for each column of
            the targets.

    Raises:
        ValueError: `df` or `scale` is not positive.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> bdl.likelihoods.StudentT(df=4.0, scale=0.5)(jnp.zeros((2, 1))).variance.ravel()
        Array([0.5, 0.5], dtype=float32)
    """

    log_df: jax.Array | Hyper | Learned
    log_scale: jax.Array | Hyper | Learned

    def __init__(self, df: Any = 4.0, scale: Any = 1.0):
        self.log_df = to_log("df", df)
        self.log_scale = to_log("scale", scale)

    @property
    def df(self) -> jax.Array:
        """The degrees of freedom."""
        return from_log(self.log_df)

    @property
    def scale(self) -> jax.Array:
        """The scale, which is not the standard deviation."""
        return from_log(self.log_scale)

    def __call__(self, outputs: Any, *, key: Any = None) -> dist.Distribution:
        """The distribution of targets of the outputs' shape, [N, ...]."""
        del key
        return dist.StudentT(self.df, outputs, self.scale)


class HeteroscedasticStudentT(eqx.Module):
    """y ~ StudentT(df, m(x), exp(s(x))): outputs are the location m and the log squared scale s.

    The heads are those of `HeteroscedasticNormal`, and s is clipped in the same way. What exists of mean and variance
    is as in `StudentT`.

    Args:
        df: degrees of freedom, fixed or `bdl.learned(...)`.

    Raises:
        ValueError: `df` is not positive.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> targets = bdl.likelihoods.HeteroscedasticStudentT(df=4.0)(jnp.zeros((5, 2)))
        >>> targets.batch_shape, round(float(targets.variance[0, 0]), 4)
        ((5, 1), 2.0)
    """

    log_df: jax.Array | Hyper | Learned

    def __init__(self, df: Any = 4.0):
        self.log_df = to_log("df", df)

    @property
    def df(self) -> jax.Array:
        """The degrees of freedom."""
        return from_log(self.log_df)

    def __call__(self, outputs: Any, *, key: Any = None) -> dist.Distribution:
        """The distribution of targets [N, ..., K], from outputs [N, ..., 2K] or a pair (location, log squared scale).

        Raises:
            ValueError: the columns are odd in number, the pair's shapes differ, or, outside of a trace, a log squared
                scale is not finite.
        """
        del key
        loc, log_square = halves("HeteroscedasticStudentT", "location", "log squared scale", outputs)
        scale = jnp.exp(0.5 * clipped("HeteroscedasticStudentT", "log squared scale", log_square))
        return dist.StudentT(self.df, loc, scale)
