"""A number of a model that has a distribution of its own: drawn and paid for like a weight."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from numpyro import distributions as dist
from numpyro.distributions import biject_to

from bdl import _random
from bdl._keys import derive
from bdl._learned import learned_field
from bdl._paths import map_named, named_leaves


class Hyper(eqx.Module):
    """A number, or an array of numbers, under a hyper-prior. Made by `bdl.priors.hyper`.

    Its posterior is a mean-field Normal over the unconstrained value u, with the value T(u) inside the hyper-prior's
    support by numpyro's bijection: log-normal for a positive number.

    Attributes:
        prior: the hyper-prior, as a stored numpyro distribution.
        loc, log_scale: of the Normal over u.
        log: whether a draw gives the logarithm of the value, for those who store that.
    """

    prior: Any
    loc: jax.Array = learned_field()
    log_scale: jax.Array = learned_field()
    log: bool = eqx.field(static=True, default=False)

    @property
    def value(self) -> jax.Array:
        """The median of the posterior, in the number's own units."""
        return biject_to(self.prior.rebuild().support)(self.loc)

    def sample(self, key: jax.Array) -> jax.Array:
        """One draw, in the number's own units, or of its logarithm where `log`."""
        return self._stored(biject_to(self.prior.rebuild().support)(self._unconstrained(key)))

    def draw(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """`sample(key)`, and an estimate of KL(q || hyper-prior) in nats from this draw.

        log q(u) − [log p(T(u)) + log |T'(u)|]
        """
        prior, u = self.prior.rebuild(), self._unconstrained(key)
        transform = biject_to(prior.support)
        value = transform(u)
        log_prior = jnp.broadcast_to(prior.log_prob(value) + transform.log_abs_det_jacobian(u, value), u.shape)
        log_posterior = dist.Normal(self.loc, jnp.exp(self.log_scale)).log_prob(u)
        return self._stored(value), (log_posterior - log_prior).sum()

    def sample_prior(self, key: jax.Array) -> jax.Array:
        """One draw from the hyper-prior, in the number's own units, or of its logarithm where `log`."""
        return self._stored(self.prior.rebuild().sample(key, self.loc.shape))

    def _unconstrained(self, key: jax.Array) -> jax.Array:
        return self.loc + jnp.exp(self.log_scale) * _random.normal(key, self.loc.shape)

    def _stored(self, value: jax.Array) -> jax.Array:
        return jnp.log(value) if self.log else value


def has_hypers(node: Any) -> bool:
    """Whether a prior, likelihood or model has numbers under hyper-priors."""
    return any(map(_is_hyper, jax.tree.leaves(node, is_leaf=_is_hyper)))


def draw_hypers(key: jax.Array, node: Any) -> tuple[Any, jax.Array]:
    """`node` with a draw in the place of every number under a hyper-prior, and the estimate of their KL in nats."""
    drawn = {
        path: leaf.draw(derive(key, path)) for path, leaf in named_leaves(node, _is_hyper).items() if _is_hyper(leaf)
    }
    values = map_named(lambda path, leaf: drawn[path][0] if path in drawn else leaf, node, is_leaf=_is_hyper)
    return values, sum((d for _, d in drawn.values()), start=jnp.float32(0))


def sample_hypers(key: jax.Array, node: Any) -> Any:
    """`node` with a draw from its own hyper-prior in the place of every number that has one."""
    return map_named(
        lambda path, leaf: leaf.sample_prior(derive(key, path)) if _is_hyper(leaf) else leaf, node, is_leaf=_is_hyper
    )


def _is_hyper(node: Any) -> bool:
    return isinstance(node, Hyper)
