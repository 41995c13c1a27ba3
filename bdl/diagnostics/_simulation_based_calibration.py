"""Simulation-based calibration: is the way from data to posterior right, whatever the data?"""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from bdl._bind import bind
from bdl._data_checks import check_data, is_traced
from bdl._keys import check_key, derive
from bdl._outputs import draw_outputs
from bdl.diagnostics import _checks
from bdl.diagnostics._ranks import uniformity
from bdl.fit import Fitted
from bdl.model import Model
from bdl.posteriors import from_prior

_NAME = "simulation_based_calibration"


class SimulationRanks(eqx.Module):
    """The ranks of the truth among draws, one for each simulated data set; uniform on 0, …, L where the road is exact.

    Attributes:
        ranks: of the quantities (the network's outputs at the points), [I, N, ...], int32.
        log_likelihood_ranks: of the log-likelihood of the simulated data, [I], int32. A road that ignores the data and
            returns the prior has uniform `ranks`; not these.
        uniformity: the p-values of the χ² tests, [N, ...].
        log_likelihood_uniformity: that of `log_likelihood_ranks`.
        p_value: of all tests together: the smallest times their number (Bonferroni), at most 1.
        num_samples: L.
    """

    ranks: jax.Array
    log_likelihood_ranks: jax.Array
    uniformity: jax.Array
    log_likelihood_uniformity: jax.Array
    p_value: jax.Array
    num_samples: int = eqx.field(static=True)


def simulation_based_calibration(
    key: Any,
    road: Callable[[Any, Any, Any], Any],
    model: Model,
    x: Any,
    *,
    num_simulations: int,
    num_samples: int,
    points: Any = None,
    quantity: Callable[[Any], Any] | None = None,
    chunk_size: int | None = None,
) -> SimulationRanks:
    """Whether a road, the way from data to posterior, is right on average over data that the model itself makes:

        w* ~ p(w),   y ~ p(y | f(x; w*)),   w₁, …, w_L ~ road(x, y):   rank = #{l : f(x'; w_l) < f(x'; w*)}.

    Where the posterior is exact all ranks are equally likely. It is bent into a ∪ where draws are too narrow, as a mean
    field's are in the directions that it cannot see, and into a ∩ where they are too wide; `bdl.diagnostics.bend` says
    which, `bdl.diagnostics.ecdf_difference` is for a picture. Outputs are ranked, not weights: those have symmetries
    that no posterior needs to keep.

    All simulations are one program, `jax.vmap` over keys and data.

    Args:
        key: one random key.
        road: `road(key, x, y)`, to a posterior or to the `bdl.fit` of one. It may close over a network and an
            algorithm. Define it once: another function compiles again.
        model: what simulates, and what the road is to use; nothing in it may be learned from the data.
        x: inputs, examples along axis 0, for which targets are simulated.
        num_simulations: I. The χ² test sees large bends with 100.
        num_samples: L, the draws to rank among. The fewer, the cheaper; 99 leave bins of equal size.
        points: inputs x' of the ranked outputs; `x` where `None`. A few are enough.
        quantity: a function from the outputs at the points to the array that is ranked, such as a contrast of two of
            them; `None` for the outputs themselves.
        chunk_size: simulations at once; all where `None`.

    Returns:
        `SimulationRanks`. Ties are broken at random. Under a trace a simulation whose outputs are not finite has the
        rank −1, and the p-values are NaN.

    Raises:
        ValueError: bad counts or inputs, a prior without draws (see `bdl.posteriors.from_prior`), a road whose outputs
            are not finite.

    Reference:
        Talts, Betancourt, Simpson, Vehtari and Gelman (2018), Validating Bayesian inference algorithms with
        simulation-based calibration, https://arxiv.org/abs/1804.06788; Modrák et al. (2023), Simulation-based
        calibration checking for Bayesian computation: The choice of test quantities shapes sensitivity,
        https://arxiv.org/abs/2211.02383

    Example:
        >>> import jax, jax.numpy as jnp, bdl, bdl.diagnostics
        >>> network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.zeros((1, 1))})
        >>> model = bdl.Model(network, bdl.likelihoods.Normal(scale=1.0), bdl.priors.normal(scale=1.0))
        >>> def exact(key, x, y):  # the posterior of one weight: precision Σ x² + 1, mean Σ x y over it
        ...     precision = (x**2).sum() + 1
        ...     mean = {"w": ((x * y).sum() / precision).reshape(1, 1)}
        ...     return bdl.variational(mean, bdl.families.normal(scale=precision**-0.5))
        >>> found = bdl.diagnostics.simulation_based_calibration(
        ...     jax.random.key(0), exact, model, jnp.ones((3, 1)), num_simulations=200, num_samples=99
        ... )
        >>> found.ranks.shape, bool(found.p_value > 0.01)
        ((200, 3, 1), True)
    """
    key = check_key(key)
    _checks.whole(_NAME, "num_simulations", num_simulations, 10)
    _checks.whole(_NAME, "num_samples", num_samples, 1)
    chunk = num_simulations if chunk_size is None else _checks.whole(_NAME, "chunk_size", chunk_size, 1)
    if not is_traced((key, model, x, points)):
        check_data(x)
        check_data(x if points is None else points)
    found, of_data, finite = _simulate(key, road, model, x, points, quantity, num_simulations, num_samples, chunk)
    if not is_traced(finite) and not finite.all():
        raise ValueError(
            f"{_NAME}: in {int((~finite).sum())} of {num_simulations} simulations the outputs are not finite. Look at "
            "one of them: a fit that diverged takes a smaller rate, a prior of infinite outputs a smaller scale."
        )
    columns = jnp.concatenate([found.reshape(num_simulations, -1), of_data[:, None]], 1)
    tests = uniformity(columns, num_samples)
    p_value = jnp.minimum(tests.min() * tests.size, 1)
    return SimulationRanks(found, of_data, tests[:-1].reshape(found.shape[1:]), tests[-1], p_value, num_samples)


