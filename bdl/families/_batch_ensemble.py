"""BatchEnsemble: an ensemble whose members share each kernel but for rank-1 factors."""

import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from bdl import _random
from bdl._learned import fixed_field
from bdl.families._base import use_of
from bdl.families._checks import check_members, check_positive
from bdl.families._members import Chosen, draw_member, kernel_kl, own_key, scaled
from bdl.networks._use import Use


class BatchEnsemble(eqx.Module):
    """K members of an array, wₖ = kernel ∘ rₖ sₖᵀ, rₖ one number per row and sₖ one per output. See `batch_ensemble`.

    A draw of the network takes the same member everywhere; `bdl.predict` takes each member once. With local noise every
    example has a member of its own, whose factors scale the layer's inputs and outputs.

    Attributes:
        kernel: the shared array.
        rows: r, [K, *use.row_shape].
        outputs: s, [K, *use.out_shape].
        prior_scale: the standard deviation of the factors' Normal prior around 1; fixed.
    """

    kernel: jax.Array
    rows: jax.Array
    outputs: jax.Array
    prior_scale: jax.Array = fixed_field()
    spread: jax.Array = fixed_field()
    use: Use | None = eqx.field(static=True, default=None)

    local_rule: ClassVar[str] = "rank-1 factors"
    is_finite: ClassVar[bool] = True

    @property
    def members(self) -> int:
        """K."""
        return self.rows.shape[0]

    @property
    def awaits_use(self) -> bool:
        """Whether the factors are not there yet: which axes are rows is not known."""
        return self.use is None

    @property
    def mean(self) -> jax.Array:
        if self.use is None:  # all factors are still 1
            return self.kernel
        return scaled(self.kernel, self.rows, self.outputs, self.use).mean(0).astype(self.kernel.dtype)

    def member(self, index: jax.Array) -> Any:
        """The array of member `index`; where `index` is [B], the family of one member for each example."""
        rows, outputs = self.rows[index], self.outputs[index]
        if jnp.ndim(index):
            return Chosen(self.kernel, rows, outputs, self.use)
        return scaled(self.kernel, rows, outputs, use_of(self, self.kernel.shape))

    def sample(self, key: jax.Array) -> jax.Array:
        return self.member(draw_member(key, self.members))

    def bind(self, use: Use) -> "BatchEnsemble":
        if self.use is not None:
            return self
        shape = self.kernel.shape
        shapes = (self.members, *use.row_shape(shape)), (self.members, *use.out_shape(shape))
        keys = jax.random.split(own_key(0, self.kernel))
        rows, outputs = (1 + self.spread * _random.normal(k, s) for k, s in zip(keys, shapes, strict=True))
        return dataclasses.replace(self, rows=rows, outputs=outputs, use=use)

    def local(self, key: jax.Array, x: jax.Array, linear: Any) -> jax.Array:
        chosen = draw_member(key, self.members, (x.shape[0],))
        return self.member(chosen).local(key, x, linear)

    def kl(self, prior: Any) -> jax.Array:
        """−log p(kernel) − (1/K) Σₖ log Normal([rₖ, sₖ]; 1, prior_scale²), in nats: no density over w."""
        return kernel_kl(self.kernel, prior) - self.entropy()

    def entropy(self) -> jax.Array:
        """What stands for an entropy, the factors' mean log-prior (1/K) Σₖ log Normal([rₖ, sₖ]; 1, prior_scale²)."""
        factors = dist.Normal(1.0, self.prior_scale)
        return (factors.log_prob(self.rows).sum() + factors.log_prob(self.outputs).sum()) / self.members


class Copies(eqx.Module):
    """K arrays, one for each member: the biases of `batch_ensemble`.

    Attributes:
        arrays: [K, *shape].
    """

    arrays: jax.Array

    local_rule: ClassVar[str] = "one member for each example"
    is_finite: ClassVar[bool] = True

    @property
    def members(self) -> int:
        """K."""
        return self.arrays.shape[0]

    @property
    def mean(self) -> jax.Array:
        return self.arrays.mean(0)

    def member(self, index: jax.Array) -> Any:
        """The array of member `index`; where `index` is [B], the family of one member for each example."""
        return _ChosenCopies(self.arrays[index]) if jnp.ndim(index) else self.arrays[index]

    def sample(self, key: jax.Array) -> jax.Array:
        return self.member(draw_member(key, self.members))

    def kl(self, prior: Any) -> jax.Array:
        """−(1/K) Σₖ log p(wₖ), in nats: the members are point masses."""
        return kernel_kl(self.arrays, prior) / self.members

    def entropy(self) -> jax.Array:
        """What stands for an entropy: 0, as for every point mass."""
        return jnp.float32(0)


class _ChosenCopies(eqx.Module):
    arrays: jax.Array

    @property
    def mean(self) -> jax.Array:
        return self.arrays.mean(0)

    def sample(self, key: jax.Array) -> jax.Array:
        del key
        return self.arrays[0]

    def sample_each(self, key: jax.Array, examples: int) -> jax.Array:
        del key
        return self.arrays[:examples]

    def local(self, key: jax.Array, x: jax.Array, linear: Any) -> jax.Array:
        del key
        return linear.each(x, self.arrays)


@dataclasses.dataclass(frozen=True)
class _Initialiser:
    members: int
    spread: Any
    prior_scale: Any

    def __call__(self, array: Any) -> Any:
        array = jnp.asarray(array)
        if array.ndim < 2:
            return Copies(jnp.broadcast_to(array, (self.members, *array.shape)))
        ones = jnp.ones((self.members, *(1,) * array.ndim))
        return BatchEnsemble(array, ones, ones, jnp.float32(self.prior_scale), jnp.float32(self.spread))


def batch_ensemble(members: int, *, spread: Any = 0.5, prior_scale: Any = 1.0) -> Any:
    """An ensemble at the cost of one network: members share each kernel but for rank-1 factors, and have own biases.

    Its training is maximum a posteriori for every member: no density over the weights, and an objective that bounds no
    evidence. A prior of the weights is that of the shared kernel; the factors have Normal(1, prior_scale²).

    Args:
        members: K.
        spread: the standard deviation around 1 of the factors at the start. Members that start alike stay alike.
        prior_scale: the standard deviation of the factors' prior around 1.

    Returns:
        an initialiser: from an array to a `BatchEnsemble`, or to one copy for each member of an array of fewer than two
        axes (a bias).

    Raises:
        ValueError: there is no member, or a scale is not positive.

    Reference:
        Wen, Tran and Ba (2020), BatchEnsemble, https://arxiv.org/abs/2002.06715

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.ones((3, 1))})
        >>> posterior = bdl.variational(network.params, bdl.families.batch_ensemble(members=4))
        >>> model = bdl.Model(network, bdl.likelihoods.Normal())
        >>> bdl.predict(jax.random.key(0), posterior, model, jnp.ones((2, 3)), return_draws=True).draws.shape
        (4, 2, 1)
    """
    check_members("batch_ensemble", members)
    check_positive("batch_ensemble", "spread", spread)
    check_positive("batch_ensemble", "prior_scale", prior_scale)
    return _Initialiser(int(members), spread, prior_scale)
