"""Hierarchical priors: numbers of a prior that have a prior of their own."""

import fnmatch
from typing import Any

import jax
import jax.numpy as jnp
from numpyro.distributions import Distribution, HalfCauchy, Normal, biject_to

from bdl._hyper import Hyper
from bdl._paths import match, named_leaves
from bdl._positive import from_log, to_log
from bdl.priors._base import FactorisedPrior
from bdl.priors._stored import store


def hyper(prior: Distribution, *, initial: Any = None, scale: float = 0.1, shape: tuple[int, ...] = ()) -> Hyper:
    """A number of a model with a prior of its own, drawn and paid for like a weight.

    It stands where `bdl.learned` could: `priors.iid(dist.Normal, loc=0.0, scale=hyper(dist.HalfCauchy(1.0)))`. `vi`
    fits a posterior of it with the weights', a Normal over the unconstrained value (log-normal for a positive number),
    and the objective's KL has its KL from the hyper-prior. Between draws, as in `summary`, it shows its median.

    Args:
        prior: the hyper-prior, a numpyro distribution over one number.
        initial: where its posterior starts; the hyper-prior's median by default, as far as numpyro has its quantiles.
        scale: the initial standard deviation of the unconstrained value.
        shape: of an array of independent numbers.

    Raises:
        ValueError: `initial` is outside of the hyper-prior's support, or not given where there is no median.

    Example:
        >>> import jax.numpy as jnp, numpyro.distributions as dist, bdl
        >>> scale = bdl.priors.hyper(dist.HalfCauchy(1.0))
        >>> prior = bdl.priors.iid(dist.Normal, loc=0.0, scale=scale)
        >>> round(float(prior.distribution("w", jnp.zeros(3)).scale), 3)
        1.0
    """
    if initial is None:
        try:
            initial = prior.icdf(jnp.float32(0.5))
        except NotImplementedError as error:
            raise ValueError(
                f"priors.hyper: numpyro has no quantiles of {type(prior).__name__}. Say where to start: initial=1.0."
            ) from error
    initial = jnp.asarray(initial, jnp.float32)
    if not isinstance(initial, jax.core.Tracer) and not bool(jnp.all(prior.support(initial))):
        raise ValueError(f"priors.hyper: initial={initial} is outside of the hyper-prior's support, {prior.support}.")
    loc = jnp.broadcast_to(biject_to(prior.support).inv(initial), shape or initial.shape)
    return Hyper(store(prior), loc, jnp.full(loc.shape, jnp.log(scale), jnp.float32))


class Horseshoe(FactorisedPrior):
    """Normal weights with half-Cauchy scales, one for each weight and one for each array. See `horseshoe`."""

    log_local: dict[str, Any]
    log_overall: dict[str, Any]
    log_scale: Any

    def distribution(self, path: str, array: Any) -> Distribution | None:
        """Normal(0, (scale · overall · local)²); `None` for arrays that are not under it."""
        if path not in self.log_local:
            return None
        return Normal(0.0, from_log(self.log_scale) * from_log(self.log_overall[path]) * from_log(self.log_local[path]))


def horseshoe(params: Any, *, scale: float = 1.0, paths: str = "*") -> Horseshoe:
    """The horseshoe: most weights near 0, and some as large as the data ask for.

        wᵢ ~ Normal(0, (scale · τ · λᵢ)²),   λᵢ ~ HalfCauchy(1),   τ ~ HalfCauchy(1),

    with one τ for each array, and one λᵢ for each weight. The scales have log-normal posteriors, fitted with the
    weights'; they double the number of learned values of the arrays under it.

    Args:
        params: the network's weights, `network.params`: the scales have their shapes.
        scale: of τ: how large the weights of an array are when most of them are at work.
        paths: a glob of the arrays that are under it; the prior is flat for others, so that it goes into a dict of
            priors by path under the same glob.

    Raises:
        ValueError: the glob matches no path.

    Reference:
        Carvalho, Polson and Scott (2010), The horseshoe estimator for sparse signals; Ghosh, Yao and Doshi-Velez
        (2018), Structured variational learning of Bayesian neural networks with horseshoe priors,
        https://arxiv.org/abs/1806.05975

    Example:
        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, bdl
        >>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
        >>> sparse = bdl.priors.horseshoe(params, paths="kernel")
        >>> prior = bdl.priors.by_path({"kernel": sparse, "bias": dist.Normal(0.0, 1.0)})
        >>> posterior = bdl.variational(params, bdl.families.normal())
        >>> bdl.kl(jax.random.key(0), posterior, prior).shape
        ()
    """
    arrays = named_leaves(params)
    match({paths: None}, arrays, "priors.horseshoe")
    under = {path: a.shape for path, a in arrays.items() if fnmatch.fnmatchcase(path, paths)}
    local = {path: to_log("scale", hyper(HalfCauchy(1.0), shape=shape)) for path, shape in under.items()}
    overall = {path: to_log("scale", hyper(HalfCauchy(1.0))) for path in under}
    return Horseshoe(local, overall, to_log("scale", scale))