@functools.partial(jax.jit, static_argnames=("road", "quantity", "num_simulations", "num_samples", "chunk"))
def _simulate(
    key: Any, road: Any, model: Model, x: Any, points: Any, quantity: Any,
    num_simulations: int, num_samples: int, chunk: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:  # fmt: skip
    prior, _ = bind(from_prior(model), model, x)

    def one(index: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        own = derive(key, _NAME, index)
        true = derive(own, "truth")
        params = prior.sample(true)
        outputs = _apply(true, model, params, x)
        y = model.distribution(derive(own, "likelihood"), outputs).sample(derive(own, "targets"))
        found = road(derive(own, "road"), x, y)
        posterior, used = (found.posterior, found.model) if isinstance(found, Fitted) else (found, model)
        posterior, used = bind(posterior, used, x)

        def ranked(draw: Any, model: Model, params: Any) -> tuple[jax.Array, jax.Array]:
            outputs = _apply(draw, model, params, x)
            terms = model.log_likelihood(derive(draw, "likelihood"), outputs, y)
            at_points = outputs if points is None else _apply(draw, model, params, points)
            value = at_points if quantity is None else quantity(at_points)
            return jnp.asarray(value).astype(jnp.float32), terms.sum()

        def of_draw(index: jax.Array) -> tuple[jax.Array, jax.Array]:
            draw = derive(own, "draw", index)
            return ranked(draw, used, posterior.sample(draw))

        truth, draws = ranked(true, model, params), jax.vmap(of_draw)(jnp.arange(num_samples))
        finite = jnp.stack([jnp.isfinite(a).all() for a in (*truth, *draws)]).all()
        ranks = [_rank(derive(own, "ties", i), *pair) for i, pair in enumerate(zip(truth, draws, strict=True))]
        of_outputs, of_data = (jnp.where(finite, rank, -1) for rank in ranks)
        return of_outputs, of_data, finite

    index = jnp.arange(num_simulations)
    return jax.vmap(one)(index) if chunk >= num_simulations else jax.lax.map(one, index, batch_size=chunk)


def _apply(key: Any, model: Model, params: Any, x: Any) -> Any:
    return draw_outputs(key, None, model, x, noise="shared", params=params)[0]


def _rank(key: Any, truth: jax.Array, draws: jax.Array) -> jax.Array:
    below, same = (a.sum(0, dtype=jnp.int32) for a in (draws < truth[None], draws == truth[None]))
    # A place among those that are the same, each alike.
    place = jax.random.uniform(key, truth.shape) * (same + 1).astype(jnp.float32)
    return below + place.astype(jnp.int32)
