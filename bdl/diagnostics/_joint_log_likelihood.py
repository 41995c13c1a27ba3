"""The joint log-likelihood of several targets at once, which tells epistemic from aleatoric uncertainty."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdl._data_checks import is_traced
from bdl._keys import derive
from bdl.diagnostics import _checks

# Batches of targets at once: each holds S · τ numbers.
_BATCHES = 64


def dyads(
    key: Any, num_data: int, *, num_batches: int, batch_length: int = 10, num_anchors: int = 2, num_repeats: int = 1
) -> jax.Array:
    """Which targets are predicted jointly: batches of τ rows that repeat a few anchor inputs (dyadic sampling).

    A batch of τ inputs at random has hardly two that are close, and its joint likelihood tells little more than the
    marginal ones. So each batch draws two different anchors, and then each of its τ inputs from these.

    Args:
        key: one random key.
        num_data: N inputs, at least `num_anchors`.
        num_batches: B. The mean over batches has an error of its own; thousands are cheap.
        batch_length: τ.
        num_anchors: different inputs in a batch.
        num_repeats: R, the independent targets that there are of each input. With R > 1 rows n R, …, n R + R − 1 of the
            data are those of input n, and each repeat of an anchor takes one of them at random. With R = 1 a repeat is
            the same target again, as for the labels of images: right where these have no noise.

    Returns:
        rows [B, τ], int32.

    Raises:
        ValueError: a count is below 1, or there are fewer inputs than anchors.

    Reference:
        Osband et al. (2022), Evaluating high-order predictive distributions in deep learning,
        https://arxiv.org/abs/2202.13509

    Example:
        >>> import jax, bdl.diagnostics
        >>> rows = bdl.diagnostics.dyads(jax.random.key(0), 100, num_batches=3)
        >>> rows.shape, max(len(set(row)) for row in rows.tolist())
        ((3, 10), 2)
    """
    counts = {"num_batches": num_batches, "batch_length": batch_length, "num_anchors": num_anchors}
    counts |= {"num_repeats": num_repeats, "num_data": num_data}
    for called, value in counts.items():
        _checks.whole("dyads", called, value, 1)
    if num_data < num_anchors:
        raise ValueError(f"dyads: expected at least {num_anchors} inputs, one for each anchor, got {num_data}.")
    return _dyads(derive(key, "dyads"), num_data, num_batches, batch_length, num_anchors, num_repeats)


def joint_log_likelihood(log_likelihood: Any, rows: Any, *, average: bool = True) -> jax.Array:
    """The log density of τ targets together, in nats for a batch of τ (higher is better):

        log (1/S) Σₛ Π_t p(y_t | f(x_t; wₛ)).

    Marginal log-likelihoods cannot tell a posterior whose functions differ (epistemic) from one function with as much
    noise (aleatoric). Jointly they differ: the first target at an input tells which function it is. The estimate is
    biased downwards, by Jensen's inequality, and the more so the larger τ: take many draws, and the same number for all
    that are compared.

    Args:
        log_likelihood: [S, N], from `bdl.diagnostics.pointwise_log_likelihood` on held-out data.
        rows: [B, τ], columns of it that are predicted together, from `bdl.diagnostics.dyads`.
        average: the mean over the batches, else [B].

    Raises:
        ValueError: the shapes are wrong, a row is not among the N, or a number is not finite.

    Reference:
        Osband et al. (2022), The neural testbed: Evaluating joint predictions, https://arxiv.org/abs/2110.04629

    Example:
        >>> import jax.numpy as jnp, bdl.diagnostics
        >>> sure, split = jnp.log(jnp.full((2, 1), 0.5)), jnp.log(jnp.array([[0.9], [0.1]]))  # both say 0.5 marginally
        >>> rows = jnp.zeros((1, 2), int)  # the same target twice
        >>> [round(float(jnp.exp(bdl.diagnostics.joint_log_likelihood(a, rows))), 2) for a in (sure, split)]
        [0.25, 0.41]
    """
    terms = _checks.array("joint_log_likelihood", "log_likelihood", log_likelihood, 2)
    if np.ndim(rows) != 2 or 0 in np.shape(rows) or not jnp.issubdtype(jnp.result_type(rows), np.integer):
        raise ValueError(
            f"joint_log_likelihood: expected rows as integers [B, τ], got {jnp.result_type(rows)} {np.shape(rows)}. "
            "Make them with bdl.diagnostics.dyads."
        )
    if not is_traced(rows) and (np.min(rows) < 0 or np.max(rows) >= terms.shape[1]):
        raise ValueError(
            f"joint_log_likelihood: expected rows in 0, …, {terms.shape[1] - 1}, the columns of log_likelihood, got "
            f"numbers from {np.min(rows)} to {np.max(rows)}. num_data times num_repeats of `dyads` is the number of "
            "examples."
        )
    found = _joint(terms, jnp.asarray(rows))
    return found.mean() if average else found


@functools.partial(jax.jit, static_argnames=("num_data", "num_batches", "batch_length", "num_anchors", "num_repeats"))
def _dyads(
    key: Any, num_data: int, num_batches: int, batch_length: int, num_anchors: int, num_repeats: int
) -> jax.Array:
    shape = (num_batches, batch_length)

    def anchors(key: jax.Array) -> jax.Array:
        # Floyd's sampling without replacement: j ≤ t is drawn, and t stands in where j is taken already.
        chosen = jnp.full(num_anchors, -1, jnp.int32)
        for i in range(num_anchors):
            last = num_data - num_anchors + i
            drawn = jax.random.randint(derive(key, "anchor", i), (), 0, last + 1)
            chosen = chosen.at[i].set(jnp.where((chosen == drawn).any(), last, drawn))
        return chosen

    chosen = jax.vmap(anchors)(jax.random.split(derive(key, "anchors"), num_batches))
    which = jax.random.randint(derive(key, "which"), shape, 0, num_anchors)
    inputs = jnp.take_along_axis(chosen, which, axis=1)
    return inputs * num_repeats + jax.random.randint(derive(key, "repeat"), shape, 0, num_repeats)


@jax.jit
def _joint(terms: jax.Array, rows: jax.Array) -> jax.Array:
    def one(row: jax.Array) -> jax.Array:
        # log (1/S) Σₛ exp Σ_t log p(y_t | wₛ)
        return jax.nn.logsumexp(terms[:, row].sum(1)) - jnp.log(jnp.float32(terms.shape[0]))

    return jax.lax.map(one, rows, batch_size=_BATCHES)
