"""Energy-bounded training: a gap between the energies of inliers and of outliers."""

from typing import Any

import jax
import numpy as np
import optax

from bdl.inference._base import Algorithm
from bdl.ood.training._class_probs import class_logits
from bdl.ood.training._with_outliers import with_outliers


def energy_bound(
    optimizer: optax.GradientTransformation,
    outliers: Any,
    *,
    inside: float = -23.0,
    outside: float = -5.0,
    weight: Any = 0.1,
    outlier_batch_size: int | None = None,
    num_samples: int = 1,
    noise: str = "local",
    kl_weight: Any = 1.0,
) -> Algorithm:
    """Train a classifier whose energy tells outliers: descend (nats for an example, lower is better)

        −ELBO / N + weight · (E_inliers[max(0, E(x) − inside)²] + E_outliers[max(0, outside − E(x))²]),

    where E(x) = −log Σₖ exp fₖ(x) is the energy of the logits, higher for outliers. The paper goes on from a trained
    network, whose energies tell where the two bounds are to be: some below most inliers', some above most outliers'.

    Args:
        optimizer: any optax optimiser; it is given the learned half of posterior and model only.
        outliers: inputs that are in no class, [M, ...]: of the shapes, names and type of x.
        inside: the energy that inliers are to stay below. Both defaults are those for ten classes of CIFAR.
        outside: the energy that outliers are to stay above.
        weight: of the penalty, or an optax schedule of it.
        outlier_batch_size: outliers at each step, in the paper twice as many as inliers; as many where `None`.
        num_samples, noise, kl_weight: as in `confidence_loss`.

    Returns:
        An algorithm for `bdl.fit`, whose history has `PenalisedInfo`.

    Raises:
        ValueError: as by `confidence_loss`; `inside` is not below `outside`; the likelihood has no logits, as one with
            noise on them, where it integrates them.

    Reference:
        Liu, Wang, Owens and Li (2020), Energy-based out-of-distribution detection, https://arxiv.org/abs/2010.03759

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from bdl.ood.training import energy_bound
        >>> algorithm = energy_bound(optax.adam(1e-4), jnp.ones((1_000, 2)), inside=-8.0, outside=-2.0)
    """
    if not (np.isfinite([inside, outside]).all() and inside < outside):
        raise ValueError(
            f"energy_bound: expected inside < outside, as inliers have the lower energy, got {inside} and {outside}."
        )

    def penalty(at_inliers: Any, at_outliers: Any) -> tuple[jax.Array, jax.Array]:
        over = jax.nn.relu(_energy(at_inliers) - inside)
        under = jax.nn.relu(outside - _energy(at_outliers))
        return over**2, under**2

    return with_outliers(
        "energy_bound", optimizer, outliers, penalty,
        weight=weight, outlier_batch_size=outlier_batch_size,
        num_samples=num_samples, noise=noise, kl_weight=kl_weight,
    )  # fmt: skip


def _energy(distribution: Any) -> jax.Array:
    return -jax.nn.logsumexp(class_logits("energy_bound", distribution), -1)
