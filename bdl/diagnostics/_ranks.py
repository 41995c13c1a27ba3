"""Rank statistics: whether they are uniform, and how they bend where they are not."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bdl._data_checks import is_traced
from bdl.diagnostics import _checks

_RANKS = "the simulations along axis 0"


class EcdfDifference(eqx.Module):
    """How far the ranks' distribution function is from the uniform one.

    Attributes:
        levels: z = (r + 1) / (L + 1) for the ranks r = 0, …, L, [L + 1].
        difference: the share of ranks of at most r, less z, [L + 1, ...]. For draws too narrow (ranks in a ∪) it rises
            first and falls then; for draws too wide it falls first.
        band: the half-width that the whole curve stays within with probability `coverage` where ranks are uniform.
    """

    levels: jax.Array
    difference: jax.Array
    band: float = eqx.field(static=True)


class Bend(eqx.Module):
    """Two ways in which ranks are not uniform, in standard errors of uniform ones: about Normal(0, 1) where they are.

    Attributes:
        dispersion: above 0 the ranks are in a ∪, the draws too narrow (over-confident); below 0 in a ∩, too wide.
        shift: above 0 the ranks are high, the draws too low; below 0 the draws are too high.
    """

    dispersion: jax.Array
    shift: jax.Array


def uniformity(ranks: Any, num_samples: int, *, num_bins: int | None = None) -> jax.Array:
    """The p-value of the χ² test that ranks are uniform (small: they are not).

    χ² = Σ_b (n_b − e_b)² / e_b with the counts expected of the bins, which may hold different numbers of ranks.

    Args:
        ranks: [I, ...], integers in 0, …, L; each column by itself.
        num_samples: L, the draws that each was ranked among.
        num_bins: B ≤ L + 1; `None` for at most 20, such that five or more ranks are expected in each.

    Returns:
        [...], float32.

    Raises:
        ValueError: ranks that are not in 0, …, L, fewer than ten of them, or a bad number of bins.

    Example:
        >>> import numpy as np, bdl.diagnostics
        >>> even = np.arange(100) % 10
        >>> float(bdl.diagnostics.uniformity(even, 9)), float(bdl.diagnostics.uniformity(even // 2, 9)) < 1e-6
        (1.0, True)
    """
    ranks = _ranks("uniformity", ranks, num_samples)
    count = ranks.shape[0]
    if count < 10:
        raise ValueError(f"uniformity: {count} ranks are too few for a test. Simulate ten times at the very least.")
    if num_bins is None:
        num_bins = min(20, num_samples + 1, count // 5)
    elif not 2 <= _checks.whole("uniformity", "num_bins", num_bins, 2) <= num_samples + 1:
        raise ValueError(f"uniformity: expected at most {num_samples + 1} bins, one for each rank, got {num_bins}.")
    return _uniformity(ranks, num_samples, num_bins)


def ecdf_difference(ranks: Any, num_samples: int, *, coverage: float = 0.95) -> EcdfDifference:
    """The distribution function of ranks less that of uniform ones, for a picture.

    The band is that of Dvoretzky, Kiefer and Wolfowitz, √(log(2 / (1 − coverage)) / (2 I)): it holds for the whole
    curve at once, and is wider than it need be at the ends.

    Args:
        ranks: [I, ...], integers in 0, …, L.
        num_samples: L.
        coverage: of the band.

    Raises:
        ValueError: ranks that are not in 0, …, L, or a coverage that is not in (0, 1).

    Reference:
        Säilynoja, Bürkner and Vehtari (2022), Graphical test for discrete uniformity and its applications in
        goodness-of-fit evaluation, https://arxiv.org/abs/2103.10522

    Example:
        >>> import numpy as np, bdl.diagnostics
        >>> bdl.diagnostics.ecdf_difference(np.array([0, 0, 3, 3]), 3).difference.tolist()
        [0.25, 0.0, -0.25, 0.0]
    """
    ranks = _ranks("ecdf_difference", ranks, num_samples)
    if not 0 < coverage < 1:
        raise ValueError(f"ecdf_difference: expected coverage in (0, 1), such as 0.95; got {coverage}.")
    levels, difference = _ecdf(ranks, num_samples)
    return EcdfDifference(levels, difference, float(np.sqrt(np.log(2 / (1 - coverage)) / (2 * ranks.shape[0]))))


def bend(ranks: Any, num_samples: int) -> Bend:
    """How ranks bend: with u = (rank + ½) / (L + 1) the means of (2u − 1)² and of 2u − 1, in standard errors.

    Args:
        ranks: [I, ...], integers in 0, …, L.
        num_samples: L.

    Returns:
        `Bend(dispersion, shift)`, of the shape [...].

    Raises:
        ValueError: ranks that are not in 0, …, L.

    Example:
        >>> import numpy as np, bdl.diagnostics
        >>> found = bdl.diagnostics.bend(np.array([0, 9] * 50), 9)
        >>> bool(found.dispersion > 5), float(found.shift)
        (True, 0.0)
    """
    return Bend(*_bend(_ranks("bend", ranks, num_samples), num_samples))


def _ranks(name: str, ranks: Any, num_samples: int) -> jax.Array:
    _checks.whole(name, "num_samples", num_samples, 1)
    if np.ndim(ranks) < 1 or 0 in np.shape(ranks) or not jnp.issubdtype(jnp.result_type(ranks), np.integer):
        raise ValueError(
            f"{name}: expected integer ranks with {_RANKS}, got {jnp.result_type(ranks)}{list(np.shape(ranks))}."
        )
    if not is_traced(ranks) and (np.min(ranks) < 0 or np.max(ranks) > num_samples):
        raise ValueError(
            f"{name}: expected ranks in 0, …, {num_samples} among {num_samples} draws, got numbers from "
            f"{np.min(ranks)} to {np.max(ranks)}. num_samples is the number of draws, not that of simulations."
        )
    return jnp.asarray(ranks).astype(jnp.int32)


@functools.partial(jax.jit, static_argnames=("num_samples", "num_bins"))
def _uniformity(ranks: jax.Array, num_samples: int, num_bins: int) -> jax.Array:
    bin_of = np.arange(num_samples + 1) * num_bins // (num_samples + 1)
    expected = jnp.asarray(ranks.shape[0] * np.bincount(bin_of) / (num_samples + 1), jnp.float32)

    def one(column: jax.Array) -> jax.Array:
        counts = jnp.zeros(num_bins, jnp.int32).at[jnp.asarray(bin_of, jnp.int32)[column]].add(1)
        chi2 = ((counts.astype(jnp.float32) - expected) ** 2 / expected).sum()
        return jax.scipy.special.gammaincc(jnp.float32((num_bins - 1) / 2), chi2 / 2)

    found = jax.vmap(one)(ranks.reshape(ranks.shape[0], -1).T).reshape(ranks.shape[1:])
    return jnp.where((ranks < 0).any(0), jnp.nan, found)


@functools.partial(jax.jit, static_argnames="num_samples")
def _ecdf(ranks: jax.Array, num_samples: int) -> tuple[jax.Array, jax.Array]:
    levels = jnp.arange(1, num_samples + 2, dtype=jnp.float32) / (num_samples + 1)

    def one(column: jax.Array) -> jax.Array:
        counts = jnp.zeros(num_samples + 1, jnp.int32).at[column].add(1)
        return jnp.cumsum(counts).astype(jnp.float32) / column.shape[0] - levels

    difference = jax.vmap(one, out_axes=1)(ranks.reshape(ranks.shape[0], -1).T)
    return levels, difference.reshape(num_samples + 1, *ranks.shape[1:])


@functools.partial(jax.jit, static_argnames="num_samples")
def _bend(ranks: jax.Array, num_samples: int) -> tuple[jax.Array, jax.Array]:
    # The moments of 2u − 1 for a uniform rank, which is discrete.
    v = (2 * np.arange(num_samples + 1) + 1) / (num_samples + 1) - 1
    second, fourth = np.mean(v**2), np.mean(v**4)
    centred = (2 * ranks + 1).astype(jnp.float32) / (num_samples + 1) - 1
    root = np.sqrt(ranks.shape[0])
    dispersion = ((centred**2).mean(0) - float(second)) * float(root / np.sqrt(fourth - second**2))
    # Whole numbers, whose sum has no error: Σ (2 rank − L) / ((L + 1) I)
    mean = (2 * ranks - num_samples).sum(0).astype(jnp.float32) / ((num_samples + 1) * ranks.shape[0])
    shift = mean * float(root / np.sqrt(second))
    return dispersion, shift
