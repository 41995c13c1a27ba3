"""Outlier exposure: the cross-entropy to uniform on outliers that are given."""

from typing import Any

import jax
import optax

from bdl.inference._base import Algorithm
from bdl.ood.training._class_probs import class_log_probs
from bdl.ood.training._with_outliers import with_outliers


def outlier_exposure(
    optimizer: optax.GradientTransformation,
    outliers: Any,
    *,
    weight: Any = 0.5,
    outlier_batch_size: int | None = None,
    num_samples: int = 1,
    noise: str = "local",
    kl_weight: Any = 1.0,
) -> Algorithm:
    """Expose a classifier to a large and varied set of outliers: descend (nats for an example, lower is better)

        −ELBO / N + weight · E_outliers[H(U, p(y | x, w))],   H(U, p) = −(1/K) Σₖ log p(y = k).

    H(U, p) is KL(U || p) + log K: the gradient is that of `confidence_loss`, and what differs is what it is for. Here
    the outliers are many and of many kinds, others than those of the test, and the network may have been trained
    before: fit the posterior by `bdl.inference.vi`, then go on with this from there.

    Args:
        optimizer: any optax optimiser; it is given the learned half of posterior and model only.
        outliers: inputs that are in no class, [M, ...]: of the shapes, names and type of x.
        weight: of the penalty, or an optax schedule of it.
        outlier_batch_size: outliers at each step, in the paper twice as many as inliers; as many where `None`.
        num_samples, noise, kl_weight: as in `confidence_loss`.

    Returns:
        An algorithm for `bdl.fit`, whose history has `PenalisedInfo`.

    Raises:
        ValueError: as by `confidence_loss`.

    Reference:
        Hendrycks, Mazeika and Dietterich (2019), Deep anomaly detection with outlier exposure,
        https://arxiv.org/abs/1812.04606

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from bdl.ood.training import outlier_exposure
        >>> algorithm = outlier_exposure(optax.adam(1e-4), jnp.ones((1_000, 2)), outlier_batch_size=256)
    """

    def penalty(inside: Any, outside: Any) -> tuple[jax.Array]:
        del inside
        return (-class_log_probs("outlier_exposure", outside).mean(-1),)

    return with_outliers(
        "outlier_exposure", optimizer, outliers, penalty,
        weight=weight, outlier_batch_size=outlier_batch_size,
        num_samples=num_samples, noise=noise, kl_weight=kl_weight,
    )  # fmt: skip
