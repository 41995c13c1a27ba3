"""KL(q || p) of a posterior from a prior: closed form where there is one, Monte Carlo otherwise."""

from typing import Any

import jax
import jax.numpy as jnp
from numpyro.distributions.kl import kl_divergence

from bdl._keys import derive
from bdl._learned import partition
from bdl.families._base import is_family, mean_of


def kl(key: Any, posterior: Any, prior: Any, *, num_samples: int = 1) -> jax.Array:
    """KL(q || p) = E_q[log q(w) − log p(w)], in nats, summed over all weights.

    Each family is held against the prior of its array: by its own formula (dropout's quasi-KL), else by numpyro's
    registry of closed forms, else by the mean over draws. A point mass has no density, and contributes −log p(w); so
    the sum is a divergence only where every array has a family with a density.

    Args:
        key: for what has no closed form.
        posterior: a `Factorised`, or any posterior with `sample` and `log_prob`.
        prior: one of `bdl.priors`, or anything with `log_prob(params)`.
        num_samples: draws for what has no closed form.

    Returns:
        a float32 scalar.

    Raises:
        ValueError: the prior has learned numbers over dropout or point masses, for which the objective is unbounded; or
            a family has no density and no formula for this prior.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, bdl
        >>> posterior = bdl.variational({"w": jnp.zeros(10)}, bdl.families.normal(scale=1.0))
        >>> bdl.kl(jax.random.key(0), posterior, bdl.priors.normal(scale=1.0))
        Array(0., dtype=float32)
    """
    key = derive(key, "kl")
    if not hasattr(posterior, "leaves"):
        return _mean_over_draws(key, num_samples, lambda k: _log_ratio(posterior, prior, posterior.sample(k)))
    _refuse_unbounded(posterior, prior)
    if not hasattr(prior, "distribution"):
        draws = _mean_over_draws(key, num_samples, lambda k: prior.log_prob(posterior.sample(k)))
        return -sum((_entropy(p, f) for p, f in posterior.families.items()), start=jnp.float32(0)) - draws
    total = jnp.float32(0)
    for path, leaf in posterior.leaves.items():
        total += leaf_kl(derive(key, path), path, leaf, prior.distribution(path, mean_of(leaf)), num_samples)
    return total


def leaf_kl(key: Any, path: str, leaf: Any, distribution: Any, num_samples: int = 1) -> jax.Array:
    """The KL of one family or point mass from a numpyro distribution over its entries (`None`: flat), in nats."""
    if not is_family(leaf):
        return jnp.float32(0) if distribution is None else -_log_prob(distribution, leaf)
    if distribution is None:
        return -_entropy(path, leaf)
    if hasattr(leaf, "kl") and (own := leaf.kl(distribution)) is not NotImplemented:
        return own
    if hasattr(leaf, "distribution"):
        try:
            return jnp.broadcast_to(kl_divergence(leaf.distribution, distribution), jnp.shape(leaf.mean)).sum()
        except NotImplementedError:  # numpyro's registry has no closed form for the pair
            pass
    if not hasattr(leaf, "log_prob"):
        raise ValueError(
            f"kl: the family {type(leaf).__name__} of {path!r} has neither `kl` nor `log_prob`. "
            "Give it one of them, or another family."
        )

    def log_ratio(k: Any) -> jax.Array:
        w = leaf.sample(k)
        return leaf.log_prob(w) - _log_prob(distribution, w)

    return _mean_over_draws(key, num_samples, log_ratio)


def has_density(leaf: Any) -> bool:
    """Whether a leaf of a posterior has a density over the weights, so that its KL is one."""
    return is_family(leaf) and (hasattr(leaf, "log_prob") or hasattr(leaf, "distribution"))


def is_bound(posterior: Any, prior: Any) -> bool:
    """Whether the ELBO of this pair bounds the evidence: every array has a density, and a proper prior."""
    if not hasattr(posterior, "leaves"):
        return hasattr(posterior, "log_prob")
    leaves = posterior.leaves
    proper = not hasattr(prior, "distribution") or all(
        prior.distribution(path, mean_of(leaf)) is not None for path, leaf in leaves.items()
    )
    return proper and all(map(has_density, leaves.values()))


def _refuse_unbounded(posterior: Any, prior: Any) -> None:
    for path, leaf in posterior.leaves.items():
        part = prior.at(path) if hasattr(prior, "at") else prior
        if not has_density(leaf) and jax.tree.leaves(partition(part)[0]):
            kind = type(leaf).__name__ if is_family(leaf) else "a point mass"
            raise ValueError(
                f"kl: the prior of {path!r} has learned numbers, but its posterior is {kind}, which has no density: "
                "the objective grows without bound as the prior closes in. Fix the prior's numbers, or use a family "
                "with a density, such as `bdl.families.normal()`."
            )


def _entropy(path: str, family: Any) -> jax.Array:
    if not hasattr(family, "entropy"):
        raise ValueError(
            f"kl: the family {type(family).__name__} of {path!r} has no `entropy`, which a prior without a "
            "distribution for each array needs. Give the family one, or take a prior of `bdl.priors`."
        )
    return family.entropy()


def _log_prob(distribution: Any, w: jax.Array) -> jax.Array:
    return jnp.broadcast_to(distribution.log_prob(w.astype(jnp.float32)), w.shape).sum()


def _log_ratio(posterior: Any, prior: Any, params: Any) -> jax.Array:
    if not hasattr(posterior, "log_prob"):
        raise ValueError(
            f"kl: {type(posterior).__name__} has no `log_prob`, and its KL cannot be estimated from draws alone."
        )
    return posterior.log_prob(params) - prior.log_prob(params)


def _mean_over_draws(key: Any, num_samples: int, function: Any) -> jax.Array:
    if num_samples < 1:
        raise ValueError(f"kl: expected num_samples of at least 1, got {num_samples}.")
    return jnp.mean(jnp.stack([function(derive(key, "draw", i)) for i in range(num_samples)]))
