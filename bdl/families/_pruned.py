"""A family of which some weights are exactly zero."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from numpyro.distributions.kl import kl_divergence

from bdl._learned import fixed_field
from bdl.networks._use import Use


class Pruned(eqx.Module):
    """Draws of another family, with zeros where a weight is not kept. Made by `bdl.prune`.

    A kept weight has the value of the family's own draw under the same key, and goes on learning should training go on;
    a pruned one stays zero. There is no density over all weights, so the objective is no bound on the evidence.

    Attributes:
        family: the family of all weights.
        mask: 1 where a weight is kept and 0 where it is pruned, float32 of the array's shape; fixed.
    """

    family: Any
    mask: jax.Array = fixed_field()

    @property
    def keep(self) -> jax.Array:
        """Whether a weight is kept, `bool` of the array's shape."""
        return self.mask > 0

    @property
    def mean(self) -> jax.Array:
        return self._masked(self.family.mean)

    @property
    def scale(self) -> jax.Array:
        """The standard deviation, 0 where a weight is pruned."""
        return self._masked(self.family.scale)

    def sample(self, key: jax.Array) -> jax.Array:
        return self._masked(self.family.sample(key))

    def bind(self, use: Use) -> "Pruned":
        return self._with(self.family.bind(use)) if hasattr(self.family, "bind") else self

    def relaxed(self) -> "Pruned":
        return self._with(self.family.relaxed()) if hasattr(self.family, "relaxed") else self

    def kl(self, prior: Any) -> jax.Array:
        """The KL of the kept weights to their prior, in nats; the zeros are constants of the network and cost nothing.

        Raises:
            ValueError: numpyro registers no closed form for the pair, or the family's weights are dependent.
        """
        marginals = getattr(self.family, "distribution", None)
        try:
            if marginals is None or hasattr(self.family, "total_correlation"):
                raise NotImplementedError
            terms = kl_divergence(marginals, prior)
        except NotImplementedError:
            raise ValueError(
                f"the kept weights of a pruned {type(self.family).__name__} have no closed-form KL to the prior "
                f"{type(prior).__name__}. Take the KL before pruning, or go on with a Normal prior."
            ) from None
        return self._masked(jnp.broadcast_to(terms, self.mask.shape)).sum()

    # What follows is there where the family has it: a property that raises AttributeError is absent to `hasattr`.

    @property
    def sample_each(self) -> Callable[[jax.Array, int], jax.Array]:
        draws = self.family.sample_each
        return lambda key, examples: self._masked(draws(key, examples))

    @property
    def local(self) -> Callable[[jax.Array, jax.Array, Any], jax.Array]:
        rule = self.family.local
        return lambda key, x, linear: rule(key, x, _Masked(linear, self._masked))

    @property
    def local_rule(self) -> str:
        return self.family.local_rule

    @property
    def use(self) -> Use | None:
        return self.family.use

    @property
    def awaits_use(self) -> bool:
        return self.family.awaits_use

    @property
    def view(self) -> Callable[[Callable[[jax.Array], jax.Array]], "Pruned"]:
        view = self.family.view
        return lambda function: Pruned(view(function), function(self.mask))

    def _masked(self, w: jax.Array) -> jax.Array:
        return jnp.where(self.keep, w, 0)

    def _with(self, family: Any) -> "Pruned":
        return dataclasses.replace(self, family=family)


class _Masked:
    """The linear operation of a local rule, with zeros for the pruned weights.

    Whatever the rule does with draws, moments or factors of the weights, it does linearly: x ↦ linear(x, mask ⊙ w), and
    mask² is mask.
    """

    def __init__(self, linear: Any, masked: Callable[[jax.Array], jax.Array]):
        self._linear, self._masked = linear, masked

    def __call__(self, x: jax.Array, w: jax.Array) -> jax.Array:
        return self._linear(x, self._masked(w))

    def each(self, x: jax.Array, w: jax.Array) -> jax.Array:
        return self._linear.each(x, self._masked(w))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._linear, name)
