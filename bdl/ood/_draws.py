"""Scores of a Bayesian prediction, higher = more out-of-distribution, and a detector of inputs by them."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np

from bdl._data_checks import is_traced
from bdl._draws import check_counts
from bdl._keys import check_key
from bdl.model import Model
from bdl.ood._detector import Detector
from bdl.predict import predict
from bdl.uncertainty import ClassPrediction, Prediction


def from_draws(
    key: Any,
    posterior: Any,
    model: Model,
    score: Callable[[Any], jax.Array],
    *,
    num_samples: int | None = None,
    chunk_size: int | None = None,
    batch_size: int | None = None,
) -> Detector:
    """A detector of inputs by what draws of the weights say of them: `score(bdl.predict(key, posterior, model, x))`.

    The key stays the same, so that all inputs are seen by the same draws.

    Args:
        key: one random key.
        posterior: anything with `sample(key)`.
        model: network and likelihood.
        score: from a `bdl.ClassPrediction` or a `bdl.Prediction` to scores, higher = more out-of-distribution:
            `bdl.ood.mutual_information`, `bdl.ood.epistemic_variance` or another of them, or a function of yours.
        num_samples: S; may be left out for a posterior without randomness.
        chunk_size: draws computed at once, as in `bdl.predict`.
        batch_size: examples at once, as in `bdl.predict`.

    Raises:
        ValueError: bad counts; and at the call, what `bdl.predict` raises.
        TypeError: `key` is no key, or `score` is no function.

    Example:
        >>> import jax, jax.numpy as jnp, bdl, bdl.ood
        >>> network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.ones((1, 1))})
        >>> posterior = bdl.variational(network.params, bdl.families.normal(scale=0.1))
        >>> model = bdl.Model(network, bdl.likelihoods.Normal(scale=0.5))
        >>> score = bdl.ood.epistemic_variance
        >>> detector = bdl.ood.from_draws(jax.random.key(0), posterior, model, score, num_samples=100)
        >>> near, far = detector(jnp.array([[0.5], [5.0]]))
        >>> round(float(far / near), 2)  # Var(w x) = x² Var(w)
        100.0
    """
    check_counts("from_draws", posterior, model, num_samples, chunk_size)
    if not callable(score):
        raise TypeError(f"from_draws: expected a function of a prediction as `score`, got {type(score).__name__}.")
    return Detector(FromDraws(check_key(key), posterior, model, score, num_samples, chunk_size, batch_size))


class FromDraws(eqx.Module):
    """x ↦ score(bdl.predict(key, posterior, model, x))."""

    key: jax.Array
    posterior: Any
    model: Model
    score: Callable[[Any], jax.Array]
    num_samples: int | None = eqx.field(static=True)
    chunk_size: int | None = eqx.field(static=True)
    batch_size: int | None = eqx.field(static=True)

    def __call__(self, x: Any) -> jax.Array:
        """The scores of inputs, examples along axis 0."""
        prediction = predict(
            self.key, self.posterior, self.model, x, num_samples=self.num_samples, chunk_size=self.chunk_size,
            batch_size=self.batch_size,
        )  # fmt: skip
        return self.score(prediction)


def mutual_information(prediction: ClassPrediction) -> jax.Array:
    """The mutual information of class and weights, the epistemic part (higher = more out-of-distribution, in nats).

    Args:
        prediction: of a classification, from `bdl.predict`.

    Returns:
        [N, ...], of the labels' shape: one score for each pixel, or each label of several.

    Raises:
        TypeError: the prediction is not of a classification. So do the other scores of classes.

    Reference:
        Gal (2016), Uncertainty in deep learning; Smith and Gal (2018), Understanding measures of uncertainty for
        adversarial example detection, https://arxiv.org/abs/1803.08533
    """
    return _classes("mutual_information", prediction).epistemic


def predictive_entropy(prediction: ClassPrediction) -> jax.Array:
    """The entropy of the mean probabilities (higher = more out-of-distribution, in nats), of the labels' shape.

    Args:
        prediction: of a classification, from `bdl.predict`.
    """
    return _classes("predictive_entropy", prediction).entropy


def expected_entropy(prediction: ClassPrediction) -> jax.Array:
    """The mean entropy of the draws, the aleatoric part (higher = more out-of-distribution, in nats).

    Of the labels' shape. It is high where classes overlap in the training data: a baseline, which `mutual_information`
    is to beat.

    Args:
        prediction: of a classification, from `bdl.predict`.
    """
    return _classes("expected_entropy", prediction).aleatoric


def variation_ratio(prediction: ClassPrediction) -> jax.Array:
    """The share of draws that vote for another class than most do (higher = more out-of-distribution, in [0, 1)).

    Of the labels' shape. With S draws it takes at most S values, so that it has ties.

    Args:
        prediction: of a classification, from `bdl.predict`.
    """
    return _classes("variation_ratio", prediction).variation_ratio


def logit_variance(prediction: ClassPrediction) -> jax.Array:
    """The variance of the logits over the draws, the mean over the classes (higher = more out-of-distribution).

    In the logits' unit squared, of the labels' shape. Softmax does not see a shift of all logits, which this contains.

    Args:
        prediction: of a classification, from `bdl.predict`.
    """
    found = _classes("logit_variance", prediction)
    variance = found.logit_variance
    return variance if variance.ndim == found.entropy.ndim else variance.mean(-1)


def predictive_variance(prediction: Prediction) -> jax.Array:
    """The variance of the targets, the mean over several (higher = more out-of-distribution, in their unit squared).

    Args:
        prediction: of a regression, from `bdl.predict`. Several targets should be in one unit: standardise them.

    Returns:
        [N, ...], of the targets' shape without the last axis.

    Raises:
        TypeError: the prediction is not of a regression.
        ValueError: there is no variance: the likelihood is a Student-t with df ≤ 2. `epistemic_variance` may exist.
    """
    return _mean("predictive_variance", prediction, "variance")


def epistemic_variance(prediction: Prediction) -> jax.Array:
    """The variance over the draws of the targets' mean (higher = more out-of-distribution, in their unit squared).

    It is `predictive_variance` without the noise, likewise the mean over several targets.

    Args:
        prediction: of a regression, from `bdl.predict`.

    Raises:
        TypeError: the prediction is not of a regression.
        ValueError: there is no mean: the likelihood is a Student-t with df ≤ 1.
    """
    return _mean("epistemic_variance", prediction, "epistemic")


def _classes(name: str, prediction: Any) -> Any:
    if not isinstance(prediction, ClassPrediction):
        raise TypeError(
            f"{name}: expected a bdl.ClassPrediction, got {type(prediction).__name__}. Pass what bdl.predict returns "
            "for a likelihood over classes; of a regression there are predictive_variance and epistemic_variance."
        )
    return prediction


def _mean(name: str, prediction: Any, part: str) -> jax.Array:
    if not isinstance(prediction, Prediction):
        raise TypeError(
            f"{name}: expected a bdl.Prediction, got {type(prediction).__name__}. Pass what bdl.predict returns for a "
            "likelihood over numbers; of classes there are mutual_information and others."
        )
    found: jax.Array = getattr(prediction, part)
    if not is_traced(found) and not np.isfinite(found).all():
        raise ValueError(
            f"{name}: the prediction's {part} is not finite. A Student-t has a variance for df > 2 and a mean for "
            "df > 1; of another likelihood, look for NaN in the inputs."
        )
    return found if found.ndim < 2 else found.mean(-1)
