"""The confidence loss: uniform predictions on outliers that are given."""

import math
from typing import Any

import jax
import optax

from bdl.inference._base import Algorithm
from bdl.ood.training._class_probs import class_log_probs
from bdl.ood.training._with_outliers import with_outliers


def confidence_loss(
    optimizer: optax.GradientTransformation,
    outliers: Any,
    *,
    weight: Any = 1.0,
    outlier_batch_size: int | None = None,
    num_samples: int = 1,
    noise: str = "local",
    kl_weight: Any = 1.0,
) -> Algorithm:
    """Train a classifier to be unsure of outliers: descend (nats for an example, lower is better)

        −ELBO / N + weight · E_outliers[KL(U || p(y | x, w))],   KL(U || p) = −log K − (1/K) Σₖ log p(y = k),

    U uniform over the K classes. The maximum of p, its entropy and the energy of the logits then tell outliers, of the
    kinds that were given: outliers far from the data teach little about others near it.

    Every step draws outliers anew, with replacement, and takes them through the network together with the inliers.

    Args:
        optimizer: any optax optimiser; it is given the learned half of posterior and model only.
        outliers: inputs that are in no class, [M, ...]: of the shapes, names and type of x.
        weight: of the penalty, or an optax schedule of it. The authors took 1 for SVHN and 0.1 for CIFAR-10.
        outlier_batch_size: outliers at each step; as many as inliers where `None`.
        num_samples: draws of the weights at each step.
        noise: `"local"` or `"shared"`; see `bdl.elbo`.
        kl_weight: the factor on the KL of the posterior from the prior, or an optax schedule of it.

    Returns:
        An algorithm for `bdl.fit`, whose history has `PenalisedInfo`.

    Raises:
        ValueError: the outliers are empty or not finite, or a number is out of its range; in the fit, the outliers are
            not like the inputs, or the likelihood is not of one class out of K.

    Reference:
        Lee, Lee, Lee and Shin (2018), Training confidence-calibrated classifiers for detecting out-of-distribution
        samples, equation 1, https://arxiv.org/abs/1711.09325

    Example:
        >>> import jax, jax.numpy as jnp, optax, bdl
        >>> from bdl.ood.training import confidence_loss
        >>> network = bdl.networks.mlp(jax.random.key(0), jnp.ones((1, 2)), 3)
        >>> posterior = bdl.variational(network.params, bdl.families.point)
        >>> model = bdl.Model(network, bdl.likelihoods.Categorical())
        >>> algorithm = confidence_loss(optax.adam(1e-2), outliers=9 * jnp.ones((4, 2)))
        >>> x, y = jnp.eye(2), jnp.array([0, 1])
        >>> fitted = bdl.fit(jax.random.key(1), algorithm, posterior, model, (x, y), num_steps=3, progress=False)
        >>> fitted.history.penalty.shape
        (3,)
    """

    def penalty(inside: Any, outside: Any) -> tuple[jax.Array]:
        del inside
        return (kl_from_uniform("confidence_loss", outside),)

    return with_outliers(
        "confidence_loss", optimizer, outliers, penalty,
        weight=weight, outlier_batch_size=outlier_batch_size,
        num_samples=num_samples, noise=noise, kl_weight=kl_weight,
    )  # fmt: skip


def kl_from_uniform(name: str, distribution: Any) -> jax.Array:
    """KL(U || p) in nats, [N, ...]: 0 where p is uniform."""
    log_probs = class_log_probs(name, distribution)
    # KL(U || p) = Σₖ (1/K) (log (1/K) − log pₖ)
    return -log_probs.mean(-1) - math.log(log_probs.shape[-1])
