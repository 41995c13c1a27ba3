"""KL(q || p) of a posterior from a prior: closed form where there is one, Monte Carlo otherwise."""

from typing import Any

import jax
import jax.numpy as jnp
from numpyro.distributions.kl import kl_divergence

from bdl._family import is_family, mean_of
from bdl._hyper import draw_hypers, has_hypers
from bdl._keys import derive
from bdl._learned import partition
from bdl._paths import named_leaves
from bdl.families._members import kernel_kl


def kl(key: Any, posterior: Any, prior: Any, *, num_samples: int = 1) -> jax.Array:
    """KL(q || p) = E_q[log q(w) − log p(w)], in nats, summed over all weights.

    Each family is held against the prior of its array: by its own formula (dropout's quasi-KL), else by numpyro's
    registry of closed forms, else by the mean over draws. A point mass has no density, and contributes −log p(w); so
    the sum is a divergence only where every array has a family with a density. Numbers of the prior that have a
    distribution of their own (`bdl.priors.hyper`) are drawn, and their KL is part of the sum.

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
    if num_samples < 1:
        raise ValueError(f"kl: expected num_samples of at least 1, got {num_samples}.")
    key = derive(key, "kl")
    refuse_unbounded(posterior, prior)
    if not has_hypers(prior):
        closed, open_paths = closed_kl(posterior, prior)
        if not open_paths:
            return closed

    def one(index: int) -> jax.Array:
        draw = derive(key, "draw", index)
        drawn, hyper_kl = draw_hypers(derive(draw, "hyper"), prior)
        closed, open_paths = closed_kl(posterior, drawn)
        rest = drawn_kl(posterior, drawn, posterior.sample(draw), open_paths) if open_paths else 0.0
        return closed + rest + hyper_kl

    return jnp.mean(jnp.stack([one(i) for i in range(num_samples)]))


def closed_kl(posterior: Any, prior: Any, *, from_draws: bool = False) -> tuple[jax.Array, tuple[str, ...]]:
    """The part of the KL that has a closed form, and the paths of the arrays of which draws must tell it.

    Args:
        posterior, prior: as in `kl`, without hyper-priors.
        from_draws: leave all densities to draws, closed form or not.
    """
    if not hasattr(posterior, "leaves"):
        return jnp.float32(0), ("*",)
    leaves = posterior.leaves
    if not hasattr(prior, "distribution"):
        return jnp.float32(0), tuple(leaves)
    total, open_paths = jnp.float32(0), []
    for path, leaf in leaves.items():
        by_draws = from_draws and hasattr(leaf, "log_prob")
        value = None if by_draws else _closed(path, leaf, prior.distribution(path, mean_of(leaf)))
        if value is None:
            open_paths.append(path)
        else:
            total += value
    return total, tuple(open_paths)


def drawn_kl(
    posterior: Any, prior: Any, params: Any, open_paths: tuple[str, ...], *, fixed_density: bool = False
) -> jax.Array:
    """One draw's estimate of the rest of the KL.

    Args:
        posterior, prior: as in `closed_kl`.
        params: a draw of the posterior's weights.
        open_paths: what `closed_kl` left.
        fixed_density: no gradient through the parameters of log q(w), but through the draw only.
    """
    if not hasattr(posterior, "leaves"):
        return _log_density(posterior, params, fixed_density) - prior.log_prob(params)
    leaves, drawn = posterior.leaves, named_leaves(params)
    if not hasattr(prior, "distribution"):
        terms = [
            _log_density(f, drawn[p], True) if fixed_density and hasattr(f, "log_prob") else -_entropy(p, f)
            for p, f in posterior.families.items()
        ]
        return sum(terms, start=jnp.float32(0)) - prior.log_prob(params)
    terms = [
        _from_draw(p, leaves[p], prior.distribution(p, mean_of(leaves[p])), drawn[p], fixed_density) for p in open_paths
    ]
    return sum(terms, start=jnp.float32(0))


def leaf_kl(key: Any, path: str, leaf: Any, distribution: Any, num_samples: int = 1) -> jax.Array:
    """The KL of one family or point mass from a numpyro distribution over its entries (`None`: flat), in nats."""
    closed = _closed(path, leaf, distribution)
    if closed is not None:
        return closed
    keys = [derive(key, "draw", i) for i in range(num_samples)]
    return jnp.mean(jnp.stack([_from_draw(path, leaf, distribution, leaf.sample(k), False) for k in keys]))


def has_density(leaf: Any) -> bool:
    """Whether a leaf of a posterior has a density over the weights, so that its KL is one."""
    return is_family(leaf) and (hasattr(leaf, "log_prob") or hasattr(leaf, "distribution"))


def is_bound(posterior: Any, prior: Any) -> bool:
    """Whether the ELBO of this pair bounds the evidence: every array has a density, and a proper prior."""
    if not hasattr(posterior, "leaves"):
        return hasattr(posterior, "log_prob")
    leaves = posterior.leaves
    proper = not hasattr(prior, "distribution") or all(
        is_proper(prior.distribution(path, mean_of(leaf))) for path, leaf in leaves.items()
    )
    return proper and all(map(has_density, leaves.values()))


def is_proper(distribution: Any) -> bool:
    """Whether a numpyro distribution, or `None` for a flat one, has a density that integrates to one."""
    return distribution is not None and not getattr(distribution, "improper", False)


def refuse_unbounded(posterior: Any, prior: Any) -> None:
    """Raise a ValueError where the prior has learned numbers, or hyper-priors, over what has no density."""
    for path, leaf in getattr(posterior, "leaves", {}).items():
        part = prior.at(path) if hasattr(prior, "at") else prior
        if not has_density(leaf) and jax.tree.leaves(partition(part)[0]):
            kind = type(leaf).__name__ if is_family(leaf) else "a point mass"
            raise ValueError(
                f"kl: the prior of {path!r} has learned numbers, but its posterior is {kind}, which has no density: "
                "the objective grows without bound as the prior closes in. Fix the prior's numbers, or use a family "
                "with a density, such as `bdl.families.normal()`."
            )


def _closed(path: str, leaf: Any, distribution: Any) -> jax.Array | None:
    if not is_family(leaf):
        return jnp.float32(0) if distribution is None else kernel_kl(leaf, distribution)
    if distribution is None:
        return -_entropy(path, leaf)
    if hasattr(leaf, "kl") and (own := leaf.kl(distribution)) is not NotImplemented:
        return own
    if not hasattr(leaf, "distribution"):
        return None
    try:
        marginal = kl_divergence(leaf.distribution, distribution)
    except NotImplementedError:  # numpyro's registry has no closed form for the pair
        return None
    # Where p factorises over the entries, E_q[log p] needs only the marginals of q.
    dependence = leaf.total_correlation() if hasattr(leaf, "total_correlation") else 0.0
    return jnp.broadcast_to(marginal, jnp.shape(leaf.mean)).sum() + dependence


def _from_draw(path: str, leaf: Any, distribution: Any, w: jax.Array, fixed_density: bool) -> jax.Array:
    if hasattr(leaf, "log_prob"):
        return _log_density(leaf, w, fixed_density) - _log_prob(distribution, w)
    if hasattr(leaf, "entropy"):
        return -leaf.entropy() - _log_prob(distribution, w)
    raise ValueError(
        f"kl: the family {type(leaf).__name__} of {path!r} has no `kl`, `log_prob` or `entropy` for this prior. "
        "Give it one of them, or another family."
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


def _log_density(node: Any, w: Any, fixed: bool) -> jax.Array:
    if not hasattr(node, "log_prob"):
        raise ValueError(
            f"kl: {type(node).__name__} has no `log_prob`, and its KL cannot be estimated from draws alone."
        )
    return (jax.lax.stop_gradient(node) if fixed else node).log_prob(w)
