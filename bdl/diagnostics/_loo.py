"""Expected log predictive densities: held-out, and leave-one-out without fitting again."""

import functools
import math
import warnings
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from bdl._data_checks import is_traced
from bdl.diagnostics import _checks
from bdl.diagnostics._psis import smooth, tail_length, threshold


class Elpd(eqx.Module):
    """An expected log pointwise predictive density, in nats (higher is better).

    Attributes:
        estimate: the sum over the examples.
        standard_error: of the sum, √(N Var(pointwise)): the chance of which examples there are.
        pointwise: each example's, [N].
        p_loo: the effective number of parameters, of `loo`: how much better the examples are predicted when they have
            been seen.
        k_hat: each example's k̂, [N], of `loo`: where it is above `threshold` that example's value is not to be trusted.
        threshold: see `bdl.diagnostics.psis`.
    """

    estimate: jax.Array
    standard_error: jax.Array
    pointwise: jax.Array
    p_loo: jax.Array | None = None
    k_hat: jax.Array | None = None
    threshold: float | None = eqx.field(static=True, default=None)


class Comparison(eqx.Module):
    """Several models on the same examples, the best first, in nats.

    Attributes:
        names: of the models.
        estimate: [K], of each.
        difference: [K], to the best one (0 or less).
        standard_error: [K], of the difference, from the examples' own differences; 0 for the best.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    estimate: jax.Array
    difference: jax.Array
    standard_error: jax.Array


def elpd(log_predictive: Any) -> Elpd:
    """The expected log predictive density of held-out data, in nats for all of it (higher is better):

        Σₙ log p(yₙ | xₙ, training data).

    Args:
        log_predictive: [N], N ≥ 2, from `bdl.log_predictive` on examples that the posterior has not seen.

    Raises:
        ValueError: it is not [N], or not finite.

    Example:
        >>> import jax.numpy as jnp, bdl.diagnostics
        >>> found = bdl.diagnostics.elpd(jnp.array([-1.0, -3.0]))
        >>> float(found.estimate), round(float(found.standard_error), 3)
        (-4.0, 2.0)
    """
    pointwise = _checks.array("elpd", "log_predictive", log_predictive, 1, "one number for each example, [N]")
    _two_examples("elpd", pointwise.shape[0])
    return Elpd(*_summed(pointwise), pointwise)


def loo(log_likelihood: Any, *, log_ratios: Any = None, relative_efficiency: float = 1.0) -> Elpd:
    """The leave-one-out expected log predictive density, in nats for all examples (higher is better), from one fit:

        Σₙ log p(yₙ | xₙ, y₋ₙ),   p(yₙ | y₋ₙ) ≈ Σₛ vₛₙ p(yₙ | wₛ),   vₛₙ ∝ 1 / p(yₙ | wₛ), smoothed.

    The draws are those of the posterior given all examples. Where a posterior is approximate, as every variational one
    is, `log_ratios` corrects for it; without them the result is that of treating the approximation as the posterior. It
    is not for the members of an ensemble, which are no draws of a posterior.

    Args:
        log_likelihood: [S, N], from `bdl.diagnostics.pointwise_log_likelihood` on the training data, one draw of the
            posterior a row, at least 21 of them.
        log_ratios: [S], log p(y, w) − log q(w) of the same draws up to a constant: `log_ratios` of
            `bdl.diagnostics.evidence` with the same key.
        relative_efficiency: the effective number of draws over S, for draws of a Markov chain.

    Returns:
        `Elpd`, with `p_loo` and `k_hat`.

    Raises:
        ValueError: fewer than 21 draws or two examples, shapes that do not match, or numbers that are not finite.

    Warns:
        RuntimeWarning: some k̂ are above the threshold; the message says how many.

    Reference:
        Vehtari, Gelman and Gabry (2017), Practical Bayesian model evaluation using leave-one-out cross-validation and
        WAIC, https://arxiv.org/abs/1507.04544; Magnusson, Andersen, Jonasson and Vehtari (2019), Bayesian leave-one-out
        cross-validation for large data, https://arxiv.org/abs/1904.10679

    Example:
        >>> import jax, jax.numpy as jnp, bdl, bdl.diagnostics
        >>> network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.ones((3, 1))})
        >>> posterior = bdl.variational(network.params, bdl.families.normal(scale=0.1))
        >>> model, data = bdl.Model(network, bdl.likelihoods.Normal(scale=1.0)), (jnp.ones((5, 3)), jnp.ones((5, 1)))
        >>> key = jax.random.key(0)
        >>> terms = bdl.diagnostics.pointwise_log_likelihood(key, posterior, model, data, num_samples=500)
        >>> found = bdl.diagnostics.loo(terms)
        >>> bool(found.estimate < bdl.log_predictive(key, posterior, model, data, num_samples=500).sum())
        True
    """
    terms = _checks.array("loo", "log_likelihood", log_likelihood, 2)
    num_samples, num_examples = terms.shape
    _two_examples("loo", num_examples)
    tail = tail_length("loo", num_samples, relative_efficiency)
    correction = jnp.zeros(num_samples)
    if log_ratios is not None:
        correction = _checks.array("loo", "log_ratios", log_ratios, 1, "one number for each draw, [S]")
    if correction.shape != (num_samples,):
        raise ValueError(
            f"loo: expected log_ratios of the {num_samples} draws of log_likelihood, got {correction.shape[0]}. Take "
            "both with the same key and num_samples."
        )
    total, error, pointwise, p_loo, k_hat = _loo(terms, correction, tail)
    limit = threshold(num_samples)
    if not is_traced(k_hat) and (bad := int((k_hat > limit).sum())):
        warnings.warn(
            f"loo: k̂ is above {limit:.2f} for {bad} of {num_examples} examples, whose values are not to be trusted. "
            "Without them the fit would be another one: fit again without each of them, or hold data out and use "
            "bdl.diagnostics.elpd.",
            RuntimeWarning,
            stacklevel=2,
        )
    return Elpd(total, error, pointwise, p_loo, k_hat, limit)


def compare(elpds: Mapping[str, Elpd]) -> Comparison:
    """Models held against the best of them, example by example, in nats (higher is better).

    The standard error of a difference comes from the differences of the examples, which are much smaller than the
    values themselves where the same examples are hard for all models. A difference of less than 4 nats, or of less than
    two standard errors, tells little.

    Args:
        elpds: from `loo` or `elpd`, by name, all on the same examples in the same order.

    Raises:
        ValueError: no model, or different numbers of examples.

    Example:
        >>> import jax.numpy as jnp, bdl.diagnostics
        >>> first = bdl.diagnostics.elpd(jnp.array([-1.0, -3.0, -2.0]))
        >>> second = bdl.diagnostics.elpd(jnp.array([-0.5, -2.5, -1.5]))
        >>> table = bdl.diagnostics.compare({"first": first, "second": second})
        >>> table.names, table.difference.tolist(), table.standard_error.tolist()
        (('second', 'first'), [0.0, -1.5], [0.0, 0.0])
    """
    lengths = {name: found.pointwise.shape[0] for name, found in elpds.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"compare: expected models on the same examples, got {lengths or 'no model'}.")
    names = sorted(elpds, key=lambda name: -float(elpds[name].estimate))
    pointwise = jnp.stack([elpds[name].pointwise for name in names])
    difference, error = jax.vmap(lambda row: _summed(row - pointwise[0]))(pointwise)
    return Comparison(tuple(names), pointwise.sum(1), difference, error)


@functools.partial(jax.jit, static_argnames="tail")
def _loo(terms: jax.Array, correction: jax.Array, tail: int) -> tuple[jax.Array, ...]:
    weights, k_hat = smooth(correction[:, None] - terms, tail)
    # log Σₛ vₛₙ p(yₙ | wₛ)
    pointwise = jax.nn.logsumexp(weights + terms, 0)
    # log p(yₙ | y), of the same draws
    own, _ = smooth(correction[:, None], tail)
    seen = jax.nn.logsumexp(own + terms, 0)
    return *_summed(pointwise), pointwise, (seen - pointwise).sum(), k_hat


def _summed(pointwise: jax.Array) -> tuple[jax.Array, jax.Array]:
    # √(N Var), with 1 / (N − 1)
    return pointwise.sum(), math.sqrt(pointwise.shape[0]) * jnp.std(pointwise, ddof=1)


def _two_examples(name: str, count: int) -> None:
    if count < 2:
        raise ValueError(f"{name}: one example has no standard error. Pass two or more.")
