"""Rank-1 factors on the rows and outputs of an array: one pair for each example, by which members share a kernel."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from bdl._keys import derive
from bdl.families._base import use_of
from bdl.networks._use import Use


class Chosen(eqx.Module):
    """For each example b of a batch the array kernel ∘ rows_b ∘ outputs_b.

    Attributes:
        kernel: the array.
        rows: [B, *use.row_shape].
        outputs: [B, *use.out_shape], or `None`.
    """

    kernel: jax.Array
    rows: jax.Array
    outputs: jax.Array | None
    use: Use | None = eqx.field(static=True, default=None)

    @property
    def mean(self) -> jax.Array:
        return self.kernel

    def sample(self, key: jax.Array) -> jax.Array:
        """The array of the first example."""
        return self.sample_each(key, 1)[0]

    def sample_each(self, key: jax.Array, examples: int) -> jax.Array:
        del key
        outputs = None if self.outputs is None else self.outputs[:examples]
        return scaled(self.kernel, self.rows[:examples], outputs, use_of(self, self.kernel.shape))

    def bind(self, use: Use) -> "Chosen":
        return dataclasses.replace(self, use=use)

    def local(self, key: jax.Array, x: jax.Array, linear: Any) -> jax.Array:
        del key
        ins, outs = (self.outputs, self.rows) if linear.transposed else (self.rows, self.outputs)
        result = linear(x if ins is None else x * linear.inputs(ins).astype(x.dtype), self.kernel)
        return result if outs is None else result * linear.outputs(outs).astype(result.dtype)


def scaled(kernel: jax.Array, rows: jax.Array, outputs: jax.Array | None, use: Use) -> jax.Array:
    """Kernel ∘ rows ∘ outputs; axes before those of the kernel are kept."""
    factor = use.expand(rows, kernel.shape)
    if outputs is not None:
        factor = factor * outputs
    return (kernel * factor).astype(kernel.dtype)


def kernel_kl(kernel: jax.Array, prior: Any) -> jax.Array:
    """−Σ log p(kernel) in nats: what a kernel that is a point mass contributes.

    Raises:
        ValueError: the prior is improper, and its density infinite at 0, where a point mass would run off to.
    """
    if getattr(prior, "improper", False):
        raise ValueError(
            f"the density of {type(prior).__name__} is infinite at 0, where a weight that is a point mass runs off to. "
            "Give it a proper prior, such as priors.fan_in(), or none, by path; or a family with a density."
        )
    w = kernel.astype(jnp.float32)
    return -jnp.broadcast_to(prior.log_prob(w), w.shape).sum()


def draw_member(key: jax.Array, members: int, shape: tuple[int, ...] = ()) -> jax.Array:
    """Which of `members` members, uniformly: the same for every array of a network."""
    return jax.random.randint(derive(key, "member"), shape, 0, members)


def own_key(seed: int, array: jax.Array) -> jax.Array:
    """A key for initial values: another one for another array, and the same at each call."""
    return jax.random.fold_in(
        jax.random.key(seed), lax.bitcast_convert_type(array.astype(jnp.float32).sum(), jnp.uint32)
    )
