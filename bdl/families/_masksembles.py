"""Masksembles: a few fixed masks in the place of dropout's random ones."""

import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bdl._learned import fixed_field
from bdl.families._base import use_of
from bdl.families._checks import check_members
from bdl.families._members import Chosen, draw_member, kernel_kl, scaled
from bdl.networks._use import Use


class Masksembles(eqx.Module):
    """K members of an array, wₖ = kernel ∘ maskₖ, with a fixed mask over the rows for each. See `masksembles`.

    Attributes:
        kernel: the shared array.
        masks: [K, *use.row_shape], 0 or the inverse of the share of rows that a mask keeps; fixed.
        overlap: how much the masks overlap.
    """

    kernel: jax.Array
    masks: jax.Array = fixed_field()
    overlap: float = eqx.field(static=True, default=1.0)
    use: Use | None = eqx.field(static=True, default=None)

    local_rule: ClassVar[str] = "input mask"
    is_finite: ClassVar[bool] = True

    @property
    def members(self) -> int:
        """K."""
        return self.masks.shape[0]

    @property
    def mean(self) -> jax.Array:
        if self.use is None:  # all masks are still 1
            return self.kernel
        return scaled(self.kernel, self.masks.mean(0), None, self.use)

    def member(self, index: jax.Array) -> Any:
        """The array of member `index`; where `index` is [B], the family of one member for each example."""
        if jnp.ndim(index):
            return Chosen(self.kernel, self.masks[index], None, self.use)
        return scaled(self.kernel, self.masks[index], None, use_of(self, self.kernel.shape))

    def sample(self, key: jax.Array) -> jax.Array:
        return self.member(draw_member(key, self.members))

    def bind(self, use: Use) -> "Masksembles":
        if self.use is not None:
            return self
        rows = use.row_shape(self.kernel.shape)
        masks = fixed_masks(self.members, int(np.prod(rows)), self.overlap)
        return dataclasses.replace(self, masks=jnp.asarray(masks.reshape(self.members, *rows)), use=use)

    def local(self, key: jax.Array, x: jax.Array, linear: Any) -> jax.Array:
        return self.member(draw_member(key, self.members, (x.shape[0],))).local(key, x, linear)

    def kl(self, prior: Any) -> jax.Array:
        """−log p(kernel) in nats: the kernel is a point mass, and the masks are not learned."""
        return kernel_kl(self.kernel, prior)

    def entropy(self) -> jax.Array:
        """What stands for an entropy: 0, as for every point mass."""
        return jnp.float32(0)


def fixed_masks(members: int, rows: int, overlap: float) -> np.ndarray:
    """[K, rows] masks that keep equally many rows each, such that every row is kept by one at least.

    A mask keeps M = rows / (s (1 − (1 − 1/s)^K)) rows, s the overlap: the number at which K random choices of M out of
    M s places are expected to cover `rows` of them. Kept rows are rescaled by rows / M.
    """
    covered = overlap * (1 - (1 - 1 / overlap) ** members)
    keep = min(rows, max(-(-rows // members), round(rows / covered)))
    generator = np.random.default_rng([members, rows])
    masks = np.zeros((members, rows), np.float32)
    for mask, own in zip(masks, np.array_split(generator.permutation(rows), members), strict=True):
        others = np.setdiff1d(np.arange(rows), own)
        mask[own] = 1
        mask[generator.choice(others, keep - len(own), replace=False)] = 1
    return masks * rows / keep


@dataclasses.dataclass(frozen=True)
class _Initialiser:
    members: int
    overlap: float

    def __call__(self, array: Any) -> Any:
        array = jnp.asarray(array)
        if array.ndim < 2:
            return array
        return Masksembles(array, jnp.ones((self.members, *(1,) * array.ndim)), self.overlap)


def masksembles(members: int = 4, overlap: float = 2.0) -> Any:
    """An ensemble of K sub-networks of one network, each with fixed masks on the rows of its kernels.

    Between dropout (many masks) and an ensemble (masks without a common row): with an overlap of 1 all masks are full,
    and the larger it is the less the members share. Arrays of fewer than two axes stay point masses. The objective is
    a penalised likelihood, and bounds no evidence.

    Args:
        members: K.
        overlap: s ≥ 1, the scale of the paper: a mask keeps about 1 / (s (1 − (1 − 1/s)^K)) of the rows.

    Returns:
        an initialiser: from an array to a `Masksembles`. Its masks are made once the network has been looked at.

    Raises:
        ValueError: there is no member, or the overlap is below 1.

    Reference:
        Durasov, Bagautdinov, Baque and Fua (2021), Masksembles for uncertainty estimation,
        https://arxiv.org/abs/2012.08334. There the masks are drawn until they fit a layer's width; here each keeps the
        same number of rows for any width.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> params = {"w": jnp.ones((8, 1))}
        >>> posterior = bdl.variational(params, bdl.families.masksembles(members=4, overlap=2.0))
        >>> network = bdl.network(lambda p, x: x @ p["w"], params)
        >>> posterior, _ = bdl.bind(posterior, bdl.Model(network, bdl.likelihoods.Normal()), jnp.ones((1, 8)))
        >>> (posterior.tree["w"].masks > 0).sum((1, 2)).tolist()
        [4, 4, 4, 4]
    """
    check_members("masksembles", members)
    if not 1 <= float(overlap) < float("inf"):
        raise ValueError(f"families.masksembles: expected an overlap of at least 1, got {overlap}.")
    return _Initialiser(int(members), float(overlap))
