"""Pruning: weights that are noise to the posterior become exactly zero."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from bdl._family import is_family
from bdl._paths import map_named, match
from bdl.families._pruned import Pruned

_SIGNAL_TO_NOISE = math.exp(-1.5)  # log alpha = −2 log(|m| / σ) > 3, the threshold of Molchanov et al.


class Row(NamedTuple):
    """What was kept of one array: its path, how many weights are kept, how many there were."""

    path: str
    kept: int
    total: int


class Pruning(NamedTuple):
    """The result of `prune`; it prints as a table.

    Attributes:
        posterior: the pruned posterior.
        rows: what was kept of each array that was pruned. Arrays that were not (point masses) are not counted.
    """

    posterior: Any
    rows: tuple[Row, ...]

    @property
    def kept(self) -> int:
        """The number of weights that are kept."""
        return sum(row.kept for row in self.rows)

    @property
    def total(self) -> int:
        """The number of weights of the arrays that were pruned."""
        return sum(row.total for row in self.rows)

    @property
    def compression(self) -> float:
        """The ratio total / kept; infinite where nothing is kept."""
        return self.total / self.kept if self.kept else math.inf

    def __str__(self) -> str:
        cells = [("path", "kept", "of", "")]
        for path, kept, total in (*self.rows, ("total", self.kept, self.total)):
            cells.append((path, f"{kept:,}", f"{total:,}", f"{100 * kept / total:.2f} %"))
        widths = [max(len(line[i]) for line in cells) for i in range(4)]
        lines = [
            "  ".join((path.ljust(widths[0]), *(c.rjust(w) for c, w in zip(rest, widths[1:], strict=True)))).rstrip()
            for path, *rest in cells
        ]
        return "\n".join([*lines, f"compression {self.compression:.4g}"])


def prune(
    posterior: Any,
    *,
    signal_to_noise: float | None = None,
    fraction: float | None = None,
    paths: str | Sequence[str] | None = None,
) -> Pruning:
    """Set the weights with the least |E[w]| / sd[w], their signal-to-noise ratio, to exactly zero.

    The others keep their uncertainty. It is for a fitted posterior, outside of `jit`.

    Args:
        posterior: as made by `bdl.variational`, and fitted.
        signal_to_noise: weights below this ratio are pruned. `None` is exp(−1.5): log alpha > 3 of
            `families.sparse_dropout`.
        fraction: instead, prune this fraction of the weights of all arrays together, those with the least ratios.
        paths: glob or globs of the arrays to prune; `None` for all whose family has a `scale`.

    Returns:
        `Pruning(posterior, rows)`, with `kept`, `total` and `compression`; printed, it is a table. The posterior serves
        `predict` and all that draws.

    Raises:
        ValueError: both `signal_to_noise` and `fraction` are given, or one is out of range; a glob matches no path, or
            an array without a scale (a point mass, dropout); nothing can be pruned.
        TypeError: the posterior has no tree of families.

    Reference:
        Blundell et al. (2015), Weight uncertainty in neural networks, https://arxiv.org/abs/1505.05424; Molchanov,
        Ashukha and Vetrov (2017), Variational dropout sparsifies deep neural networks,
        https://arxiv.org/abs/1701.05369

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> params = {"w": jnp.array([[3.0, -0.1], [0.2, -2.0]])}
        >>> print(bdl.prune(bdl.variational(params, bdl.families.normal(scale=1.0))))
        path   kept  of
        w         2   4  50.00 %
        total     2   4  50.00 %
        compression 2
    """
    if not hasattr(posterior, "leaves"):
        raise TypeError(f"prune: expected a posterior of `bdl.variational`, got {type(posterior).__name__}.")
    ratios = {path: _signal_to_noise(leaf) for path, leaf in _chosen(posterior, paths).items()}
    keep = _keep(ratios, signal_to_noise, fraction)

    def pruned(path: str, leaf: Any) -> Any:
        if path not in keep:
            return leaf
        family = leaf.family if isinstance(leaf, Pruned) else leaf
        return Pruned(family, jnp.asarray(keep[path], jnp.float32))

    tree = map_named(pruned, posterior.tree, is_leaf=is_family)
    rows = tuple(Row(path, int(kept.sum()), kept.size) for path, kept in keep.items())
    return Pruning(dataclasses.replace(posterior, tree=tree), rows)


def _chosen(posterior: Any, paths: str | Sequence[str] | None) -> dict[str, Any]:
    leaves = posterior.leaves
    has_scale = {path for path, leaf in leaves.items() if is_family(leaf) and hasattr(leaf, "scale")}
    if not has_scale:
        raise ValueError(
            "prune: no array of this posterior has a scale to compare its mean with. Take a family with one, such as "
            "`bdl.families.normal()` or `bdl.families.sparse_dropout()`."
        )
    if paths is None:
        return {path: leaves[path] for path in leaves if path in has_scale}
    globs = [paths] if isinstance(paths, str) else list(paths)
    found = match(dict.fromkeys(globs, True), leaves, "prune")
    for path in found:
        if path not in has_scale:
            kind = type(leaves[path]).__name__ if is_family(leaves[path]) else "a point mass"
            raise ValueError(
                f"prune: {path!r} is {kind}, which has no scale to compare its mean with. Name arrays whose family has "
                f"one in `paths`: {', '.join(sorted(has_scale))}."
            )
    return {path: leaves[path] for path in found}


def _signal_to_noise(leaf: Any) -> np.ndarray:
    mean = np.abs(np.asarray(leaf.mean, np.float32))
    scale = np.broadcast_to(np.asarray(leaf.scale, np.float32), mean.shape)
    # A weight pruned before has neither; a sure one has no noise.
    sure = np.where(mean > 0, np.float32(np.inf), np.float32(0))
    return np.divide(mean, scale, out=sure, where=scale > 0)


def _keep(ratios: dict[str, np.ndarray], threshold: float | None, fraction: float | None) -> dict[str, np.ndarray]:
    if fraction is None:
        threshold = _SIGNAL_TO_NOISE if threshold is None else threshold
        if not threshold > 0:
            raise ValueError(f"prune: expected a positive signal_to_noise, got {threshold}.")
        return {path: ratio >= threshold for path, ratio in ratios.items()}
    if threshold is not None:
        raise ValueError("prune: `signal_to_noise` and `fraction` are two ways to say how much to prune. Give one.")
    if not 0 <= fraction < 1:
        raise ValueError(f"prune: expected a fraction of the weights in [0, 1), got {fraction}.")
    together = np.concatenate([ratio.ravel() for ratio in ratios.values()])
    kept = np.ones(together.size, bool)
    kept[np.argsort(together, kind="stable")[: round(fraction * together.size)]] = False
    ends = np.cumsum([ratio.size for ratio in ratios.values()])[:-1]
    parts = np.split(kept, ends)
    return {path: part.reshape(ratios[path].shape) for path, part in zip(ratios, parts, strict=True)}
