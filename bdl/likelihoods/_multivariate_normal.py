"""Normal noise that is correlated between the columns of the targets."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from numpyro import distributions as dist

from bdl._learned import Learned, map_learned, value_of
from bdl.likelihoods._heads import clipped


class MultivariateNormal(eqx.Module):
    """y ~ Normal(f(x), Σ): outputs are the mean [N, ..., K], noise has one covariance everywhere, of the K targets.

    Args:
        covariance: Σ, [K, K], in the square of the targets' units; fixed, or `bdl.learned(...)`. It is stored as its
            Cholesky factor with the logarithms of the diagonal.

    Raises:
        ValueError: `covariance` is not symmetric and positive definite.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> likelihood = bdl.likelihoods.MultivariateNormal([[1.0, 0.6], [0.6, 1.0]])
        >>> targets = likelihood(jnp.zeros((5, 2)))
        >>> targets.batch_shape, targets.event_shape
        ((5,), (2,))
    """

    cholesky: jax.Array | Learned

    def __init__(self, covariance: Any):
        value = value_of(covariance)
        if not isinstance(value, jax.core.Tracer):
            given = np.asarray(value, np.float64)
            square = given.ndim == 2 and given.shape[0] == given.shape[1]
            if not (square and np.allclose(given, given.T, rtol=1e-5) and np.linalg.eigvalsh(given).min() > 0):
                raise ValueError(
                    "MultivariateNormal: expected `covariance` as a symmetric, positive definite matrix [K, K], got "
                    f"{covariance}."
                )
        self.cholesky = map_learned(_log_cholesky, covariance)

    @property
    def scale_tril(self) -> jax.Array:
        """The Cholesky factor of Σ, [K, K]."""
        stored = value_of(self.cholesky)
        return jnp.tril(stored, -1) + jnp.diag(jnp.exp(jnp.diag(stored)))

    def __call__(self, outputs: Any, *, key: Any = None) -> dist.Distribution:
        """The distribution of targets of the outputs' shape, [N, ..., K].

        Raises:
            ValueError: the outputs have not K columns.
        """
        del key
        factor = self.scale_tril
        if outputs.ndim < 2 or outputs.shape[-1] != len(factor):
            raise ValueError(
                f"MultivariateNormal with a covariance of {len(factor)} targets takes means [N, ..., {len(factor)}], "
                f"but the network's outputs have shape {tuple(outputs.shape)}."
            )
        return dist.MultivariateNormal(outputs, scale_tril=factor)


def _log_cholesky(covariance: Any) -> jax.Array:
    """The Cholesky factor, with the logarithm of its diagonal."""
    factor = jnp.linalg.cholesky(jnp.asarray(covariance, jnp.float32))
    return jnp.tril(factor, -1) + jnp.diag(jnp.log(jnp.diag(factor)))


class HeteroscedasticMultivariateNormal(eqx.Module):
    """y ~ Normal(m(x), Σ(x)) over K targets: outputs are the mean, K log variances s, and what correlates the targets.

    With `covariance="full"`, Σ = D L Lᵀ D with D = diag(exp(½ s)) and L lower triangular with ones on the diagonal: the
    network predicts the K (K − 1) / 2 entries below it, row by row, and K (K + 3) / 2 columns in all. exp(sᵢ) is the
    variance of target i given those before it. With `covariance="low_rank"`, Σ = diag(exp(s)) + V Vᵀ with V [K, R], row
    by row: (2 + R) K columns in all. The log variances are clipped to [−30, 30]; gradients pass the clip.
    Without correlation, it is `HeteroscedasticNormal`.

    Args:
        covariance: `"full"` or `"low_rank"`.
        rank: R, for `"low_rank"`.

    Raises:
        ValueError: `covariance` is neither, or `rank` is missing, below 1, or given for `"full"`.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> likelihood = bdl.likelihoods.HeteroscedasticMultivariateNormal()
        >>> targets = likelihood(jnp.array([[0.0, 0.0, 0.0, 0.0, 2.0]]))  # two means, two log variances, one below
        >>> targets.event_shape, targets.covariance_matrix[0]
        ((2,), Array([[1., 2.],
               [2., 5.]], dtype=float32))
    """

    covariance: str = eqx.field(static=True)
    rank: int = eqx.field(static=True)

    def __init__(self, covariance: str = "full", rank: int | None = None):
        if covariance not in ("full", "low_rank"):
            raise ValueError(
                f'HeteroscedasticMultivariateNormal: expected `covariance` "full" or "low_rank", got {covariance!r}.'
            )
        if (covariance == "full") != (rank is None) or (rank is not None and rank < 1):
            raise ValueError(
                f'HeteroscedasticMultivariateNormal: `rank` of at least 1 goes with "low_rank", got {rank} with '
                f"{covariance!r}."
            )
        self.covariance, self.rank = covariance, rank or 0

    def __call__(self, outputs: Any, *, key: Any = None) -> dist.Distribution:
        """The distribution of targets [N, ..., K].

        Raises:
            ValueError: the columns are not in the right number for any K; or, outside of a trace, a log variance is not
                finite.
        """
        del key
        columns = outputs.shape[-1] if outputs.ndim >= 2 else 0
        if self.covariance == "full":
            count = (math.isqrt(9 + 8 * columns) - 3) // 2
            needed, formula = count * (count + 3) // 2, "K (K + 3) / 2"
        else:
            count = columns // (2 + self.rank)
            needed, formula = count * (2 + self.rank), f"{2 + self.rank} K"
        if count < 1 or needed != columns:
            raise ValueError(
                f"HeteroscedasticMultivariateNormal takes {formula} columns for K targets, but the network's outputs "
                f"have shape {tuple(outputs.shape)}. Change the number of units of its last layer."
            )
        mean, log_variance, rest = jnp.split(outputs, [count, 2 * count], axis=-1)
        log_variance = clipped("HeteroscedasticMultivariateNormal", "log variance", log_variance)
        if self.covariance == "low_rank":
            factors = rest.reshape(*mean.shape, self.rank)
            return dist.LowRankMultivariateNormal(mean, factors, jnp.exp(log_variance))
        unit = jnp.broadcast_to(jnp.eye(count), (*mean.shape, count))
        unit = unit.at[..., *np.tril_indices(count, -1)].set(rest)
        return dist.MultivariateNormal(mean, scale_tril=jnp.exp(0.5 * log_variance)[..., None] * unit)
