"""Predictions of classes under shift: how accuracy, likelihood and calibration fall with the severity."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from bdl._keys import check_key, derive
from bdl.diagnostics import _checks
from bdl.diagnostics._corruptions import CORRUPTIONS, check_images, corrupt
from bdl.log_predictive import log_predictive
from bdl.metrics import expected_calibration_error, log_likelihood
from bdl.model import Model
from bdl.predict import predict
from bdl.uncertainty import ClassPrediction


class Shift(eqx.Module):
    """Scores of one posterior on corrupted images, a row for each corruption, a column for each severity.

    Attributes:
        corruptions: the rows' names.
        severities: of the columns; the first is 0, the images as they are, the same in all rows.
        accuracy: [R, 1 + V], the share of images whose most probable class is the label (higher is better).
        negative_log_likelihood: the mean of −log p(label), in nats (lower is better).
        calibration_error: the expected calibration error (lower is better, a difference of probabilities).
    """

    corruptions: tuple[str, ...] = eqx.field(static=True)
    severities: tuple[int, ...] = eqx.field(static=True)
    accuracy: jax.Array
    negative_log_likelihood: jax.Array
    calibration_error: jax.Array


def under_shift(
    key: Any,
    posterior: Any,
    model: Model,
    data: tuple[Any, Any],
    *,
    corruptions: Sequence[str] = CORRUPTIONS,
    severities: Sequence[int] = (1, 2, 3, 4, 5),
    table: str = "cifar10-c",
    preprocess: Callable[[jax.Array], Any] | None = None,
    num_samples: int | None = None,
    batch_size: int | None = None,
    num_bins: int = 15,
) -> Shift:
    """A posterior's predictions of images that are corrupted more and more: right probabilities fall with the accuracy.

    The draws of the weights and the corrupted images depend on the key alone: posteriors that are given the same one
    see the same images.

    Args:
        key: one random key.
        posterior: anything with `sample(key)`.
        model: network and likelihood, over classes.
        data: images [N, H, W, C] in [0, 1] and labels [N].
        corruptions: of `bdl.diagnostics.CORRUPTIONS`.
        severities: of 1, …, 5.
        table: of the severities; see `bdl.diagnostics.corrupt`.
        preprocess: from images in [0, 1] to the network's inputs: standardises, or reshapes.
        num_samples: draws of the weights, as in `bdl.predict`.
        batch_size: images that are predicted at once.
        num_bins: of the calibration error.

    Returns:
        `Shift`.

    Raises:
        ValueError: images of another shape or range, labels of another shape, an unknown corruption or severity, or a
            model that is not over classes.

    Reference:
        Ovadia et al. (2019), Can you trust your model's uncertainty? Evaluating predictive uncertainty under dataset
        shift, https://arxiv.org/abs/1906.02530

    Example:
        >>> import jax, jax.numpy as jnp, bdl, bdl.diagnostics
        >>> network = bdl.network(lambda p, x: x.reshape(len(x), -1) @ p["w"], {"w": jnp.eye(16)[:, :2]})
        >>> posterior = bdl.variational(network.params, bdl.families.point)
        >>> model = bdl.Model(network, bdl.likelihoods.Categorical())
        >>> images = jnp.zeros((2, 4, 4, 1)).at[jnp.arange(2), 0, jnp.arange(2)].set(1.0)
        >>> data = (images, jnp.arange(2))
        >>> found = bdl.diagnostics.under_shift(jax.random.key(0), posterior, model, data, corruptions=["contrast"])
        >>> found.accuracy.shape, bool(jnp.all(jnp.diff(found.negative_log_likelihood[0]) > 0))
        ((1, 6), True)
    """
    key = check_key(key)
    images, labels = check_images("under_shift", data[0]), jnp.asarray(data[1])
    corruptions = (corruptions,) if isinstance(corruptions, str) else tuple(corruptions)
    severities = tuple(severities)
    if not corruptions or not severities:
        raise ValueError("under_shift: expected at least one of corruptions and of severities.")
    _checks.whole("under_shift", "num_bins", num_bins, 1)

    def scores(images: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        x = images if preprocess is None else preprocess(images)
        found = predict(key, posterior, model, x, num_samples=num_samples, batch_size=batch_size)
        probs = _probabilities(found)
        error = expected_calibration_error(probs, labels, num_bins=num_bins)
        likelihood = log_likelihood(probs, labels)
        if not jnp.isfinite(likelihood):  # a probability below float32's smallest, whose logarithm is a number
            data = x, labels
            likelihood = log_predictive(
                key, posterior, model, data, num_samples=num_samples, batch_size=batch_size
            ).mean()
        return _accuracy(probs, labels), -likelihood, error

    clean = scores(images)
    rows = [
        [
            clean,
            *(scores(corrupt(derive(key, "shift"), images, name, severity, table=table)) for severity in severities),
        ]
        for name in corruptions
    ]
    accuracy, nll, error = (jnp.stack([jnp.stack([cell[i] for cell in row]) for row in rows]) for i in range(3))
    return Shift(corruptions, (0, *severities), accuracy, nll, error)


@jax.jit
def _accuracy(probs: jax.Array, labels: jax.Array) -> jax.Array:
    return (probs.argmax(-1) == labels).mean()


def _probabilities(prediction: Any) -> jax.Array:
    if not isinstance(prediction, ClassPrediction):
        raise ValueError("under_shift: accuracy and calibration error are of classes, and this model is a regression.")
    probs = prediction.probs
    # Labels that are 0 or 1 have the probability of 1 alone.
    return probs if probs.ndim > prediction.entropy.ndim else jnp.stack([1 - probs, probs], -1)
