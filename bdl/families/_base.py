"""What a family is: an approximate posterior over one weight array."""

from typing import Any, Protocol, runtime_checkable

import jax

from bdl.networks._use import Use, matrix_use


@runtime_checkable
class Family(Protocol):
    """A distribution over one weight array, as an `equinox.Module`.

    Its array fields are learned, unless they are declared with `bdl.families.fixed_field()`. What is constrained is
    stored unconstrained (`log_scale`) and offered as a property (`scale`).

    Two members are required, the others make it faster or more exact where they exist:

    * `log_prob(w) -> scalar` and `entropy() -> scalar`, in nats, for the KL to priors without a closed form;
    * `distribution`, a numpyro distribution over the entries, for numpyro's registry of closed-form KLs;
    * `total_correlation() -> scalar`, the entropies of the entries less the entropy of all, in nats, where entries
      depend on each other and `distribution` is that of their marginals;
    * `kl(distribution) -> scalar`, its own closed form to a numpyro distribution over the entries, or `NotImplemented`;
    * `sample_each(key, n) -> [n, *shape]`, n draws from one key, where that is cheaper than n keys;
    * `local(key, x, linear) -> [B, P', O]`, the result of the linear operation `linear(x, w)` with an own draw of `w`
      for each of the B examples; see `bdl.noise.Linear`; `local_rule` says in words which rule it is;
    * `relaxed() -> Family`, whose draws have gradients with respect to all that is learned; objectives draw from it,
      predictions never do;
    * `members` and `member(index)`, where the array is one of K that belong to K networks: a draw of the network takes
      the same member everywhere. A member is an array or a family; for `index` [B] a family of one for each example.
      `is_finite` says that members are arrays, of which predictions take each once;
    * `view(function) -> Family`, the family of a structural function of the array, where the members above commute with
      it: kernels that a network concatenates are then one product;
    * `bind(use) -> Family`, told how the network uses the array; see `bdl.networks.Use`. Where that makes learned
      arrays, `awaits_use` says that they are not there yet.
    """

    @property
    def mean(self) -> jax.Array:
        """E[w], of the array's shape."""
        ...

    def sample(self, key: jax.Array) -> jax.Array:
        """One draw of the array."""
        ...


def use_of(family: Any, shape: tuple[int, ...]) -> Use:
    """How the network uses the family's array: as bound, or by the convention of `matrix_use`."""
    return family.use if family.use is not None else matrix_use(shape)
