"""Two Normals around zero, a wide one for weights that matter and a narrow one for the rest."""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from numpyro.distributions import Distribution, constraints

from bdl.priors._iid import IID, iid


def scale_mixture(weight: Any = 0.5, wide: Any = 1.0, narrow: Any = 0.0025) -> IID:
    """Every weight independently from weight Normal(0, wide²) + (1 − weight) Normal(0, narrow²).

    The "spike and slab" of Bayes by backprop, which searched weight in {¼, ½, ¾}, −log wide in {0, 1, 2} and
    −log narrow in {6, 7, 8}. The KL is estimated from draws.

    Args:
        weight: of the wide Normal, in (0, 1).
        wide: its standard deviation.
        narrow: the standard deviation of the other. Each of the three may be `bdl.learned(...)`.

    Raises:
        ValueError: `weight` is not in (0, 1), a scale is not positive, or `narrow` is not below `wide`.

    Reference:
        Blundell et al. (2015), Weight uncertainty in neural networks, https://arxiv.org/abs/1505.05424

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> prior = bdl.priors.scale_mixture(weight=0.25, wide=1.0, narrow=0.0025)
        >>> round(float(prior.log_prob({"w": jnp.ones(4)})), 3)
        -11.221
    """
    if _known(weight) and not np.all(np.abs(0.5 - np.asarray(_number(weight))) < 0.5):
        raise ValueError(
            f"`weight` must be between 0 and 1, got {_number(weight)}. With one Normal alone use `priors.normal`."
        )
    if _known(wide) and _known(narrow) and not np.all(np.asarray(_number(narrow)) < _number(wide)):
        raise ValueError(f"`narrow` must be below `wide`, got narrow={_number(narrow)} and wide={_number(wide)}.")
    return iid(_ScaleMixture, weight=weight, wide=wide, narrow=narrow)


class _ScaleMixture(Distribution):
    """weight Normal(0, wide²) + (1 − weight) Normal(0, narrow²), as a numpyro distribution.

    Numpyro's `MixtureSameFamily` adds an axis of components to the weights, which costs about ten times as much.
    """

    arg_constraints: ClassVar = {
        "weight": constraints.unit_interval,
        "wide": constraints.positive,
        "narrow": constraints.positive,
    }
    support = constraints.real

    def __init__(self, weight: Any, wide: Any, narrow: Any, *, validate_args: bool | None = None):
        self.weight, self.wide, self.narrow = map(jnp.asarray, (weight, wide, narrow))
        shape = jnp.broadcast_shapes(self.weight.shape, self.wide.shape, self.narrow.shape)
        super().__init__(batch_shape=shape, validate_args=validate_args)

    def log_prob(self, value: jax.Array) -> jax.Array:
        # log p(w) = log weight + log N(w; 0, wide²) + log(1 + exp d),  d the log of the ratio of narrow to wide term:
        # taking the wide term out, which is the larger one in the tails, leaves nothing that overflows with w².
        square = 0.5 * value**2
        slab, spike = self.wide**-2, self.narrow**-2
        prior_odds = jnp.log1p(-self.weight) - jnp.log(self.weight) + jnp.log(self.wide) - jnp.log(self.narrow)
        d = prior_odds - square * (spike - slab)
        constant = jnp.log(self.weight) - jnp.log(self.wide) - 0.5 * math.log(2 * math.pi)
        return constant - square * slab + jnp.maximum(d, 0) + jnp.log1p(jnp.exp(-jnp.abs(d)))

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        which, size = jax.random.split(key)
        shape = (*sample_shape, *self.batch_shape)
        scale = jnp.where(jax.random.bernoulli(which, self.weight, shape), self.wide, self.narrow)
        return scale * jax.random.normal(size, shape)

    def cdf(self, value: jax.Array) -> jax.Array:
        return self.weight * ndtr(value / self.wide) + (1 - self.weight) * ndtr(value / self.narrow)

    @property
    def mean(self) -> jax.Array:
        return jnp.zeros(self.batch_shape)

    @property
    def variance(self) -> jax.Array:
        variance = self.weight * self.wide**2 + (1 - self.weight) * self.narrow**2
        return jnp.broadcast_to(variance, self.batch_shape)


def _number(value: Any) -> Any:
    return getattr(value, "value", value)  # inside of `bdl.learned(...)`


def _known(value: Any) -> bool:
    return not isinstance(_number(value), jax.core.Tracer)
