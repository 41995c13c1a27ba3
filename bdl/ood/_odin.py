"""ODIN: a temperature, and a small step of the input towards the class it is taken for."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bdl._convolutions import fast_images
from bdl._data_checks import is_traced
from bdl._in_batches import in_batches, joined
from bdl.ood._detector import Detector
from bdl.ood._logit_checks import as_logits, check_positive
from bdl.ood._logits import log_odds
from bdl.ood._preprocessed import stepped
from bdl.ood._through import as_function


def odin(function: Any, *, temperature: Any = 1000.0, epsilon: Any = 0.0014, batch_size: int | None = None) -> Detector:
    """ODIN, a detector of a classifier's inputs (higher = more out-of-distribution, in [0, 1 − 1/K]):

        1 − maxₖ softmax(f(x̃) / T)ₖ,   x̃ = x + ε sign(∇ₓ log maxₖ softmax(f(x) / T)ₖ).

    The step makes inputs more certain, those of the training distribution more than others; the temperature stands in
    the gradient and in the score. An input whose gradient is 0 stays. It costs three passes of the network: forward,
    backward, forward.

    The paper chooses T and ε on outliers. Without them, take T = 1000 and that ε for which the mean score of held-out
    inliers is lowest (Hsu et al. 2020).

    Args:
        function: from inputs to logits [N, K]: a `bdl.Network` with its weights, or a function such as
            `bdl.function_draw(key, posterior, model)`; see `bdl.ood.through`. It is to treat examples one by one.
        temperature: T > 0.
        epsilon: ε ≥ 0 in the unit of the inputs, a number, or an array that broadcasts against one example: for
            channels that were divided by their standard deviations s, ε / s. The default is the paper's for a DenseNet
            on CIFAR-10, with pixels in [0, 1].
        batch_size: examples at once, so that memory does not grow with their number; all where `None`.

    Returns:
        A detector of inputs [N, ...] of any shape: rows of a table, images with any number of channels.

    Raises:
        ValueError: a temperature that is not above 0, an ε that is negative or not finite; and at the call, inputs that
            are not floating, outputs that are no logits, an ε that does not broadcast against an example.
        TypeError: `function` is neither a network nor a function.

    Reference:
        Liang, Li and Srikant (2018), Enhancing the reliability of out-of-distribution image detection in neural
        networks, https://arxiv.org/abs/1706.02690; Hsu et al. (2020), Generalized ODIN,
        https://arxiv.org/abs/2002.11297

    Example:
        >>> import jax.numpy as jnp, bdl, bdl.ood
        >>> line = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.array([[1.0, -1.0]])})
        >>> detector = bdl.ood.odin(line, temperature=2.0, epsilon=0.5)
        >>> detector(jnp.array([[1.5], [-0.5]]))  # x̃ = 2 and −1: 1 / (1 + e²) and 1 / (1 + e)
        Array([0.1192..., 0.2689...], dtype=float32)
    """
    check_positive("odin", "temperature", temperature)
    if not is_traced(epsilon) and not (np.isfinite(epsilon).all() and np.all(np.asarray(epsilon) >= 0)):
        raise ValueError(f"odin: expected epsilon of at least 0 and finite, got {epsilon}.")
    temperature, epsilon = (jnp.asarray(number).astype(jnp.float32) for number in (temperature, epsilon))
    return Detector(Odin(as_function("odin", function), temperature, epsilon, batch_size))


class Odin(eqx.Module):
    """x ↦ 1 − maxₖ softmax(f(x̃) / T)ₖ."""

    function: Callable[[Any], Any]
    temperature: jax.Array
    epsilon: jax.Array
    batch_size: int | None = eqx.field(static=True, default=None)

    def __call__(self, x: Any) -> jax.Array:
        """The scores [N] of inputs [N, ...]."""
        _check_inputs(x, self.epsilon)
        scores: jax.Array = joined(in_batches(lambda batch: _score(self, batch), x, self.batch_size))
        return scores


@eqx.filter_jit
def _score(odin: Odin, x: jax.Array) -> jax.Array:
    def odds(x: jax.Array) -> jax.Array:
        return log_odds(_logits(odin.function(x), len(x)) / odin.temperature)

    # −log max p rises with the log odds, whose gradient does not vanish where p rounds to 1: x̃ = x − ε sign(∇ log odds)
    slope = fast_images(jax.grad(lambda x: odds(x).sum()))(x)
    return jax.nn.sigmoid(odds(stepped(x, slope, odin.epsilon)))


def _check_inputs(x: Any, epsilon: jax.Array) -> None:
    if not hasattr(x, "dtype") or not jnp.issubdtype(x.dtype, np.floating) or not x.ndim:
        got = f"{x.dtype} of shape {x.shape}" if hasattr(x, "dtype") else f"a {type(x).__name__}"
        raise ValueError(
            f"odin: expected one array of floating inputs, examples along axis 0, got {got}: it takes a step along "
            "their gradient. Scale images to [0, 1], or as in training."
        )
    wide = epsilon.ndim > x.ndim - 1
    if wide or any(e not in (1, n) for e, n in zip(epsilon.shape[::-1], x.shape[:0:-1], strict=False)):
        raise ValueError(
            f"odin: epsilon of shape {epsilon.shape} does not broadcast against one example of shape {x.shape[1:]}. "
            "Pass a number, or one for each channel where channels are the last axis."
        )


def _logits(outputs: Any, length: int) -> jax.Array:
    logits = as_logits("odin", outputs)
    if logits.ndim != 2 or len(logits) != length:
        raise ValueError(f"odin: expected a function to logits [{length}, K], got the shape {logits.shape}.")
    return logits
