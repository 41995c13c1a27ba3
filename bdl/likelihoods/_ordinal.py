"""Classes in an order."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from numpyro import distributions as dist

from bdl._learned import Learned, map_learned, value_of

_SMALLEST = 1e-6  # of a gap between two cutpoints


class Ordinal(eqx.Module):
    """P(y ≤ k) = σ(cₖ − f(x)): one output, and K − 1 increasing cutpoints that cut it into K classes in an order.

    Outputs are [N, ..., 1], targets integer classes [N, ...] in [0, K). `bdl.predict` returns class probabilities.
    Cutpoints are stored as the first of them and the logarithms of the gaps, so that they stay in order.

    Args:
        num_classes: K, at least 2.
        cutpoints: K − 1 increasing numbers in the unit of the output, fixed, or `bdl.learned(...)`. `None` for learned
            ones that start where all classes are equally likely at f = 0.

    Raises:
        ValueError: `num_classes` is below 2, or `cutpoints` are not K − 1 increasing numbers.

    Reference:
        McCullagh (1980), Regression models for ordinal data, https://doi.org/10.1111/j.2517-6161.1980.tb01109.x

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> likelihood = bdl.likelihoods.Ordinal(num_classes=4)
        >>> likelihood.cutpoints.round(2), likelihood(jnp.zeros((1, 1))).probs.round(2)
        (Array([-1.1,  0. ,  1.1], dtype=float32), Array([[0.25, 0.25, 0.25, 0.25]], dtype=float32))
    """

    unconstrained: jax.Array | Learned

    def __init__(self, num_classes: int, cutpoints: Any = None):
        if num_classes < 2:
            raise ValueError(f"Ordinal: expected `num_classes` of at least 2, got {num_classes}.")
        if cutpoints is None:
            share = np.arange(1, num_classes, dtype=np.float32) / num_classes
            cutpoints = Learned(np.log(share) - np.log1p(-share))
        value = jnp.asarray(value_of(cutpoints), jnp.float32)
        traced = isinstance(value, jax.core.Tracer)
        if value.shape != (num_classes - 1,) or not (traced or np.all(np.diff(value) > _SMALLEST)):
            raise ValueError(f"Ordinal: expected {num_classes - 1} increasing `cutpoints`, got {cutpoints}.")
        self.unconstrained = map_learned(_unconstrained, cutpoints)

    @property
    def cutpoints(self) -> jax.Array:
        """[K − 1], increasing."""
        stored = value_of(self.unconstrained)
        return stored[0] + jnp.concatenate([jnp.zeros(1), jnp.cumsum(jnp.exp(stored[1:]))])

    def __call__(self, outputs: Any, *, key: Any = None) -> dist.Distribution:
        """The distribution of the classes; its logits are log-probabilities.

        Raises:
            ValueError: the outputs have not one column.
        """
        del key
        if outputs.ndim < 2 or outputs.shape[-1] != 1:
            raise ValueError(
                "Ordinal takes one output for each target, [N, ..., 1], but the network's outputs have shape "
                f"{tuple(outputs.shape)}. Give its last layer one unit; the classes come from the cutpoints."
            )
        # σ(a) − σ(b) = σ(a) σ(−b) (1 − exp(b − a)), for two neighbouring cutpoints a > b: no difference of large parts.
        distance = self.cutpoints - outputs
        below, above = jax.nn.log_sigmoid(distance), jax.nn.log_sigmoid(-distance)
        between = below[..., 1:] + above[..., :-1] + jnp.log(-jnp.expm1(-jnp.diff(self.cutpoints)))
        return dist.Categorical(logits=jnp.concatenate([below[..., :1], between, above[..., -1:]], axis=-1))


def _unconstrained(cutpoints: Any) -> jax.Array:
    """The first cutpoint, and the logarithms of the distances between neighbours."""
    cutpoints = jnp.asarray(cutpoints, jnp.float32)
    return jnp.concatenate([cutpoints[:1], jnp.log(jnp.diff(cutpoints))])
