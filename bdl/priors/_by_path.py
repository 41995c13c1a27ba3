"""Different priors for different parts of a network."""

import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any

import equinox as eqx
import jax
from numpyro.distributions import Distribution

from bdl._paths import match, named_leaves
from bdl.networks._use import Use
from bdl.priors._base import FactorisedPrior, sum_log_prob
from bdl.priors._iid import iid


class ByPath(eqx.Module):
    """Priors by glob. See `by_path`."""

    globs: tuple[str, ...] = eqx.field(static=True)
    priors: tuple[FactorisedPrior, ...]

    def distribution(self, path: str, array: Any) -> Distribution | None:
        """The distribution of the array at `path`, by the first glob that matches; `None` where none does."""
        return self.at(path).distribution(path, array)

    def at(self, path: str) -> FactorisedPrior:
        """The prior of the array at `path`, by the first glob that matches; flat where none does."""
        for glob, prior in zip(self.globs, self.priors, strict=True):
            if fnmatch.fnmatchcase(path, glob):
                return prior
        return Flat()

    @property
    def bound(self) -> bool:
        """Whether each of its priors is bound."""
        return all(getattr(prior, "bound", True) for prior in self.priors)

    def log_prob(self, params: Any) -> jax.Array:
        """The log-density log p(w), in nats, of all arrays that a glob matches.

        Raises:
            ValueError: a glob matches no path.
        """
        self.check_paths(named_leaves(params))
        return sum_log_prob(self, params)

    def bind(self, uses: dict[str, Use]) -> "ByPath":
        """The same with each of its priors bound."""
        return ByPath(self.globs, tuple(prior.bind(uses) for prior in self.priors))

    def check_paths(self, paths: Iterable[str]) -> None:
        """Raises a ValueError that lists the paths where a glob matches none of them."""
        match(dict.fromkeys(self.globs), paths, "prior")


class Flat(FactorisedPrior):
    """A flat prior. See `flat`."""

    def distribution(self, path: str, array: Any) -> None:
        """`None`: no distribution, and no contribution to log p(w)."""
        del path, array


def by_path(globs: Mapping[str, Any]) -> ByPath:
    """Different priors for different arrays: the first glob, in the mapping's order, that matches an array's path.

    Globs are `fnmatch` on `a/b/c`, so `*` crosses `/`. Arrays that no glob matches have a flat prior.

    Args:
        globs: numpyro distributions or priors of this module (`fan_in()`, `flat()`, ...) by glob.

    Raises:
        TypeError: a value is neither; a function is a prior of the whole network only.

    Example:
        >>> import jax.numpy as jnp, numpyro.distributions as dist, bdl
        >>> prior = bdl.priors.by_path({"head/*": dist.Laplace(0.0, 1.0), "*/kernel": bdl.priors.fan_in()})
        >>> prior.distribution("head/kernel", jnp.zeros((50, 1)))  # doctest: +ELLIPSIS
        <numpyro.distributions.continuous.Laplace object at ...
    """
    return ByPath(tuple(globs), tuple(_arraywise(glob, spec) for glob, spec in globs.items()))


def flat() -> Flat:
    """No prior: log p(w) = 0. The weights' posterior may then be improper, and no objective bounds the evidence.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> bdl.priors.flat().log_prob({"w": jnp.ones(3)})
        Array(0., dtype=float32)
    """
    return Flat()


def _arraywise(glob: str, spec: Any) -> Any:
    if isinstance(spec, Distribution):
        return iid(spec)
    if hasattr(spec, "distribution") and hasattr(spec, "bind"):
        return spec
    raise TypeError(
        f"the prior of {glob!r} must be a numpyro distribution or a prior with one for each array, such as "
        f"priors.fan_in() or priors.flat(), got {spec!r}. A function is the prior of the whole network: pass it alone."
    )
