"""How badly an autoencoder that was fitted to the training data gives an input back."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from bdl._in_batches import in_batches, joined
from bdl.networks._autoencoder import LatentOutputs
from bdl.ood._detector import Detector
from bdl.ood._through import as_function

_REDUCE = {"sum": jnp.sum, "mean": jnp.mean}


class ReconstructionError(eqx.Module):
    """The score of `reconstruction_error`.

    Attributes:
        function: from inputs to their reconstructions.
        reduce: `"sum"` or `"mean"`.
        batch_size: examples at once.
    """

    function: Any
    reduce: str = eqx.field(static=True)
    batch_size: int | None = eqx.field(static=True)

    def __call__(self, x: Any) -> jax.Array:
        """The errors [N] of inputs, examples along axis 0."""
        scores: jax.Array = joined(in_batches(lambda batch: _errors(self, batch), x, self.batch_size))
        return scores


def reconstruction_error(function: Any, *, reduce: str = "mean", batch_size: int | None = None) -> Detector:
    """The squared error of an autoencoder (higher = more out-of-distribution, in the inputs' unit squared):

        score(x) = (1/D) Σᵢ (xᵢ − f(x)ᵢ)²,   D pixels and channels, or columns.

    Fit it with the inputs as targets, `bdl.fit(..., (x, x), ...)`. Simple inputs (plain images) are often given back
    better than those of the fit, however strange they are: hold it against `likelihood_ratio`.

    Args:
        function: from inputs [N, ...] to reconstructions of their shape: a `bdl.Network` with its weights, such as
            `bdl.networks.autoencoder`; or a function, such as `bdl.function_draw(key, posterior, model)`. Of a
            variational autoencoder's `LatentOutputs` the outputs count; without a key they are those of the mean of
            q(z | x). Where the outputs are logits of pixels, pass `lambda x: jax.nn.sigmoid(f(x))`.
        reduce: `"mean"` over an example's elements, or `"sum"`: with Normal noise of standard deviation σ the sum
            divided by 2 σ² is −log p(x | f(x)) but for a constant, in nats.
        batch_size: examples at once; all where `None`.

    Raises:
        TypeError: the first is no network and no function.
        ValueError: a network without weights, or another `reduce`; at the call, reconstructions of another shape.

    Reference:
        Hinton and Salakhutdinov (2006), https://doi.org/10.1126/science.1127647; as a score, Sakurada and Yairi (2014),
        Anomaly detection using autoencoders, https://doi.org/10.1145/2689746.2689747

    Example:
        >>> import jax.numpy as jnp, bdl, bdl.ood
        >>> first = bdl.network(lambda p, x: x * p["keep"], {"keep": jnp.array([1.0, 0.0])})
        >>> bdl.ood.reconstruction_error(first, reduce="sum")(jnp.array([[5.0, 0.0], [0.0, 3.0]]))
        Array([0., 9.], dtype=float32)
    """
    if reduce not in _REDUCE:
        raise ValueError(f'reconstruction_error: expected reduce="mean" or reduce="sum", got {reduce!r}.')
    return Detector(ReconstructionError(as_function("reconstruction_error", function), reduce, batch_size))


@eqx.filter_jit
def _errors(self: ReconstructionError, x: Any) -> jax.Array:
    found = self.function(x)
    found = found.outputs if isinstance(found, LatentOutputs) else found
    if not (hasattr(x, "shape") and hasattr(found, "shape")) or x.shape != found.shape:
        raise ValueError(
            f"reconstruction_error: expected reconstructions of the inputs' shape {_shape(x)}, got {_shape(found)}. Of "
            "outputs that are means and variances pass the means: lambda x: f(x)[..., :C]."
        )
    difference = x.astype(jnp.float32) - found.astype(jnp.float32)
    # Σᵢ (xᵢ − f(x)ᵢ)², or its mean
    return _REDUCE[self.reduce](difference**2, axis=tuple(range(1, difference.ndim)))


def _shape(tree: Any) -> Any:
    return tuple(tree.shape) if hasattr(tree, "shape") else jax.tree.map(jnp.shape, tree)
