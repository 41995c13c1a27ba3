"""Which parts of a posterior say nothing: collapsed to the prior, or to a point."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bdl._bind import is_bound
from bdl._family import is_family, mean_of
from bdl._keys import derive
from bdl._paths import stable_hash
from bdl.kl import has_density, is_proper, leaf_kl

# Below these an array is named. A mean-field Normal of half the prior's scale at the prior's mean is 0.32 nats a weight
# away from it; a network whose weights move by a thousandth of their size is an ordinary one.
_NATS, _SPREAD, _RATE = 0.01, 1e-3, 0.9
_DRAWS = 16


class Finding(NamedTuple):
    """What there is to say of one weight array.

    Attributes:
        path: where it is.
        verdict: "healthy", "collapsed to the prior", "collapsed to a point", "dropped", or "point" for a point mass.
        spread: the standard deviation over draws, relative to the root mean square of the weights.
        kl: nats per weight from the prior; `None` where that is not defined.
    """

    path: str
    verdict: str
    spread: float
    kl: float | None


class Health(NamedTuple):
    """The findings of a posterior; it prints as a table, the sick first."""

    findings: tuple[Finding, ...]

    @property
    def sick(self) -> tuple[str, ...]:
        """The paths of the arrays that collapsed."""
        return tuple(f.path for f in self.findings if f.verdict not in ("healthy", "point"))

    def __str__(self) -> str:
        cells = [("path", "verdict", "relative spread", "KL [nats a weight]")]
        for f in sorted(self.findings, key=lambda f: f.path not in self.sick):
            cells.append((f.path, f.verdict, f"{f.spread:.2g}", "" if f.kl is None else f"{f.kl:.3g}"))
        widths = [max(len(line[i]) for line in cells) for i in range(4)]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)


def health(posterior: Any, model: Any = None) -> Health:
    """Names the weight arrays whose posterior collapsed: to the prior, to a point, or to nothing.

    * Collapsed to the prior: less than 0.01 nats a weight from it. The data do not reach these weights, or the
      objective found it cheaper not to use them: common in wide layers under a mean field with an i.i.d. Normal(0, 1).
    * Collapsed to a point: draws differ by less than a thousandth of the weights' size. Predictions have no epistemic
      part from these weights; often a scale that started too small, too few steps, or a learned rate that went to 0.
    * Dropped: a rate of dropping above 0.9.

    Args:
        posterior: from `bdl.bind`, or a fitted one.
        model: gives the prior; without it only collapse to a point and dropping are seen.

    Raises:
        TypeError: the posterior has no tree of families.
        ValueError: the posterior has not seen the network.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> posterior = bdl.variational({"w": jnp.ones((3, 2))}, bdl.families.normal(scale=1e-6))
        >>> network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.ones((3, 2))})
        >>> posterior, model = bdl.bind(posterior, bdl.Model(network, bdl.likelihoods.Normal()), jnp.ones((1, 3)))
        >>> bdl.health(posterior, model).sick
        ('w',)
        >>> bdl.health(posterior, model).findings[0].verdict
        'collapsed to a point'
    """
    if not hasattr(posterior, "leaves"):
        raise TypeError(f"health: expected a posterior of `bdl.variational`, got {type(posterior).__name__}.")
    if not is_bound(posterior):
        raise ValueError(
            "health: the posterior has not seen the network. Take that of a fit, or call "
            "`posterior, model = bdl.bind(posterior, model, x)` first."
        )
    key = jax.random.key(stable_hash("health"))
    return Health(tuple(_finding(derive(key, path), path, leaf, model) for path, leaf in posterior.leaves.items()))


def _finding(key: Any, path: str, leaf: Any, model: Any) -> Finding:
    if not is_family(leaf):
        return Finding(path, "point", 0.0, None)
    spread = _relative_spread(key, leaf)
    kl = _nats_a_weight(key, path, leaf, model)
    if hasattr(leaf, "rate") and float(jnp.mean(leaf.rate)) > _RATE:
        verdict = "dropped"
    elif kl is not None and kl < _NATS:
        verdict = "collapsed to the prior"
    else:
        verdict = "collapsed to a point" if spread < _SPREAD else "healthy"
    return Finding(path, verdict, spread, kl)


def _relative_spread(key: Any, leaf: Any) -> float:
    if hasattr(leaf, "rate") and jnp.size(leaf.rate) == 1:
        # Var(w m) = w² p / (1 − p) and E[(w m)²] = w² / (1 − p); a few draws of a small rate may drop nothing.
        return float(jnp.mean(leaf.rate)) ** 0.5
    draws = jax.lax.map(lambda i: leaf.sample(derive(key, "draw", i)).astype(jnp.float32), jnp.arange(_DRAWS))
    deviation = draws.std(0, ddof=1)
    return float(jnp.sqrt((deviation**2).mean()) / jnp.sqrt((draws**2).mean() + jnp.finfo(jnp.float32).tiny))


def _nats_a_weight(key: Any, path: str, leaf: Any, model: Any) -> float | None:
    if model is None or not hasattr(model.prior, "distribution") or not has_density(leaf):
        return None
    array = mean_of(leaf)
    distribution = model.prior.distribution(path, array)
    if not is_proper(distribution):
        return None
    return float(leaf_kl(key, path, leaf, distribution, num_samples=_DRAWS)) / array.size
