"""The three kinds of not knowing, side by side: aleatoric, epistemic, out-of-distribution."""

from typing import Any

import equinox as eqx
import jax
import numpy as np

from bdl.ood._detector import Detector
from bdl.uncertainty import ClassPrediction, Prediction

_SHOWN = 20  # rows that print


class Report(eqx.Module):
    """What is not known of each input, and why. It prints as a table, with the mean over an input's targets or pixels.

    Attributes:
        aleatoric: what the data cannot tell: in nats for classes, else a variance in the targets' unit squared;
            [N, ...], of the prediction's shape.
        epistemic: what the model does not know, likewise.
        score: the detector's, [N], higher = more out-of-distribution.
        p_value: the conformal p-value of the score among held-out inliers, [N]; `None` where the detector has none.
        unit: of the first two.
    """

    aleatoric: jax.Array
    epistemic: jax.Array
    score: jax.Array
    p_value: jax.Array | None
    unit: str = eqx.field(static=True)

    def __str__(self) -> str:
        columns = {f"aleatoric [{self.unit}]": self.aleatoric, f"epistemic [{self.unit}]": self.epistemic}
        columns |= {"out-of-distribution": self.score} | ({} if self.p_value is None else {"p-value": self.p_value})
        shown = {name: _by_input(np.asarray(column)[:_SHOWN]) for name, column in columns.items()}
        lines = [["input", *shown]]
        lines += [[str(i), *(f"{v:.3g}" for v in row)] for i, row in enumerate(zip(*shown.values(), strict=True))]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = ["  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in lines]
        more = len(self.score) - _SHOWN
        return "\n".join(text + [f"and {more} more"] * (more > 0))


def report(prediction: ClassPrediction | Prediction, detector: Detector, x: Any) -> Report:
    """Aleatoric and epistemic uncertainty, out-of-distribution score and p-value of each input.

    An input may be hard (aleatoric), unlike what the model has learned to answer (epistemic), or unlike the training
    data (out-of-distribution); the parts ask for other data, more data, and no answer.

    Args:
        prediction: `bdl.predict(..., x)`.
        detector: of inputs, with held-out inliers for p-values: `detector.held_out(x_validation)`. One of logits or
            features becomes one of inputs by `bdl.ood.through`.
        x: the inputs of the prediction, examples along axis 0.

    Raises:
        TypeError: the first is no prediction, or the second no detector.
        ValueError: there is not one score for each example of the prediction.

    Example:
        >>> import jax, jax.numpy as jnp, bdl, bdl.ood
        >>> network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.ones((1, 1))})
        >>> posterior = bdl.variational(network.params, bdl.families.point)
        >>> model, x = bdl.Model(network, bdl.likelihoods.Normal(scale=0.5)), jnp.array([[0.5], [3.0]])
        >>> detector = bdl.ood.Detector(lambda x: jnp.abs(x[:, 0])).held_out(jnp.linspace(-1, 1, 201)[:, None])
        >>> print(bdl.ood.report(bdl.predict(jax.random.key(0), posterior, model, x), detector, x))
        input  aleatoric [variance]  epistemic [variance]  out-of-distribution  p-value
            0                  0.25                     0                  0.5    0.505
            1                  0.25                     0                    3  0.00495
    """
    if not isinstance(prediction, ClassPrediction | Prediction):
        raise TypeError(f"report: expected what bdl.predict returns, got {type(prediction).__name__}.")
    if not isinstance(detector, Detector):
        raise TypeError(
            f"report: expected a detector, got {type(detector).__name__}. Make one: bdl.ood.Detector(function)."
        )
    score = detector(x)
    if score.shape != prediction.aleatoric.shape[:1]:
        raise ValueError(
            f"report: expected one score for each of the prediction's {prediction.aleatoric.shape[:1]} examples, got "
            f"the shape {score.shape}. Pass the inputs of the prediction; of scores by pixel take a mean in a detector."
        )
    p_value = None if detector.inliers is None else Detector(_itself, detector.inliers).p_value(score)
    unit = "nats" if isinstance(prediction, ClassPrediction) else "variance"
    return Report(prediction.aleatoric, prediction.epistemic, score, p_value, unit)


def _itself(score: jax.Array) -> jax.Array:
    return score


def _by_input(column: np.ndarray) -> np.ndarray:
    """One number an input: the mean over its targets, labels or pixels."""
    return column.reshape(len(column), -1).mean(1)
