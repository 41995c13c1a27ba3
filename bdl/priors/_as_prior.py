"""What is taken for a prior."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
from numpyro.distributions import Distribution

from bdl._paths import named_leaves
from bdl.priors._base import FunctionPrior, Prior
from bdl.priors._by_path import ByPath, by_path
from bdl.priors._fan import fan_in
from bdl.priors._iid import iid


def as_prior(spec: Any = None, params: Any = None) -> Prior:
    """The prior that `spec` stands for.

    Args:
        spec: a prior; a numpyro distribution, of every weight independently; a dict of them by path glob; a function
            `log_prob(params) -> scalar` in nats; or `None` for `fan_in()`.
        params: the weights, whose paths the globs are checked against.

    Raises:
        ValueError: a glob matches no path of `params`.
        TypeError: `spec` is none of these.

    Example:
        >>> import numpyro.distributions as dist, bdl
        >>> bdl.priors.as_prior({"*/kernel": dist.Normal(0.0, 0.1)}).globs
        ('*/kernel',)
    """
    prior = _as_prior(spec)
    if isinstance(prior, ByPath) and params is not None:
        prior.check_paths(named_leaves(params))
    return prior


def _as_prior(spec: Any) -> Prior:
    if spec is None:
        return fan_in()
    if isinstance(spec, Distribution):
        return iid(spec)
    if isinstance(spec, Mapping):
        return by_path(spec)
    if isinstance(spec, eqx.Module) and hasattr(spec, "log_prob"):
        return spec
    if callable(spec) and not isinstance(spec, type):
        return FunctionPrior(spec)
    raise TypeError(
        "expected a prior, a numpyro distribution, a dict of them by path glob, or a function log_prob(params) -> "
        f"scalar, got {spec!r}."
    )
