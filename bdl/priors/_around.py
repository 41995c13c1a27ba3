"""Weights around those of an earlier training."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from numpyro.distributions import Distribution, Normal

from bdl._family import is_family
from bdl._hyper import Hyper
from bdl._learned import Learned
from bdl._paths import named_leaves
from bdl._positive import from_log, to_log
from bdl.networks._base import as_params
from bdl.priors._base import FactorisedPrior, broadcasts
from bdl.priors._stored import Stored, store


class Around(FactorisedPrior):
    """Weights around those of an earlier training. See `around`."""

    centres: dict[str, jax.Array]
    log_scale: jax.Array | Learned | Hyper | None
    stored: dict[str, Stored]

    @property
    def scale(self) -> jax.Array | None:
        """The standard deviation around plain arrays."""
        return None if self.log_scale is None else from_log(self.log_scale)

    def distribution(self, path: str, array: Any) -> Distribution:
        """The distribution of the array at `path`.

        Raises:
            ValueError: what was trained has no array at this path, or one of another shape.
        """
        if path in self.stored:
            found = self.stored[path].rebuild()
        elif path in self.centres:
            found = Normal(self.centres[path], self.scale)
        else:
            known = ", ".join(sorted((*self.centres, *self.stored)))
            raise ValueError(
                f"priors.around: there is no {path!r} in what was trained; its paths are {known}. Give new layers a "
                'prior of their own: {"head/*": bdl.priors.fan_in(), "*": bdl.priors.around(...)}.'
            )
        if not broadcasts(found.batch_shape, tuple(array.shape)):
            raise ValueError(
                f"priors.around: {path!r} has shape {tuple(array.shape)}, but what was trained has {found.batch_shape} "
                "there. Give a layer of another size a prior of its own, as for a new one, by its path."
            )
        return found


def around(trained: Any, scale: Any = None) -> Around:
    """A prior around an earlier training: around a network's weights, or the posterior of other data itself.

    Transfer learning: given weights w₀, the prior is Normal(w₀, scale²) for each weight. New layers, and those that are
    to forget, have priors of their own by path.

    Continual learning: given a posterior q(w) of earlier data, the prior is q, with its numbers fixed. By Bayes' rule
    p(w | A, B) ∝ p(B | w) p(w | A), so training on B after A is training on both, as far as q is the posterior of A.
    Point masses have no width, and take `scale`.

    Args:
        trained: the weights, nested dicts of arrays such as `network.params`; or a `bdl.posteriors.Factorised` such as
            `fitted.posterior`, whose families have a `distribution` of independent entries.
        scale: the standard deviation around arrays and point masses; fixed, or `bdl.learned(...)`.

    Raises:
        ValueError: there are arrays or point masses and no `scale`, or it is not positive.
        TypeError: `trained` is neither, or a family has no distribution or one of dependent entries.

    Reference:
        Nguyen et al. (2018), Variational continual learning, https://arxiv.org/abs/1710.10628

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.ones((3, 1))})
        >>> prior = bdl.priors.around(network.params, scale=0.1)
        >>> prior.distribution("w", network.params["w"]).loc.ravel()
        Array([1., 1., 1.], dtype=float32)
        >>> first = bdl.variational(network.params, bdl.families.normal(scale=0.1))
        >>> float(bdl.kl(jax.random.key(0), first, bdl.priors.around(first)))
        0.0
    """
    leaves = _leaves(trained)
    families = {path: leaf for path, leaf in leaves.items() if is_family(leaf)}
    centres = {path: jnp.asarray(leaf, jnp.float32) for path, leaf in leaves.items() if path not in families}
    if centres and scale is None:
        raise ValueError(
            f"priors.around: {', '.join(centres)} are plain arrays, which say where weights are but not how far from "
            "there they may be. Give `scale`, a standard deviation."
        )
    stored = {path: _store(path, family) for path, family in families.items()}
    return Around(centres, None if scale is None else to_log("scale", scale), stored)


def _leaves(trained: Any) -> dict[str, Any]:
    if hasattr(trained, "leaves"):
        return dict(trained.leaves)
    if isinstance(trained, Mapping):
        return named_leaves(as_params(trained))
    raise TypeError(
        "priors.around: expected nested dicts of arrays, or a posterior made of families, got "
        f"{type(trained).__name__}. Of another posterior take the mean weights and a scale: "
        "around(params, scale=...)."
    )


def _store(path: str, family: Any) -> Stored:
    name, reason = type(family).__name__, ""
    if hasattr(family, "total_correlation"):
        reason = "has dependent entries, and a prior takes them as independent"
    elif not hasattr(family, "distribution"):
        reason = "has no `distribution`"
    if reason:
        raise TypeError(
            f"priors.around: the family {name} of {path!r} {reason}. Put the prior around its mean with a scale, "
            "around(posterior.mean, scale=...), or train with a family such as `bdl.families.normal()`."
        )
    return store(family.distribution)
