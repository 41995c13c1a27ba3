"""Normal noise whose size the network predicts."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from numpyro import distributions as dist

from bdl._hyper import Hyper
from bdl._learned import Learned
from bdl._positive import from_log, to_log
from bdl.likelihoods._heads import clipped, halves


class HeteroscedasticNormal(eqx.Module):
    """y ~ Normal(m(x), exp(s(x))): outputs are the mean m and the log variance s.

    −log p(y | m, s) = ½ exp(−s) (y − m)² + ½ s + ½ log 2π. The log variance is clipped to [−30, 30]; gradients pass
    the clip, so that they pull it back.

    Where the mean is still far off, the noise can explain it, and the examples with the largest residuals then have the
    least weight in the mean's gradient, (m − y) exp(−s). Two remedies:

    Args:
        beta: β-NLL: in training, each element's log-likelihood is multiplied by exp(s)^β, held constant. 0 is the
            likelihood itself, 1 gives the mean the gradient of the squared error; Seitzer et al. recommend 0.5. Such a
            training loss is not a log-likelihood, and `ElboTerms.is_bound` is False; predictions and
            `bdl.log_predictive` have no weights.
        fixed_scale: the noise's standard deviation, in the targets' units, in the place of the log variance, which then
            has no gradient: to fit the mean first, and then go on without, from the same posterior.

    Raises:
        ValueError: `beta` is outside of [0, 1], `fixed_scale` is not positive, or both are given.

    Reference:
        Kendall and Gal (2017), What uncertainties do we need in Bayesian deep learning for computer vision?,
        https://arxiv.org/abs/1703.04977; Seitzer et al. (2022), On the pitfalls of heteroscedastic uncertainty
        estimation with probabilistic neural networks, https://arxiv.org/abs/2203.09168

    Example:
        >>> import jax, jax.numpy as jnp, optax, bdl
        >>> targets = bdl.likelihoods.HeteroscedasticNormal()(jnp.zeros((5, 2)))
        >>> targets.batch_shape, float(targets.variance[0, 0])
        ((5, 1), 1.0)

        A warm-up with fixed noise:

        >>> network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.zeros((1, 2))})
        >>> posterior = bdl.variational(network.params, bdl.families.point)
        >>> first = bdl.Model(network, bdl.likelihoods.HeteroscedasticNormal(fixed_scale=0.5))
        >>> model = bdl.Model(network, bdl.likelihoods.HeteroscedasticNormal())
        >>> key, algorithm, x = jax.random.key(0), bdl.inference.map(optax.adam(0.1)), jnp.ones((9, 1))
        >>> for stage in (first, model):
        ...     fitted = bdl.fit(key, algorithm, posterior, stage, (x, 2 * x), num_steps=100, progress=False)
        ...     posterior = fitted.posterior
        >>> bdl.predict(key, posterior, model, x).mean.shape
        (9, 1)
    """

    beta: jax.Array | None
    log_fixed_scale: jax.Array | Hyper | Learned | None

    def __init__(self, beta: Any = 0.0, fixed_scale: Any = None):
        concrete = not isinstance(beta, jax.core.Tracer)
        if concrete and not 0 <= beta <= 1:
            raise ValueError(f"HeteroscedasticNormal: expected `beta` in [0, 1], got {beta}.")
        unweighted = concrete and beta == 0
        if fixed_scale is not None and not unweighted:
            raise ValueError(
                "HeteroscedasticNormal: `fixed_scale` leaves no variance for `beta` to weigh by. Leave one of them out."
            )
        self.beta = None if unweighted else jnp.asarray(beta, jnp.float32)
        self.log_fixed_scale = None if fixed_scale is None else to_log("fixed_scale", fixed_scale)

    @property
    def is_reweighted(self) -> bool:
        """Whether training weighs examples, by `beta`."""
        return self.beta is not None

    def __call__(self, outputs: Any, *, key: Any = None) -> dist.Distribution:
        """The distribution of the targets.

        Args:
            outputs: [N, ..., 2K], of which the first K columns are the mean and the last K the log variance; or the
                pair (mean, log variance), of the targets' shape each.
            key: not used.

        Returns:
            A distribution over targets [N, ..., K].

        Raises:
            ValueError: the columns are odd in number, the pair's shapes differ, or, outside of a trace, a log variance
                is not finite.
        """
        del key
        mean, log_variance = halves("HeteroscedasticNormal", "mean", "log variance", outputs)
        if self.log_fixed_scale is not None:
            return dist.Normal(mean, jnp.broadcast_to(from_log(self.log_fixed_scale), mean.shape))
        return dist.Normal(mean, jnp.exp(0.5 * clipped("HeteroscedasticNormal", "log variance", log_variance)))

    def training_weight(self, distribution: Any, y: Any) -> jax.Array:
        """exp(s)^β, held constant, of the targets' shape."""
        del y
        return jax.lax.stop_gradient(distribution.scale) ** (2 * jnp.asarray(self.beta))
