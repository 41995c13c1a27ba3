"""Checks that a prior, family, likelihood or posterior of your own keeps its contract; all built-in ones pass them.

Call them in a test of yours. Each raises an `AssertionError` that says which promise is broken. They draw at random
with fixed keys; statistical checks allow five standard errors, so that a right implementation fails once in a
million runs.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bdl._family import is_family
from bdl._learned import partition
from bdl._paths import named_leaves
from bdl.likelihoods._base import is_reweighted
from bdl.model import Model
from bdl.networks import network
from bdl.networks._use import matrix_use
from bdl.noise import local
from bdl.posteriors import Factorised
from bdl.priors import as_prior

__all__ = ["check_family", "check_likelihood", "check_posterior", "check_prior"]

_ERRORS = 5.0


def check_prior(prior: Any, params: Any) -> None:
    """Check a prior: `log_prob(params)` is one finite float32 number, under `jit`, `vmap` and `grad`, for any dtype.

    Args:
        prior: what you would give to `bdl.Model`.
        params: nested dicts of arrays, as a network's.

    Raises:
        AssertionError: a promise is broken; the message says which.

    Example:
        >>> import jax.numpy as jnp, bdl.testing
        >>> bdl.testing.check_prior(lambda params: -jnp.sum(params["w"] ** 2), {"w": jnp.ones(3)})
    """
    prior = as_prior(prior, params)
    _check_pytree("prior", prior)
    value = jax.jit(lambda p, w: p.log_prob(w))(prior, params)
    _say(value.shape == (), f"log_prob must return a scalar, got shape {value.shape}: sum over the weights")
    _say(value.dtype == jnp.float32, f"log_prob must be float32, got {value.dtype}")
    _say(bool(np.isfinite(value)), f"log_prob of the params is {value}: a prior must be finite where weights may be")
    gradient = jax.jit(jax.grad(prior.log_prob))(params)
    _check_finite("the gradient of log_prob", gradient)
    stacked = jax.tree.map(lambda a: jnp.stack([a, a + 0.1]), params)
    _close("log_prob under vmap", jax.jit(jax.vmap(prior.log_prob))(stacked)[0], value, 1e-4)
    low = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
    dtype = jax.eval_shape(prior.log_prob, low).dtype
    _say(dtype == jnp.float32, "log_prob of bfloat16 params must be computed in float32")
    if hasattr(prior, "distribution"):

        @jax.jit
        def total(params: Any) -> Any:
            distributions = [(prior.distribution(path, a), a) for path, a in named_leaves(params).items()]
            return sum(jnp.broadcast_to(d.log_prob(a), a.shape).sum() for d, a in distributions if d is not None)

        _close("log_prob against the sum of `distribution` over the arrays", value, total(params), 1e-4)


def check_family(initialiser: Callable[[Any], Any], *, num_samples: int = 20_000) -> None:
    """Check a family: shapes, dtypes, moments of its draws, its density, and its local rule against its draws.

    Args:
        initialiser: from an array to a family, such as `bdl.families.normal(scale=0.1)`.
        num_samples: draws for the statistical checks.

    Raises:
        AssertionError: a promise is broken; the message says which.

    Example:
        >>> import bdl, bdl.testing
        >>> bdl.testing.check_family(bdl.families.normal(scale=0.1), num_samples=2_000)
    """
    array = jnp.asarray(np.linspace(-1.0, 1.5, 12, dtype=np.float32).reshape(4, 3))
    family = initialiser(array)
    _say(is_family(family), f"the initialiser must return a family with `sample` and `mean`, got {family!r}")
    _check_pytree("family", family)
    keys = jax.random.split(jax.random.key(1), num_samples)
    sample = jax.jit(jax.vmap(family.sample))
    draws = np.asarray(sample(jax.random.clone(keys)), np.float64)
    _say(draws.shape[1:] == array.shape, f"sample must have the array's shape {array.shape}, got {draws.shape[1:]}")
    _close("the same key must give the same draw", sample(keys), draws, 1e-6)
    error = _ERRORS * draws.std(0) / np.sqrt(num_samples) + 1e-3
    _say(bool(np.all(np.abs(draws.mean(0) - family.mean) < error)), "the draws' mean is not `mean`")
    square = lambda f: jnp.sum(f.sample(jax.random.key(2)) ** 2)
    _check_finite("the gradient of a draw", jax.jit(jax.grad(square))(_float(family)))
    low = initialiser(array.astype(jnp.bfloat16))
    _say(
        jax.eval_shape(low.sample, jax.random.key(3)).dtype == jnp.bfloat16,
        "a draw of a bfloat16 array must be bfloat16",
    )
    if hasattr(family, "log_prob"):
        _say(jax.eval_shape(family.log_prob, array).shape == (), "log_prob must return a scalar: sum over the weights")
        if hasattr(family, "entropy"):
            terms = -np.asarray(jax.jit(jax.vmap(family.log_prob))(draws), np.float64)
            tolerance = _ERRORS * terms.std() / np.sqrt(num_samples) + 1e-3
            _say(bool(np.abs(terms.mean() - family.entropy()) < tolerance), "entropy is not the mean of −log_prob")
    if hasattr(family, "local"):
        _check_local(family, num_samples)
    learned, _ = partition(Factorised({"w": family}))
    _say(len(jax.tree.leaves(learned)) > 0, "no field of the family is learned: at least one must be")


def check_likelihood(likelihood: Any, outputs: Any, targets: Any) -> None:
    """Check a likelihood: one distribution per example, a log-probability per example, finite gradients.

    Args:
        likelihood: a callable from outputs to a numpyro distribution.
        outputs: a network's outputs, examples along axis 0.
        targets: targets for them: an array, or a pair where the likelihood takes one.

    Raises:
        AssertionError: a promise is broken; the message says which.

    Example:
        >>> import jax.numpy as jnp, numpyro.distributions as dist, bdl.testing
        >>> bdl.testing.check_likelihood(lambda f: dist.Laplace(f, 1.0), jnp.zeros((4, 1)), jnp.ones((4, 1)))
    """
    model = Model(network(lambda params, x: x, {"unused": jnp.zeros(1)}), likelihood)
    _check_pytree("likelihood", model.likelihood)
    key = jax.random.key(4)
    rows = len(jax.tree.leaves(targets)[0])
    score = jax.jit(lambda m, o, y: m.log_likelihood(jax.random.clone(key), o, y))
    value = score(model, outputs, targets)
    _say(value.shape == (rows,), f"the log-likelihood must be one number per example, [{rows}], got {value.shape}")
    _say(value.dtype == jnp.float32, f"the log-likelihood must be float32, got {value.dtype}")
    _check_finite("the log-likelihood", value)
    gradient = jax.jit(jax.grad(lambda o: score(model, o, targets).sum()))(_float(outputs))
    _check_finite("the gradient with respect to the outputs", gradient)
    halves, half_targets = jax.tree.map(lambda a: a[: rows // 2], (outputs, targets))
    if rows > 1:
        part = score(model, halves, half_targets)
        _close("an example's log-likelihood must not depend on the rest of the batch", part, value[: rows // 2], 1e-4)
    train = jax.jit(lambda m, o, y: m.log_likelihood(jax.random.clone(key), o, y, training=True))
    weighted = train(model, outputs, targets)
    if is_reweighted(model.likelihood):
        _check_finite("the log-likelihood with its training weights", weighted)
    else:
        _close("without `is_reweighted`, training must not weigh", weighted, value, 1e-6)
    model.check_targets(outputs, targets)


def check_posterior(posterior: Any, params: Any) -> None:
    """Check a posterior: `sample(key)` gives weights in the structure of `params`, differs by key, and is reproducible.

    Args:
        posterior: anything with `sample`.
        params: the network's weights, nested dicts of arrays.

    Raises:
        AssertionError: a promise is broken; the message says which.

    Example:
        >>> import jax.numpy as jnp, bdl, bdl.testing
        >>> params = {"w": jnp.ones((3, 2))}
        >>> bdl.testing.check_posterior(bdl.variational(params, bdl.families.normal()), params)
    """
    _check_pytree("posterior", posterior)
    sample = jax.jit(lambda p, k: p.sample(k))
    key = jax.random.key(5)
    draw = sample(posterior, jax.random.clone(key))
    expected, got = named_leaves(params), named_leaves(draw)
    _say(list(expected) == list(got), f"sample must have the paths {list(expected)}, got {list(got)}")
    for path, array in expected.items():
        _say(got[path].shape == array.shape, f"sample at {path!r} must have shape {array.shape}, got {got[path].shape}")
        _say(got[path].dtype == array.dtype, f"sample at {path!r} must be {array.dtype}, got {got[path].dtype}")
    _check_finite("a draw", draw)
    _close("the same key must give the same draw", sample(posterior, jax.random.clone(key)), draw, 1e-6)
    many = jax.jit(jax.vmap(posterior.sample))(jax.random.split(jax.random.key(6), 3))
    for path, array in named_leaves(many).items():
        _say(array.shape[0] == 3, f"sample must work under vmap; at {path!r} it gave shape {array.shape}")


def _check_local(family: Any, num_samples: int) -> None:
    # One example, repeated: over its copies local noise has the moments of shared draws.
    bound = family.bind(matrix_use((4, 3))) if hasattr(family, "bind") else family
    x, copies = jnp.array([0.5, -1.0, 2.0, 1.5]), 4
    posterior = Factorised({"w": bound})
    keys = jax.random.split(jax.random.key(7), num_samples)
    shared = np.asarray(jax.jit(jax.vmap(lambda k: x @ posterior.sample(k)["w"]))(keys), np.float64)
    one = lambda k: local(k, lambda params, x: x @ params["w"], {"w": bound}, jnp.broadcast_to(x, (copies, 4)))
    # Copies of one key may depend on each other, as those of Flipout do; keys are independent.
    noisy = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(8), num_samples // copies)), np.float64)
    for what, draws, others in (
        ("mean", shared, noisy.mean(1)),
        ("variance", (shared - shared.mean(0)) ** 2, ((noisy - noisy.mean((0, 1))) ** 2).mean(1)),
    ):
        error = _ERRORS * np.sqrt(draws.var(0) / len(draws) + others.var(0) / len(others)) + 1e-3
        _say(bool(np.all(np.abs(others.mean(0) - draws.mean(0)) < error)), f"`local` has another {what} than the draws")
    centred = noisy - noisy.mean((0, 1))
    products = (centred[:, 1:] * centred[:, :-1]).mean(1)
    error = _ERRORS * products.std(0) / np.sqrt(len(products)) + 1e-6
    _say(bool(np.all(np.abs(products.mean(0)) < error)), "`local` gives examples correlated draws")


def _check_pytree(what: str, node: Any) -> None:
    leaves, structure = jax.tree.flatten(node)
    _say(all(eqx.is_array(leaf) for leaf in leaves), f"every leaf of the {what} must be an array: mark others static")
    again: Any = jax.tree.structure(jax.tree.unflatten(structure, leaves))
    _say(bool(again == structure), f"the {what} must come back from flatten and unflatten as it was")
    hash(structure)


def _float(tree: Any) -> Any:
    return jax.tree.map(lambda a: a.astype(jnp.float32) if eqx.is_inexact_array(a) else a, tree)


def _check_finite(what: str, tree: Any) -> None:
    for path, array in named_leaves(tree).items():
        _say(bool(np.all(np.isfinite(array))), f"{what} is not finite{f' at {path!r}' if path else ''}")


def _close(what: str, got: Any, expected: Any, tolerance: float) -> None:
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        gap, scale = float(np.max(np.abs(a - b))), 1.0 + float(np.max(np.abs(b)))
        _say(gap <= tolerance * scale, f"{what}: differs by {gap}")


def _say(holds: bool, promise: str) -> None:
    if not holds:
        raise AssertionError(promise)
