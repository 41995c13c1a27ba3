"""A loss that weighs classes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import distributions as dist

from bdl.likelihoods import _targets
from bdl.likelihoods._base import as_likelihood
from bdl.likelihoods._masked import Masked
from bdl.likelihoods._wrapped import Wrapped


def class_weighted(likelihood: Any, weights: Any) -> "ClassWeighted":
    """Train `likelihood` on a reweighted loss: Σₙ weights[yₙ] log p(yₙ | xₙ), with weights of mean 1 over the classes.

    It is not a likelihood: no distribution of labels has this logarithm. What is trained bounds no evidence
    (`ElboTerms.is_bound` is False), and predicted probabilities are those of a population in which class k is
    weights[k] times as frequent. Predictions and `bdl.log_predictive` are those of `likelihood`, without weights.

    Args:
        likelihood: over classes, or over 0 and 1 (`Bernoulli`).
        weights: one positive number for each class; they are divided by their mean. Mask outside, weigh inside:
            `masked(class_weighted(Categorical(), weights), void=255)`.

    Raises:
        ValueError: a weight is not positive and finite; `likelihood` is masked already; or (with the outputs) there
            are not as many weights as classes.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> likelihood = bdl.likelihoods.class_weighted(bdl.likelihoods.Categorical(), [1.0, 1.0, 4.0])
        >>> likelihood.weights
        Array([0.5, 0.5, 2. ], dtype=float32)
    """
    if isinstance(likelihood, Masked):
        raise ValueError(
            "class_weighted: a void label has no weight. Weigh inside of the mask: masked(class_weighted(...))."
        )
    if not isinstance(weights, jax.core.Tracer):
        given = np.asarray(weights, np.float32)
        if given.ndim != 1 or given.size < 2 or not np.all((given > 0) & np.isfinite(given)):
            raise ValueError(f"class_weighted: expected a positive weight for each of K >= 2 classes, got {weights}.")
    weights = jnp.asarray(weights, jnp.float32)
    return ClassWeighted(as_likelihood(likelihood), weights / weights.mean())


class ClassWeighted(Wrapped):
    """A likelihood over classes that is trained on a reweighted loss. Made by `class_weighted`."""

    weights: jax.Array

    @property
    def is_reweighted(self) -> bool:
        """Yes."""
        return True

    def training_weight(self, distribution: dist.Distribution, y: Any) -> jax.Array:
        """The weight of each target's class.

        Raises:
            ValueError: there are not as many weights as classes.
        """
        self._check_count(distribution)
        _targets.check_shape(distribution, y)
        return self.weights[y.astype(jnp.int32)] * super().training_weight(distribution, y)

    def check_targets(self, distribution: dist.Distribution, y: Any) -> None:
        """As `likelihood` does.

        Raises:
            ValueError: there are not as many weights as classes; or as in `likelihood`.
        """
        self._check_count(distribution)
        super().check_targets(distribution, y)

    def _check_count(self, distribution: dist.Distribution) -> None:
        count = _count(distribution)
        if count != len(self.weights):
            raise ValueError(
                f"class_weighted: {len(self.weights)} weights, but the likelihood has {count or 'no'} classes. Give "
                "one for each class."
            )


def _count(distribution: dist.Distribution) -> int:
    # of values that the distribution has: 0 where they are not finitely many
    if not distribution.has_enumerate_support:
        return 0
    return len(jax.eval_shape(lambda: distribution.enumerate_support(expand=False)))
