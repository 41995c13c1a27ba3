"""The log evidence where it exists, by importance sampling from the posterior, which it judges."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from bdl._bind import bind
from bdl._hyper import has_hypers
from bdl._in_batches import in_batches
from bdl._keys import check_key, derive
from bdl.diagnostics import _checks
from bdl.diagnostics._pointwise import pointwise_log_likelihood
from bdl.diagnostics._psis import smooth, tail_length, threshold
from bdl.kl import drawn_kl, is_bound
from bdl.model import Model

_NAME = "evidence"


class Evidence(eqx.Module):
    """Estimates of the log evidence log p(y | x), in nats for all data (higher is better).

    elbo ≤ iw_bound ≤ log p(y | x), in expectation over the draws.

    Attributes:
        elbo: the mean of the log ratios log p(y, w) − log q(w).
        iw_bound: the log of their mean ratio, the importance-weighted bound of S draws.
        log_evidence: the same with Pareto-smoothed ratios, where k̂ is below the threshold the best of the three.
        standard_error: of `log_evidence`, the relative error of the mean ratio.
        k_hat: the shape of the ratios' tail, which judges the posterior (lower is better): up to `threshold` the
            posterior covers the true one, above it nothing here is to be trusted but `elbo`.
        log_ratios: [S], less their mean.
        threshold: see `bdl.diagnostics.psis`.
    """

    elbo: jax.Array
    iw_bound: jax.Array
    log_evidence: jax.Array
    standard_error: jax.Array
    k_hat: jax.Array
    log_ratios: jax.Array
    threshold: float = eqx.field(static=True)


def evidence(
    key: Any,
    posterior: Any,
    model: Model,
    data: tuple[Any, Any],
    *,
    num_samples: int,
    chunk_size: int | None = None,
    batch_size: int | None = None,
) -> Evidence:
    """The log evidence of all data, in nats (higher is better), and k̂ of the posterior as its proposal:

        log p(y | x) ≈ log (1/S) Σₛ p(y | x, wₛ) p(wₛ) / q(wₛ),   wₛ ~ q.

    It exists where the prior is proper and q has a density over all weights. The softmax of the evidences of several
    models is their posterior probability, which presumes that one of them is true; `bdl.diagnostics.stack` does not.

    Args:
        key: one random key; the draws are those of `bdl.diagnostics.pointwise_log_likelihood` with it.
        posterior: q, a `Factorised` of families with a density, or anything with `sample` and `log_prob`.
        model: prior, network and likelihood.
        data: all of the data that the posterior was fitted to, (x, y).
        num_samples: S, at least 21.
        chunk_size: draws computed at once; by default chosen for the device and the batch.
        batch_size: examples at once; all where `None`. Memory is S times as many numbers.

    Raises:
        ValueError: an array has no density (point masses, dropout), the prior is improper or has a hyper-prior, the
            network has dropout layers of its own that draw; or fewer than 21 draws.

    Reference:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders, https://arxiv.org/abs/1509.00519;
        Yao, Vehtari, Simpson and Gelman (2018), Yes, but did it work? Evaluating variational inference,
        https://arxiv.org/abs/1802.02538

    Example:
        >>> import jax, jax.numpy as jnp, bdl, bdl.diagnostics
        >>> network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.zeros((1, 1))})
        >>> model = bdl.Model(network, bdl.likelihoods.Normal(scale=1.0), bdl.priors.normal(scale=1.0))
        >>> posterior = bdl.variational(network.params, bdl.families.normal(scale=0.7))
        >>> data = (jnp.ones((1, 1)), jnp.zeros((1, 1)))  # y ~ Normal(0, 2): the exact posterior has the scale 1 / √2
        >>> found = bdl.diagnostics.evidence(jax.random.key(0), posterior, model, data, num_samples=1_000)
        >>> round(float(found.log_evidence), 2), bool(found.k_hat < found.threshold)
        (-1.27, True)
    """
    key = check_key(key)
    num_samples = _checks.whole(_NAME, "num_samples", num_samples, 1)
    tail = tail_length(_NAME, num_samples, 1.0)
    _refuse(posterior, model)

    def run(batch: Any) -> jax.Array:
        return pointwise_log_likelihood(
            key, posterior, model, batch, num_samples=num_samples, chunk_size=chunk_size, check=False
        )

    # The ratios differ by a few nats and may be millions: the differences to draw 0 are summed by themselves.
    parts = [terms[:, :rows] for terms, rows in in_batches(run, data, batch_size)]
    first = sum((terms[0].sum() for terms in parts), start=jnp.float32(0))
    differences = sum(((terms - terms[:1]).sum(1) for terms in parts), start=jnp.zeros(num_samples))
    x = jax.tree.map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)), data[0])
    posterior, model = bind(posterior, model, x)
    densities = _log_density_ratios(key, posterior, model, num_samples)
    elbo, raw, smoothed, error, k_hat, ratios = _estimates(first, differences, densities, tail)
    return Evidence(elbo, raw, smoothed, error, k_hat, ratios, threshold(num_samples))


@functools.partial(jax.jit, static_argnames="num_samples")
def _log_density_ratios(key: Any, posterior: Any, model: Model, num_samples: int) -> jax.Array:
    """The log ratio log p(w) − log q(w) of each draw of `bdl.predict` with this key, [S]."""
    paths = tuple(getattr(posterior, "leaves", ()))

    def one(index: jax.Array) -> jax.Array:
        params = posterior.sample(derive(key, "predict", index))
        return -drawn_kl(posterior, model.prior, params, paths, fixed_density=True)

    return jax.lax.map(one, jnp.arange(num_samples))


@functools.partial(jax.jit, static_argnames="tail")
def _estimates(first: jax.Array, differences: jax.Array, densities: jax.Array, tail: int) -> tuple[jax.Array, ...]:
    ratios = differences + densities
    mean = ratios.mean()
    centred = ratios - mean
    elbo = first + mean
    raw = jax.nn.logsumexp(centred) - jnp.log(jnp.float32(len(ratios)))
    weights, k_hat = smooth(centred[:, None], tail)
    # What lies below the tail is not smoothed: there the weight is the ratio over the total.
    below = jax.lax.top_k(centred, tail + 1)[1][-1]
    smoothed = centred[below] - weights[below, 0] - jnp.log(jnp.float32(len(ratios)))
    # The standard error of a mean ratio, relative to it: √(Σ (v − 1/S)²) of normalised weights v.
    error = jnp.sqrt(jnp.sum((jnp.exp(weights[:, 0]) - 1 / len(ratios)) ** 2))
    return elbo, elbo + raw, elbo + smoothed, error, k_hat[0], centred


def _refuse(posterior: Any, model: Model) -> None:
    if has_hypers(model):
        raise ValueError(
            "evidence: a number of the model has a hyper-prior, over which bdl.objectives.iw_bound integrates. Use it."
        )
    if model.network.stochastic:
        raise ValueError(
            "evidence: the network has dropout layers that draw, so that its weights do not tell its outputs. Make the "
            "model with the network itself, not bdl.networks.stochastic(network)."
        )
    leaves = getattr(posterior, "leaves", {})
    if not is_bound(posterior, model.prior) or not all(hasattr(leaf, "log_prob") for leaf in leaves.values()):
        raise ValueError(
            "evidence: importance ratios need a density q(w) and a proper prior for every array. Point masses, "
            "dropout, flat and log-uniform priors have none: use families such as bdl.families.normal(), or compare "
            "the models by bdl.diagnostics.elpd on held-out data."
        )
