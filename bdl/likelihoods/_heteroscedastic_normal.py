"""Normal noise whose size the network predicts."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from numpyro import distributions as dist

# exp(±30 / 2) keeps every quantity of the log-density finite in float32.
_LIMIT = 30.0


class HeteroscedasticNormal(eqx.Module):
    """y ~ Normal(m(x), exp(s(x))): outputs are the mean m and the log variance s.

    −log p(y | m, s) = ½ exp(−s) (y − m)² + ½ s + ½ log 2π. The log variance is clipped to [−30, 30]; gradients pass
    the clip, so that they pull it back.

    Reference:
        Kendall and Gal (2017), What uncertainties do we need in Bayesian deep learning for computer vision?,
        https://arxiv.org/abs/1703.04977

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> targets = bdl.likelihoods.HeteroscedasticNormal()(jnp.zeros((5, 2)))
        >>> targets.batch_shape, float(targets.variance[0, 0])
        ((5, 1), 1.0)
    """

    def __call__(self, outputs: Any, *, key: Any = None) -> dist.Distribution:
        """The distribution of the targets.

        Args:
            outputs: [N, ..., 2K], of which the first K columns are the mean and the last K the log variance; or the
                pair (mean, log variance), of the targets' shape each.
            key: not used.

        Returns:
            A distribution over targets [N, ..., K].

        Raises:
            ValueError: the columns are odd in number, or the pair's shapes differ.
        """
        del key
        mean, log_variance = _split(outputs)
        # clip(s) in value, s in gradient; the difference of the last two is exactly zero.
        clipped = jnp.clip(log_variance, -_LIMIT, _LIMIT)
        log_variance = jax.lax.stop_gradient(clipped) + (log_variance - jax.lax.stop_gradient(log_variance))
        return dist.Normal(mean, jnp.exp(0.5 * log_variance))


def _split(outputs: Any) -> tuple[jax.Array, jax.Array]:
    if isinstance(outputs, tuple | list):
        if len(outputs) != 2 or outputs[0].shape != outputs[1].shape:
            raise ValueError(
                "HeteroscedasticNormal takes a pair (mean, log variance) of equal shapes, got shapes "
                f"{[tuple(o.shape) for o in outputs]}."
            )
        return tuple(outputs)
    if outputs.ndim < 2 or outputs.shape[-1] % 2:
        raise ValueError(
            "HeteroscedasticNormal splits the outputs' last axis into the means and as many log variances, but the "
            f"network's outputs have shape {tuple(outputs.shape)}. Give its last layer 2 units for each column of the "
            "targets."
        )
    mean, log_variance = jnp.split(outputs, 2, axis=-1)
    return mean, log_variance
