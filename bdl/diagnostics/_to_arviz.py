"""Draws as ArviZ keeps them."""

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdl._bind import bind
from bdl._draws import is_enumerated
from bdl._keys import check_key, derive
from bdl._paths import named_leaves
from bdl.diagnostics import _checks
from bdl.diagnostics._pointwise import pointwise_log_likelihood
from bdl.diagnostics._posterior_predictive_check import posterior_predictive_check
from bdl.model import Model


def to_arviz(
    key: Any,
    posterior: Any,
    model: Model,
    data: tuple[Any, Any],
    *,
    num_samples: int,
    weights: bool = True,
    chunk_size: int | None = None,
    batch_size: int | None = None,
) -> Any:
    """Draws, their log-likelihoods and predictions for ArviZ: its plots, its tables, its files.

    The groups are `posterior` (each weight array by its path), `log_likelihood` and `posterior_predictive` (of the
    targets, `y`), `observed_data` (`y`) and `constant_data` (`x`). The draws are one chain: they are independent, so
    that R̂ and effective sample sizes say nothing new.

    Args:
        key: one random key; the draws are those of `bdl.predict` with it.
        posterior: anything with `sample(key)`.
        model: network and likelihood.
        data: inputs and targets, (x, y), arrays.
        num_samples: S.
        weights: whether the weights' draws are kept, S times the network's size.
        chunk_size: draws computed at once.
        batch_size: examples at once, for the log-likelihoods.

    Returns:
        an `arviz.InferenceData` of ArviZ before 1.0, an `xarray.DataTree` since.

    Raises:
        ImportError: ArviZ is not installed.
        ValueError: bad counts or data.

    Example:
        >>> import jax, jax.numpy as jnp, bdl, bdl.diagnostics
        >>> network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.ones((3, 1))})
        >>> posterior = bdl.variational(network.params, bdl.families.normal(scale=0.1))
        >>> model, data = bdl.Model(network, bdl.likelihoods.Normal(scale=1.0)), (jnp.ones((5, 3)), jnp.ones((5, 1)))
        >>> found = bdl.diagnostics.to_arviz(
        ...     jax.random.key(0), posterior, model, data, num_samples=50
        ... )  # doctest: +SKIP
        >>> found.posterior["w"].shape  # doctest: +SKIP
        (1, 50, 3, 1)
    """
    try:
        import arviz
    except ImportError as error:
        raise ImportError("bdl.diagnostics.to_arviz needs ArviZ: pip install 'bdl[arviz]'.") from error
    key = check_key(key)
    _checks.whole("to_arviz", "num_samples", num_samples, 1)
    x, y = data
    terms = pointwise_log_likelihood(
        key, posterior, model, data, num_samples=num_samples, chunk_size=chunk_size, batch_size=batch_size
    )
    count = terms.shape[0]
    replicated = posterior_predictive_check(
        key, posterior, model, data, _targets, num_samples=num_samples, chunk_size=chunk_size
    ).replicated
    groups = {
        "posterior": _weights(key, posterior, model, x, count) if weights else {},
        "log_likelihood": {"y": terms},
        "posterior_predictive": {"y": replicated.astype(np.asarray(y).dtype)},
        "observed_data": {"y": y},
        "constant_data": _named("x", x),
    }
    of_draws = ("posterior", "log_likelihood", "posterior_predictive")
    arrays: dict[str, Any] = {
        group: {name: np.asarray(a)[None] if group in of_draws else np.asarray(a) for name, a in content.items()}
        for group, content in groups.items()
        if content
    }
    # Before 1.0 the groups are arguments, since then one nested dict.
    before = "posterior" in inspect.signature(arviz.from_dict).parameters
    return arviz.from_dict(**arrays) if before else arviz.from_dict(arrays)


def _targets(y: Any) -> Any:
    return y


def _weights(key: Any, posterior: Any, model: Model, x: Any, num_samples: int) -> dict[str, Any]:
    posterior, _ = bind(posterior, model, x)
    members = is_enumerated(posterior, model) and posterior.members > 1
    return named_leaves(_sample(key, posterior, num_samples, members))


@functools.partial(jax.jit, static_argnames=("num_samples", "members"))
def _sample(key: Any, posterior: Any, num_samples: int, members: bool) -> Any:
    def one(index: jax.Array) -> Any:
        return (posterior.member(index) if members else posterior).sample(derive(key, "predict", index))

    return jax.lax.map(one, jnp.arange(num_samples))


def _named(name: str, tree: Any) -> dict[str, Any]:
    return {f"{name}/{path}" if path else name: leaf for path, leaf in named_leaves(tree).items()}
