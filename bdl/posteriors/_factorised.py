"""A posterior that factorises over the weight arrays: a tree of families."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from bdl._family import is_family, mean_of, num_members
from bdl._keys import derive
from bdl._learned import learned_field
from bdl._paths import map_named, match, named_leaves
from bdl.families._members import draw_member
from bdl.networks._base import as_params
from bdl.networks._use import Use


class Factorised(eqx.Module):
    """q(w) = Π q(w_path), a family per weight array. Made by `bdl.variational`.

    Attributes:
        tree: nested dicts, as the network's params, of families and of plain arrays, which are point masses.
    """

    tree: Any = learned_field()

    def sample(self, key: jax.Array) -> Any:
        """One draw of the weights. The array at a path has a key of its own, whatever else is in the tree."""
        chosen = self.member(draw_member(key, self.members)) if self.members > 1 else self
        return map_named(
            lambda path, leaf: leaf.sample(derive(key, path)) if is_family(leaf) else leaf,
            chosen.tree,
            is_leaf=is_family,
        )

    @property
    def members(self) -> int:
        """K where the arrays are those of one of K networks, the same one for all; 1 where there is none such.

        Raises:
            ValueError: the families have different numbers of members.
        """
        counts = {path: f.members for path, f in self.families.items() if num_members(f) > 1}
        if len(set(counts.values())) > 1:
            raise ValueError(
                f"a draw takes the same member of every array, but their numbers differ: {counts}. Give all of them "
                "the same number of members."
            )
        return next(iter(counts.values()), 1)

    def member(self, index: Any) -> "Factorised":
        """The posterior of member `index`, or of one member for each example where `index` is [B]."""
        return Factorised(
            jax.tree.map(lambda f: f.member(index) if num_members(f) > 1 else f, self.tree, is_leaf=is_family)
        )

    def relaxed(self) -> "Factorised":
        """The posterior whose draws have gradients with respect to all that is learned; what objectives draw from."""
        return Factorised(
            jax.tree.map(lambda f: f.relaxed() if hasattr(f, "relaxed") else f, self.tree, is_leaf=is_family)
        )

    @property
    def mean(self) -> Any:
        """E[w], nested dicts of arrays."""
        return jax.tree.map(mean_of, self.tree, is_leaf=is_family)

    @property
    def leaves(self) -> dict[str, Any]:
        """Families and point masses by path."""
        return named_leaves(self.tree, is_leaf=is_family)

    @property
    def families(self) -> dict[str, Any]:
        """The families by path, without the point masses."""
        return {path: leaf for path, leaf in self.leaves.items() if is_family(leaf)}

    def bind(self, uses: Mapping[str, Use]) -> "Factorised":
        """The posterior whose families know how the network uses their arrays."""
        tree = map_named(
            lambda path, leaf: leaf.bind(uses[path]) if hasattr(leaf, "bind") else leaf, self.tree, is_leaf=is_family
        )
        return Factorised(tree)


def variational(params: Any, families: Callable[[Any], Any] | Mapping[str, Callable[[Any], Any]]) -> Factorised:
    """A posterior over the weights of a network, around `params`.

    Args:
        params: the network's weights, nested dicts of arrays: `network.params`.
        families: one initialiser for all arrays, such as `bdl.families.normal()`, or a dict of them by path glob. A
            glob is `fnmatch` on `a/b/c`, so that `*` crosses `/`; the first that matches decides; an array that none
            matches is a point mass. An initialiser is any function from an array to a family.

    Raises:
        ValueError: a glob matches no path, and the message lists the paths; or there are no params.
        TypeError: a parameter is not a floating array, or an initialiser returned something else than a family.

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> params = {"hidden": {"kernel": jnp.ones((3, 4))}, "head": {"kernel": jnp.ones((4, 1))}}
        >>> posterior = bdl.variational(params, {"head/*": bdl.families.normal(scale=0.1)})
        >>> list(posterior.families)
        ['head/kernel']
        >>> posterior.sample(jax.random.key(0))["hidden"]["kernel"].shape
        (3, 4)
    """
    params = as_params(params)
    if not jax.tree.leaves(params):
        raise ValueError(
            "variational: expected the network's weights, got no array. The network inside of a model has none: pass "
            "`network.params` of the one that the model was made from, or `posterior.mean` of one that was fitted."
        )
    if not isinstance(families, Mapping):
        families = {"*": families}
    chosen = match(families, named_leaves(params), "variational")

    def build(path: str, array: jax.Array) -> Any:
        leaf = chosen[path](array) if path in chosen else array
        if not (is_family(leaf) or (eqx.is_array(leaf) and jnp.shape(leaf) == array.shape)):
            raise TypeError(
                f"variational: the initialiser of {path!r} returned {leaf!r}; expected a family (with `sample` and "
                "`mean`) or an array of the same shape. Pass an initialiser such as `bdl.families.normal()`."
            )
        return leaf

    return Factorised(map_named(build, params))
