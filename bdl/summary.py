"""A table of a posterior: what each weight array is, and what was learned about it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bdl._family import is_family, mean_of
from bdl._keys import derive
from bdl._paths import stable_hash
from bdl.kl import is_bound, leaf_kl


class Row(NamedTuple):
    """One weight array of a posterior.

    Attributes:
        path: where it is.
        shape: its shape.
        family: the name of its family, or "point".
        kl: its KL from the prior in nats, where a prior was given.
        detail: what says how much it moves: the median of |mean| / scale, or the dropout rate.
        noise: the rule that local noise uses for it, or why it has none and one draw is shared.
    """

    path: str
    shape: tuple[int, ...]
    family: str
    kl: float | None
    detail: str
    noise: str


class Summary(NamedTuple):
    """The rows of a posterior; it prints as a table."""

    rows: tuple[Row, ...]
    bound: bool | None

    def __str__(self) -> str:
        cells = [("path", "shape", "family", "KL [nats]", "", "noise")]
        for row in self.rows:
            kl = "" if row.kl is None else f"{row.kl:.1f}"
            cells.append((row.path, "×".join(map(str, row.shape)) or "scalar", row.family, kl, row.detail, row.noise))
        if self.bound is not None:
            total = sum(row.kl or 0.0 for row in self.rows)
            note = "" if self.bound else "no divergence: it has point masses, dropout or a flat prior; never rank by it"
            cells.append(("total", "", "", f"{total:.1f}", note, ""))
        widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)


def summary(posterior: Any, model: Any = None) -> Summary:
    """Per path: shape, family, KL in nats, signal-to-noise or rate, and whether local noise is possible.

    Args:
        posterior: as made by `bdl.variational`, or fitted. What is said of noise needs one that has seen the network:
            a fitted one, or one from `bdl.bind`.
        model: gives the prior for the KL; without it there is no such column.

    Raises:
        TypeError: the posterior has no tree of families.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> print(bdl.summary(bdl.variational({"w": jnp.ones((3, 2))}, bdl.families.bernoulli_dropout(rate=0.1))))
        path  shape  family            KL [nats]            noise
        w     3×2    BernoulliDropout             rate 0.1
    """
    if not hasattr(posterior, "leaves"):
        raise TypeError(f"summary: expected a posterior of `bdl.variational`, got {type(posterior).__name__}.")
    rows = tuple(_row(path, leaf, model) for path, leaf in posterior.leaves.items())
    return Summary(rows, None if model is None else is_bound(posterior, model.prior))


def _row(path: str, leaf: Any, model: Any) -> Row:
    array = mean_of(leaf)
    kl = None
    if model is not None and hasattr(model.prior, "distribution"):
        key = derive(jax.random.key(stable_hash("summary")), path)
        kl = float(leaf_kl(key, path, leaf, model.prior.distribution(path, array), num_samples=64))
    return Row(path, tuple(array.shape), _name(leaf), kl, _detail(leaf), _noise(leaf))


def _name(leaf: Any) -> str:
    return type(leaf).__name__ if is_family(leaf) else "point"


def _noise(leaf: Any) -> str:
    use = getattr(leaf, "use", None)
    if use is not None and use.shared:
        return f"shared: {use.shared}"
    if not hasattr(leaf, "local"):
        return "shared: the family has no local rule" if is_family(leaf) else ""
    known = use is not None or not hasattr(leaf, "bind")
    return getattr(leaf, "local_rule", "local") if known else ""


def _detail(leaf: Any) -> str:
    if hasattr(leaf, "keep"):
        return f"kept {100 * float(np.mean(leaf.keep)):.3g} %"
    if hasattr(leaf, "rate"):
        return f"rate {float(np.mean(leaf.rate)):.3g}"
    has_marginals = hasattr(leaf, "distribution")
    spread = jnp.sqrt(leaf.distribution.variance) if has_marginals else getattr(leaf, "scale", None)
    if spread is not None:
        ratio = jnp.median(jnp.abs(leaf.mean.astype(jnp.float32)) / spread)
        return f"median |mean| / scale {float(ratio):.3g}"
    return ""
