"""Weights that are sometimes large: Student's t and Cauchy."""

from typing import Any

from numpyro.distributions import Cauchy, StudentT

from bdl.priors._iid import IID, iid


def student_t(df: Any = 3.0, scale: Any = 1.0) -> IID:
    """Every weight independently from Student's t: p(w) ∝ (1 + w² / (df scale²))^(−(df + 1) / 2).

    Trained weights of dense layers have such tails (Fortuin et al. 2022). The KL is estimated from draws.

    Args:
        df: the degrees of freedom. The variance, scale² df / (df − 2), is finite above 2; Normal(0, scale²) is the
            limit.
        scale: not the standard deviation, which is √(df / (df − 2)) times as large. Either may be `bdl.learned(...)`.

    Raises:
        ValueError: one of them is not positive.

    Reference:
        Fortuin et al. (2022), Bayesian neural network priors revisited, https://arxiv.org/abs/2102.06571

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> prior = bdl.priors.student_t(df=3.0, scale=0.1)
        >>> round(float(prior.log_prob({"w": jnp.zeros(3)})), 3)
        3.905
    """
    return iid(StudentT, df=df, loc=0.0, scale=scale)


def cauchy(scale: Any = 1.0) -> IID:
    """Every weight independently from Cauchy(0, scale): p(w) = 1 / (π scale (1 + w² / scale²)).

    It has no mean and no variance, and so has no prior predictive variance. The KL is estimated from draws.

    Args:
        scale: half of the weights are within ± scale; fixed, or `bdl.learned(...)`.

    Raises:
        ValueError: `scale` is not positive.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> round(float(bdl.priors.cauchy(scale=0.5).log_prob({"w": jnp.zeros(3)})), 3)
        -1.355
    """
    return iid(Cauchy, loc=0.0, scale=scale)
