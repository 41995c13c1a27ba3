"""What an objective returns, and what all of them need of a draw."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from bdl._bind import bind
from bdl._hyper import draw_hypers, has_hypers
from bdl._keys import derive
from bdl._outputs import draw_outputs
from bdl.kl import closed_kl, drawn_kl, is_bound, refuse_unbounded
from bdl.likelihoods._base import is_reweighted
from bdl.model import Model


class ElboTerms(eqx.Module):
    """An objective and its terms, in nats for the whole data set.

    Attributes:
        elbo: log_likelihood − kl_weight · kl, or what stands in its place (higher is better).
        log_likelihood: (N / batch) Σ log p(y | x, w), the mean over draws of w.
        kl: KL(q || p), not weighted; with that of numbers under hyper-priors.
        state: the network's state after the pass.
        is_bound: whether elbo bounds the evidence: every array has a density, the prior is proper, kl_weight is 1, and
            the likelihood is not reweighted.
        monte_carlo: the paths of the arrays whose KL was estimated from draws; all others have a closed form.
    """

    elbo: jax.Array
    log_likelihood: jax.Array
    kl: jax.Array
    state: Any
    is_bound: bool = eqx.field(static=True)
    monte_carlo: tuple[str, ...] = eqx.field(static=True, default=())


class Draws:
    """The draws of one evaluation of an objective.

    Attributes:
        num_data: N.
        posterior, model: bound to the network, relaxed where draws would have no gradient.
        monte_carlo: the paths whose KL is estimated from draws.
    """

    def __init__(
        self,
        what: str,
        key: Any,
        posterior: Any,
        model: Model,
        data: tuple[Any, Any],
        *,
        num_data: Any,
        num_samples: int,
        noise: str,
        train: bool,
        from_draws: bool = False,
        fixed_density: bool = False,
    ):
        if isinstance(num_data, int | float) and not num_data >= 1:
            raise ValueError(f"{what}: expected num_data, the size of the data set, of at least 1; got {num_data}.")
        if num_samples < 1:
            raise ValueError(f"{what}: expected num_samples of at least 1, got {num_samples}.")
        self.x, self.y = data
        posterior, self.model = bind(posterior, model, self.x)
        self.posterior = posterior.relaxed() if hasattr(posterior, "relaxed") else posterior
        self.key, self.num_data, self.num_samples = derive(key, what), num_data, num_samples
        self.noise, self.train, self.from_draws, self.fixed_density = noise, train, from_draws, fixed_density
        refuse_unbounded(self.posterior, self.model.prior)
        self._hyper = has_hypers(self.model)
        prior = draw_hypers(derive(self.key, "hyper"), self.model.prior)[0] if self._hyper else self.model.prior
        self._closed, self.monte_carlo = closed_kl(self.posterior, prior, from_draws=from_draws)

    @property
    def is_bound(self) -> bool:
        """Whether the ELBO bounds the evidence: densities, proper priors, and no reweighted likelihood."""
        return is_bound(self.posterior, self.model.prior) and not is_reweighted(self.model.likelihood)

    def map(self, summarise: Callable[[jax.Array], Any]) -> tuple[Any, jax.Array, Any]:
        """For each draw: `summarise` of its log-likelihoods [batch], and its KL; and the network's state after all.

        Of the state's statistics it is the mean over draws; counts and keys are those of the last one.
        """
        if self.num_samples == 1:
            figures, divergence, state = self._one(summarise, 0)
            return *jax.tree.map(lambda a: a[None], (figures, divergence)), state
        figures, divergences, states = jax.lax.map(lambda i: self._one(summarise, i), jnp.arange(self.num_samples))
        averaged = lambda a: a.mean(0) if jnp.issubdtype(a.dtype, jnp.inexact) else a[-1]
        return figures, divergences, jax.tree.map(averaged, states)

    def _one(self, summarise: Callable[[jax.Array], Any], index: Any) -> tuple[Any, jax.Array, Any]:
        draw = derive(self.key, "draw", index)
        model, hyper_kl = draw_hypers(derive(draw, "hyper"), self.model) if self._hyper else (self.model, 0.0)
        params = self.posterior.sample(draw) if self.noise == "shared" else None
        outputs, state = draw_outputs(
            draw, self.posterior, model, self.x, noise=self.noise, train=self.train, params=params
        )
        log_likelihood = model.log_likelihood(derive(draw, "likelihood"), outputs, self.y, training=True)
        closed, monte_carlo = self._closed, self.monte_carlo
        if self._hyper:
            closed, monte_carlo = closed_kl(self.posterior, model.prior, from_draws=self.from_draws)
        divergence = closed + hyper_kl
        if monte_carlo:
            # The draw that the likelihood saw, where there is one.
            params = self.posterior.sample(derive(draw, "kl")) if params is None else params
            divergence += drawn_kl(self.posterior, model.prior, params, monte_carlo, fixed_density=self.fixed_density)
        return summarise(log_likelihood), divergence, state
