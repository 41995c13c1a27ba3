"""Probabilities for a population whose classes are more or less frequent than those of the training set."""

import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdl._data_checks import is_traced

_TOLERANCE = 1e-2  # of sums of probabilities, which may come from bfloat16
_BLOCK = 1024


def shift_prior(probs: Any, old: Any, new: Any) -> jax.Array:
    """Class probabilities under other class frequencies, Bayes' rule with the prior exchanged:

        p′(k | x) = p(k | x) new_k / old_k / Σ_j p(j | x) new_j / old_j.

    It is exact where p(x | k) is the same in both populations and `probs` are calibrated in the old one: after
    training on resampled rows or with class weights, and from a year of many events to a quiet one.

    Args:
        probs: [..., K], of the population with the frequencies `old`.
        old: [K], the frequencies of the classes in what was trained on, after resampling or weighting.
        new: [K], their frequencies where the prediction is to hold. [..., K] for one prior for each example.

    Returns:
        [..., K], float32. NaN for rows that only have classes whose new frequency is 0, under a trace.

    Raises:
        ValueError: not probabilities; an old frequency of 0; a row whose classes are all impossible under `new`.

    Example:
        >>> import jax.numpy as jnp, numpy as np, bdl
        >>> np.asarray(bdl.data.shift_prior(jnp.array([[0.5, 0.5]]), [0.5, 0.5], [0.95, 0.05])).round(3)
        array([[0.95, 0.05]], dtype=float32)

    Reference:
        Elkan (2001), The foundations of cost-sensitive learning, IJCAI; Saerens, Latinne and Decaestecker (2002),
        Adjusting the outputs of a classifier to new a priori probabilities, https://doi.org/10.1162/089976602753284446
    """
    shape = _check("shift_prior", probs, old)
    if np.shape(new)[-1:] != shape[-1:] or np.ndim(new) not in (1, len(shape)):
        raise ValueError(f"shift_prior: expected new [{shape[-1]}] or as probs {shape}, got shape {np.shape(new)}.")
    if not is_traced(new):
        _check_probs("shift_prior", "new", np.asarray(new, np.float32))
    shifted: jax.Array = _shift(*(jnp.asarray(a).astype(jnp.float32) for a in (probs, old, new)))
    if not is_traced(shifted) and np.isnan(shifted).any():
        raise ValueError("shift_prior: a row only has classes whose new frequency is 0. Give them a frequency.")
    return shifted


def estimate_prior(
    probs: Any, old: Any, *, mask: Any = None, num_steps: int = 10_000, tolerance: float = 1e-6
) -> jax.Array:
    """The class frequencies of a population from predictions for it without labels, by maximum likelihood:

        max over π of Σ_n log Σ_k p(k | x_n) π_k / old_k,   by EM: π ← mean over n of shift_prior(p(· | x_n), old, π).

    The likelihood is concave in π. What it finds is as good as the probabilities are calibrated in the old population;
    where they hardly tell the classes apart, many rows are needed.

    Args:
        probs: [..., K], of rows of the new population, by a model of the old one.
        old: [K], the frequencies of the classes in what was trained on.
        mask: bool [...], True where a row counts; `None` for all.
        num_steps: of EM, at most.
        tolerance: the largest change of a frequency at which EM ends.

    Returns:
        [K], float32, sums to 1.

    Raises:
        ValueError: not probabilities, an old frequency of 0, or no row.

    Warns:
        RuntimeWarning: EM has not ended after `num_steps`.

    Example:
        >>> import jax.numpy as jnp, numpy as np, bdl
        >>> probs = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> np.asarray(bdl.data.estimate_prior(probs, [0.5, 0.5])).round(3)
        array([0.75, 0.25], dtype=float32)

    Reference:
        Saerens, Latinne and Decaestecker (2002), as in `shift_prior`
    """
    mask = np.ones(np.shape(probs)[:-1], bool) if mask is None else mask
    mask = mask if hasattr(mask, "dtype") else np.asarray(mask)
    _check("estimate_prior", probs, old, mask)
    probs, old = (jnp.asarray(a).astype(jnp.float32) for a in (probs, old))
    prior, change = _em(probs, old, jnp.asarray(mask), num_steps, tolerance)
    if not is_traced(prior) and change > tolerance:
        warnings.warn(
            f"estimate_prior: frequencies still change by {change:.2g} after {num_steps} steps. Raise num_steps; if "
            "that does not help, the probabilities hardly tell the classes apart.",
            RuntimeWarning,
            stacklevel=2,
        )
    return prior


