"""What comes in at the door of a score of logits, checked with NumPy outside of any trace."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdl._data_checks import is_traced


def as_logits(name: str, logits: Any) -> jax.Array:
    """Logits [..., K] as float32, checked.

    Args:
        name: of the score, for the messages.
        logits: [..., K], K ≥ 2.

    Raises:
        ValueError: there is no axis of at least two classes, no example, or a logit is not finite.
    """
    if not hasattr(logits, "shape") or len(logits.shape) < 1 or logits.shape[-1] < 2:
        got = f"the shape {tuple(logits.shape)}" if hasattr(logits, "shape") else f"a {type(logits).__name__}"
        raise ValueError(
            f"{name}: expected logits [..., K] of K >= 2 classes, got {got}. The logit z of one of two classes is "
            "jnp.stack([jnp.zeros_like(z), z], -1); of a network with several outputs pass the logits alone."
        )
    if 0 in logits.shape:
        raise ValueError(f"{name}: there is no example in logits of shape {tuple(logits.shape)}. Pass at least one.")
    logits = jnp.asarray(logits).astype(jnp.float32)
    if not is_traced(logits):
        array = np.asarray(logits)
        if not np.isfinite(array).all():
            raise ValueError(
                f"{name}: expected finite logits, got {array[~np.isfinite(array)][0]}. For probabilities that may be 0 "
                "pass jnp.log(jnp.maximum(probs, 1e-38)); look for inputs of the network that are not finite."
            )
    return logits


def check_positive(name: str, called: str, value: Any) -> None:
    """Whether a number is above 0 and finite, where it has a value yet."""
    if not is_traced(value) and not (np.ndim(value) == 0 and 0 < value < np.inf):
        raise ValueError(f"{name}: expected one {called} above 0, got {value}.")
