"""What is known of a network's weights without the weights: their structure, shapes and dtypes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bdl._paths import named_leaves


class Weights(NamedTuple):
    """Structure, shapes and dtypes of the weights of a network, hashable and without arrays.

    Attributes:
        structure: of the nested dicts.
        arrays: path, shape and dtype name of each array.
    """

    structure: Any
    arrays: tuple[tuple[str, tuple[int, ...], str], ...]

    def zeros(self) -> Any:
        """Nested dicts of arrays of zeros."""
        return jax.tree.unflatten(self.structure, [jnp.zeros(shape, dtype) for _, shape, dtype in self.arrays])


def weights_of(params: Any) -> Weights:
    """Structure, shapes and dtypes of `params`.

    Example:
        >>> import jax.numpy as jnp
        >>> weights_of({"head": {"kernel": jnp.ones((3, 1))}}).arrays
        (('head/kernel', (3, 1), 'float32'),)
    """
    arrays = tuple((path, tuple(array.shape), array.dtype.name) for path, array in named_leaves(params).items())
    return Weights(jax.tree.structure(params), arrays)
