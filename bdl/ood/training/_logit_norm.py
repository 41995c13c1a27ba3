"""Logit normalisation: a classifier that cannot win by the size of its logits."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import optax

from bdl.inference._base import Algorithm
from bdl.inference._vi import vi
from bdl.likelihoods._base import Likelihood, call
from bdl.likelihoods._wrapped import Wrapped
from bdl.model import Model
from bdl.objectives import ElboTerms, elbo
from bdl.ood.training._class_probs import class_logits
from bdl.ood.training._step import check_number

_TINY = 1e-7  # beside the norm of logits, so that zeros have a direction


def logit_norm(
    optimizer: optax.GradientTransformation,
    *,
    temperature: float = 0.04,
    num_samples: int = 1,
    noise: str = "local",
    kl_weight: Any = 1.0,
) -> Algorithm:
    """Train a classifier on the direction of its logits alone: ascend the ELBO of

        p(y | x, w) = softmax(f(x; w) / (τ ‖f(x; w)‖))_y.

    Cross-entropy makes the logits of training examples ever larger, and those of outliers with them. Here their size
    gains nothing, and the confidence of outliers stays lower. It needs no outliers.

    The model that comes back has the likelihood it came with: as in the paper, predictions and scores are of the logits
    themselves, whose size the loss left alone. Temperature-scale them where the probabilities matter.

    Args:
        optimizer: any optax optimiser; it is given the learned half of posterior and model only.
        temperature: τ. The likelihood of an example cannot exceed 1 / (1 + (K − 1) exp(−(K / (K − 1)) ^ ½ / τ)).
        num_samples, noise, kl_weight: as in `bdl.inference.vi`.

    Returns:
        An algorithm for `bdl.fit`, with the states and the history of `bdl.inference.vi`; its ELBO is that of the
        normalised logits.

    Raises:
        ValueError: the temperature is not positive; in the fit, the likelihood is not of logits.

    Reference:
        Wei et al. (2022), Mitigating neural network overconfidence with logit normalization,
        https://arxiv.org/abs/2205.09310

    Example:
        >>> import optax
        >>> from bdl.ood.training import logit_norm
        >>> algorithm = logit_norm(optax.adam(1e-3), temperature=0.04)
    """
    check_number("logit_norm", "temperature", temperature, positive=True)

    def objective(key: Any, posterior: Any, model: Model, data: Any, **options: Any) -> ElboTerms:
        normalised = dataclasses.replace(model, likelihood=NormalisedLogits(model.likelihood, temperature))
        return elbo(key, posterior, normalised, data, **options)

    return vi(optimizer, num_samples=num_samples, noise=noise, kl_weight=kl_weight, objective=objective)


class NormalisedLogits(Wrapped):
    """`likelihood` of logits f / (τ ‖f‖), for outputs f [N, ..., K]."""

    likelihood: Likelihood
    temperature: Any

    def __call__(self, outputs: Any, *, key: Any = None) -> Any:
        """The distribution of the classes."""
        class_logits("logit_norm", call(self.likelihood, outputs, key))
        # f / (τ (‖f‖ + tiny)); the root is of a positive number, as at 0 it has no gradient.
        square = jnp.sum(outputs**2, -1, keepdims=True)
        norm = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
        return call(self.likelihood, outputs / (self.temperature * (norm + _TINY)), key)
