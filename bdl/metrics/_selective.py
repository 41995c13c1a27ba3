"""Selective prediction: the error of what is left when the most uncertain predictions are not made."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bdl._data_checks import is_traced
from bdl.metrics._checks import values
from bdl.metrics._ranking import MASKED, has_nan, last_of_ties, ordered, previous

# What all of them take: keys of the uncertainty in ascending order, and the losses in that order.
_Sorted = tuple[jax.Array, jax.Array]


def risk_coverage(uncertainty: Any, losses: Any, *, mask: Any = None) -> tuple[jax.Array, jax.Array]:
    """The risk, the mean loss of the k most certain predictions, over the coverage k / N.

    Examples of equal uncertainty count with their mean loss, which is the expectation over their order. It takes all
    examples at once.

    Args:
        uncertainty: [...], higher for what is less certain: an entropy, a variance, or −max p.
        losses: [...], 0 and 1 for correct and wrong, or any losses.
        mask: bool [...], True where an example counts.

    Returns:
        Coverage and risk, float32 [N], k = 1, …, N of the examples that count. Under a trace with a mask both have the
        size of the mask, and the last point stands repeated at the end.

    Raises:
        ValueError: shapes that do not match, numbers that are not finite, no example.

    Reference:
        El-Yaniv and Wiener (2010), On the foundations of noise-free selective classification,
        https://jmlr.org/papers/v11/el-yaniv10a.html

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> coverage, risk = bdl.metrics.risk_coverage(jnp.array([0.3, 0.1, 0.2, 0.4]), jnp.array([1, 0, 0, 1]))
        >>> coverage, risk.round(3)
        (Array([0.25, 0.5 , 0.75, 1.  ], dtype=float32), Array([0.   , 0.   , 0.333, 0.5  ], dtype=float32))
    """
    coverage, risk = _risk_coverage(_by_uncertainty("risk_coverage", uncertainty, losses, mask))
    kept = coverage.size if mask is None or is_traced((coverage, mask)) else int(np.sum(mask))
    return coverage[:kept], risk[:kept]


def aurc(uncertainty: Any, losses: Any, *, mask: Any = None) -> jax.Array:
    """The area under risk and coverage, AURC (lower is better, in the losses' unit):

        AURC = (1/N) Σₖ Rₖ,  Rₖ the mean loss of the k most certain predictions.

    That of a constant uncertainty is the mean loss. It takes all examples at once: it is no mean over batches.

    Args:
        uncertainty: [...], higher for what is less certain.
        losses: [...], 0 and 1 for correct and wrong, or any losses.
        mask: bool [...], True where an example counts.

    Returns:
        A number, float32. Under a trace it is NaN where a number is NaN.

    Raises:
        ValueError: shapes that do not match, numbers that are not finite, no example.

    Reference:
        Geifman, Uziel and El-Yaniv (2019), Bias-reduced uncertainty estimation for deep neural classifiers,
        https://arxiv.org/abs/1805.08206

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> round(float(bdl.metrics.aurc(jnp.array([0.3, 0.1, 0.2, 0.4]), jnp.array([1, 0, 0, 1]))), 4)
        0.2083
    """
    return _aurc(_by_uncertainty("aurc", uncertainty, losses, mask))


def excess_aurc(uncertainty: Any, losses: Any, *, mask: Any = None) -> jax.Array:
    """AURC less that of the best order, the one by the losses (lower is better, at least 0, in the losses' unit).

    The best is that of these losses, and not its limit for many, e + (1 − e) log(1 − e) at an error rate of e.
    Arguments and errors are those of `aurc`.

    Reference:
        Geifman, Uziel and El-Yaniv (2019), https://arxiv.org/abs/1805.08206

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> round(float(bdl.metrics.excess_aurc(jnp.array([0.4, 0.1, 0.2, 0.3]), jnp.array([1, 0, 1, 0]))), 4)
        0.125
    """
    return _excess(*_both_orders("excess_aurc", uncertainty, losses, mask))


def augrc(uncertainty: Any, losses: Any, *, mask: Any = None) -> jax.Array:
    """The area under generalised risk and coverage, AUGRC (lower is better, in the losses' unit):

        ∫ G(c) dc,  G(k / N) = (1/N) Σ of the k lowest-ranked losses, linear in between.

    The generalised risk counts what is accepted and wrong, over all examples. For losses of 0 and 1, with the error
    rate e and the AUROC of the uncertainty as a detector of errors, AUGRC = (1 − AUROC) e (1 − e) + ½ e². Arguments
    and errors are those of `aurc`.

    Reference:
        Traub et al. (2024), Overcoming common flaws in the evaluation of selective classification systems,
        https://arxiv.org/abs/2407.01032

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> bdl.metrics.augrc(jnp.array([0.3, 0.1, 0.2, 0.4]), jnp.array([1, 0, 0, 1]))
        Array(0.125, dtype=float32)
    """
    return _augrc(_by_uncertainty("augrc", uncertainty, losses, mask))


def coverage_at_risk(uncertainty: Any, losses: Any, *, risk: float = 0.05, mask: Any = None) -> jax.Array:
    """The largest coverage of a threshold on the uncertainty with at most this risk (higher is better, in [0, 1]).

    Ties are accepted or rejected together. It is 0 where even the most certain predictions have a larger risk. It is
    measured on these examples: for a guarantee on new ones the threshold must come from others.

    Args:
        uncertainty: [...], higher for what is less certain.
        losses: [...], 0 and 1 for correct and wrong, or any losses.
        risk: the mean loss that is accepted.
        mask: bool [...], True where an example counts.

    Returns:
        A number, float32. Under a trace it is NaN where a number is NaN.

    Raises:
        ValueError: shapes that do not match, numbers that are not finite, no example.

    Reference:
        Geifman and El-Yaniv (2017), Selective classification for deep neural networks, https://arxiv.org/abs/1705.08500

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> bdl.metrics.coverage_at_risk(jnp.array([0.3, 0.1, 0.2, 0.4]), jnp.array([1, 0, 0, 1]), risk=0.4)
        Array(0.75, dtype=float32)
    """
    if not np.isfinite(risk):
        raise ValueError(f"coverage_at_risk: expected a finite risk, got {risk}. 5 % of errors is risk=0.05.")
    return _coverage_at_risk(_by_uncertainty("coverage_at_risk", uncertainty, losses, mask), np.float32(risk))


def sparsification_error(
    uncertainty: Any, losses: Any, *, root: bool = False, relative: bool = True, mask: Any = None
) -> jax.Array:
    """The area between sparsification by the uncertainty and by the losses, AUSE (lower is better, at least 0):

        (1/N) Σₖ [Eₖ(uncertainty) − Eₖ(losses)] / Eₙ,

    Eₖ the mean loss of the k that are left when the last in that order are removed. It takes all examples at once.

    Args:
        uncertainty: [...], higher for what is less certain: a variance or a standard deviation.
        losses: [...], absolute errors, or with `root` squared ones.
        root: take the root of the means, so that Eₖ is an RMSE.
        relative: divide by the error of all, Eₙ, so that there is no unit; else it is that of Eₖ.
        mask: bool [...], True where an example counts.

    Returns:
        A number, float32. Under a trace it is NaN where a number is NaN, or all losses are 0 and it is relative.

    Raises:
        ValueError: shapes that do not match, numbers that are not finite, negative losses, no example; losses that are
            all 0, where it is relative.

    Reference:
        Ilg et al. (2018), Uncertainty estimates and multi-hypotheses networks for optical flow,
        https://arxiv.org/abs/1802.07095

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> uncertainty, errors = jnp.array([0.1, 0.3, 0.2, 0.4]), jnp.array([0.0, 1.0, 2.0, 1.0])
        >>> round(float(bdl.metrics.sparsification_error(uncertainty, errors)), 4)
        0.2083
    """
    by_uncertainty, by_loss = _both_orders("sparsification_error", uncertainty, losses, mask)
    if not is_traced(by_loss):
        if np.min(by_loss[1]) < 0:
            raise ValueError(
                f"sparsification_error: expected losses of at least 0, got {np.min(by_loss[1]):.4g}. Pass "
                "jnp.abs(mean - targets), or squares of it with root=True."
            )
        if relative and not np.any(by_loss[1]):
            raise ValueError(
                "sparsification_error: all losses are 0, to which nothing is relative. Pass relative=False."
            )
    return _sparsification(by_uncertainty, by_loss, root, relative)


def _by_uncertainty(name: str, uncertainty: Any, losses: Any, mask: Any) -> _Sorted:
    uncertainty, losses, weights = _flat(name, uncertainty, losses, mask)
    return ordered(uncertainty, losses, weights)


def _both_orders(name: str, uncertainty: Any, losses: Any, mask: Any) -> tuple[_Sorted, _Sorted]:
    uncertainty, losses, weights = _flat(name, uncertainty, losses, mask)
    return ordered(uncertainty, losses, weights), ordered(losses, losses, weights)


def _flat(name: str, uncertainty: Any, losses: Any, mask: Any) -> tuple[jax.Array, ...]:
    arrays = values(name, uncertainty, losses, mask=mask, names=("uncertainty", "losses"))
    return tuple(array.reshape(-1) for array in arrays)


class _Accepted(eqx.Module):
    """Sums over the k most certain predictions, k = 1, …, N; after the last that counts they stay as they are.

    Attributes:
        count: [N], k, float32; NaN where an uncertainty is NaN.
        losses: [N], the sum of their losses.
        threshold: [N] bool, whether the next one's uncertainty is a larger one.
        counts: [N] bool, whether there are so many.
    """

    count: jax.Array
    losses: jax.Array
    threshold: jax.Array
    counts: jax.Array

    @property
    def risk(self) -> jax.Array:
        return self.losses / self.count

    def mean(self, of: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(self.counts, of, 0.0)) / self.count[-1]


def _accepted(ordered_losses: _Sorted) -> _Accepted:
    keys, losses = ordered_losses
    counts, last = keys != MASKED, last_of_ties(keys)
    total, index = jnp.cumsum(losses), jnp.arange(keys.size, dtype=jnp.int32)
    start = previous(last)
    end = lax.cummin(jnp.where(last, index, jnp.int32(keys.size)), reverse=True)
    # Among ties k₀ < k ≤ k₁ the sum is L₀ + (L₁ − L₀) (k − k₀) / (k₁ − k₀).
    below = jnp.where(start >= 0, total[start], 0.0)
    share = (index - start).astype(jnp.float32) / (end - start).astype(jnp.float32)
    count = jnp.minimum(index + 1, jnp.sum(counts, dtype=jnp.int32)).astype(jnp.float32)
    count = jnp.where(has_nan(keys), jnp.nan, count)
    return _Accepted(count, below + (total[end] - below) * share, last & counts, counts)


@jax.jit
def _risk_coverage(by_uncertainty: _Sorted) -> tuple[jax.Array, jax.Array]:
    accepted = _accepted(by_uncertainty)
    return accepted.count / accepted.count[-1], accepted.risk


@jax.jit
def _aurc(by_uncertainty: _Sorted) -> jax.Array:
    accepted = _accepted(by_uncertainty)
    return accepted.mean(accepted.risk)


@jax.jit
def _excess(by_uncertainty: _Sorted, by_loss: _Sorted) -> jax.Array:
    accepted, best = _accepted(by_uncertainty), _accepted(by_loss)
    return accepted.mean(accepted.risk - best.risk)


@jax.jit
def _augrc(by_uncertainty: _Sorted) -> jax.Array:
    accepted = _accepted(by_uncertainty)
    before = jnp.concatenate([jnp.zeros(1), accepted.losses[:-1]])
    # Trapezia, which are exact for what is linear in between.
    return accepted.mean(0.5 * (before + accepted.losses) / accepted.count[-1])


@jax.jit
def _coverage_at_risk(by_uncertainty: _Sorted, risk: jax.Array) -> jax.Array:
    accepted = _accepted(by_uncertainty)
    # A risk like 0.1 is no float32: what is within its rounding is not above it.
    allowed = risk + jnp.abs(risk) * 2**-22
    kept = accepted.threshold & (accepted.risk <= allowed)
    coverage = jnp.max(jnp.where(kept, accepted.count, 0.0)) / accepted.count[-1]
    return jnp.where(jnp.isnan(accepted.losses[-1]), jnp.nan, coverage)


@functools.partial(jax.jit, static_argnames=("root", "relative"))
def _sparsification(by_uncertainty: _Sorted, by_loss: _Sorted, root: bool, relative: bool) -> jax.Array:
    accepted, best = _accepted(by_uncertainty), _accepted(by_loss)
    error, least = (jnp.sqrt(a.risk) if root else a.risk for a in (accepted, best))
    return accepted.mean(error - least) / (error[-1] if relative else 1.0)
