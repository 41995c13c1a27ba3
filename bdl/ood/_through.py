"""From a detector of logits or features to a detector of a network's inputs."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax

from bdl._in_batches import in_batches, joined
from bdl.networks._base import Network
from bdl.ood._detector import Detector


def through(function: Any, detector: Any, *, batch_size: int | None = None) -> Detector:
    """A detector of inputs x: `detector(function(x))`.

    Args:
        function: from inputs to what the detector takes, logits or features: a `bdl.Network` with its weights, which
            is applied as in prediction, or a function such as `bdl.function_draw(key, posterior, model)`. It is
            compiled once, for the function itself: define it outside of loops. One that is an `equinox.Module` hands
            its arrays over as arguments; those that a plain function holds become constants of the program.
        detector: a `Detector`, whose held-out inliers stay known, or a score such as `bdl.ood.energy`.
        batch_size: examples at once, so that memory does not grow with their number; all where `None`.

    Raises:
        TypeError: one of the two cannot be called.
        ValueError: a network without weights.

    Example:
        >>> import jax.numpy as jnp, bdl, bdl.ood
        >>> line = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.array([[1.0, -1.0]])})
        >>> detector = bdl.ood.through(line, bdl.ood.max_logit)
        >>> detector(jnp.array([[3.0], [-0.5], [0.0]]))
        Array([-3. , -0.5, -0. ], dtype=float32)
    """
    score, inliers = (detector.score, detector.inliers) if isinstance(detector, Detector) else (detector, None)
    if not callable(score):
        raise TypeError(f"through: expected a Detector or a function as `detector`, got {type(detector).__name__}.")
    return Detector(Through(as_function("through", function), score, batch_size), inliers)


class Through(eqx.Module):
    """x ↦ score(function(x)), compiled, in batches."""

    function: Callable[[Any], Any]
    score: Callable[[Any], jax.Array]
    batch_size: int | None = eqx.field(static=True, default=None)

    def __call__(self, x: Any) -> jax.Array:
        """The scores [N] of inputs, examples along axis 0."""
        scores: jax.Array = joined(
            in_batches(lambda batch: _score(self.function, self.score, batch), x, self.batch_size)
        )
        return scores


class Applied(eqx.Module):
    """A network with its weights as a function from inputs to outputs."""

    network: Network

    def __call__(self, x: Any) -> Any:
        """The outputs of the network as in prediction."""
        return self.network.apply(self.network.params, self.network.state, x)[0]


def as_function(name: str, function: Any) -> Callable[[Any], Any]:
    """A network or a function, as a function from inputs to outputs.

    Raises:
        TypeError: it is neither.
        ValueError: the network has no weights.
    """
    if isinstance(function, Network):
        if function.params is None:
            raise ValueError(
                f"{name}: this network has no weights: it is that of a model, whose weights are the posterior's. Pass "
                "bdl.function_draw(key, posterior, model)."
            )
        return Applied(function)
    if not callable(function):
        raise TypeError(
            f"{name}: expected a bdl.Network or a function from inputs to outputs, got {type(function).__name__}. "
            "Wrap other networks with bdl.from_linen, bdl.from_nnx or bdl.network."
        )
    return function


@eqx.filter_jit
def _score(function: Any, score: Any, x: Any) -> jax.Array:
    return score(function(x))