@jax.jit
def _shift(probs: jax.Array, old: jax.Array, new: jax.Array) -> jax.Array:
    # p′ ∝ p new / old, over its largest element: no overflow of a frequent class that was rare.
    old, new = (a.reshape(*[1] * (probs.ndim - a.ndim), *a.shape) for a in (old, new))
    shifted = probs * (new / old)
    shifted = shifted / shifted.max(-1, keepdims=True)
    return shifted / shifted.sum(-1, keepdims=True)


@functools.partial(jax.jit, static_argnames=("num_steps", "tolerance"))
def _em(probs: jax.Array, old: jax.Array, mask: jax.Array, num_steps: int, tolerance: float) -> Any:
    weights = mask.reshape(-1).astype(jnp.float32)
    rows = jnp.where(weights[:, None] > 0, probs.reshape(-1, len(old)), 0.0)
    # Blocks of rows keep the digits of sums over a million of them; rows of zeros fill up the last.
    pad = -len(rows) % _BLOCK
    rows = jnp.pad(rows / old[None], ((0, pad), (0, 0))).reshape(-1, _BLOCK, len(old))
    total = weights.sum()

    def step(state: Any) -> Any:
        prior, _, count = state
        joint = rows * prior[None, None]
        each = joint.sum(-1, keepdims=True)
        # E: the share of each class in each row; M: their mean.
        found = jnp.where(each > 0, joint / jnp.where(each > 0, each, 1.0), 0.0).sum(1).sum(0) / total
        found = found / found.sum()
        return found, jnp.abs(found - prior).max(), count + 1

    going = lambda state: (state[1] > tolerance) & (state[2] < num_steps)
    prior, change, _ = jax.lax.while_loop(going, step, (old / old.sum(), jnp.float32(jnp.inf), jnp.int32(0)))
    return prior, change


def _check(name: str, probs: Any, old: Any, mask: Any = None) -> tuple[int, ...]:
    shape = np.shape(probs)
    if not shape or shape[-1] < 2 or np.shape(old) != shape[-1:] or 0 in shape:
        raise ValueError(
            f"{name}: expected probs [..., K] of at least one row and K >= 2 classes, and old [K], got shapes {shape} "
            f"and {np.shape(old)}. The probability p of one of two classes is jnp.stack([1 - p, p], -1)."
        )
    if mask is not None and not (np.shape(mask) == shape[:-1] and jnp.issubdtype(jnp.result_type(mask), np.bool_)):
        raise ValueError(
            f"{name}: expected a mask of bool {shape[:-1]}, got {jnp.result_type(mask)} {np.shape(mask)}. True where a "
            "row counts."
        )
    if not is_traced(mask) and mask is not None and not np.any(mask):
        raise ValueError(f"{name}: there is no row that the mask keeps. Pass at least one.")
    if not is_traced((probs, mask)):
        _check_probs(name, "probs", np.asarray(probs, np.float32)[... if mask is None else np.asarray(mask)])
    if not is_traced(old):
        _check_probs(name, "old", np.asarray(old, np.float32))
        if not np.all(np.asarray(old) > 0):
            raise ValueError(f"{name}: expected positive old frequencies, got {old}. Leave absent classes out.")
    return shape


def _check_probs(name: str, called: str, array: np.ndarray) -> None:
    if not (np.isfinite(array).all() and array.min() >= 0 and np.abs(array.sum(-1) - 1).max() <= _TOLERANCE):
        raise ValueError(
            f"{name}: expected {called} of at least 0 that sum to 1, got numbers from {array.min():.4g} to "
            f"{array.max():.4g} with sums up to {array.sum(-1).max():.4g}. Pass jax.nn.softmax(logits), or counts / "
            "counts.sum()."
        )
