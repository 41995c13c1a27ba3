"""One class out of K."""

from typing import Any

import equinox as eqx
from numpyro import distributions as dist


class Categorical(eqx.Module):
    """y ~ Categorical(softmax(f(x))): outputs are logits [N, ..., K], targets integer classes [N, ...] in [0, K).

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> bdl.likelihoods.Categorical()(jnp.zeros((5, 4))).probs[0]
        Array([0.25, 0.25, 0.25, 0.25], dtype=float32)
    """

    def __call__(self, outputs: Any, *, key: Any = None) -> dist.Distribution:
        """The distribution of the classes.

        Raises:
            ValueError: the logits have no class axis, or fewer than two classes.
        """
        del key
        if outputs.ndim < 2 or outputs.shape[-1] < 2:
            raise ValueError(
                "Categorical takes logits [N, ..., K] of K >= 2 classes, but the network's outputs have shape "
                f"{tuple(outputs.shape)}. Give its last layer one unit for each class."
            )
        return dist.Categorical(logits=outputs)
