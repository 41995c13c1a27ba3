"""What a model says before it has seen data."""

from collections.abc import Sequence
from typing import Any

from bdl.model import Model
from bdl.posteriors import from_prior
from bdl.predict import predict
from bdl.uncertainty import ClassPrediction, Prediction


def prior_predictive(
    key: Any,
    model: Model,
    x: Any,
    *,
    num_samples: int,
    chunk_size: int | None = None,
    tolerance: float | None = None,
    quantiles: Sequence[float] | None = None,
    return_draws: bool = False,
    check: bool = True,
) -> Prediction | ClassPrediction:
    """The predictive mean and variance at `x` under the prior, before any data:

        p(y | x) ≈ (1/S) Σₛ p(y | f(x; wₛ)),   wₛ ~ p(w).

    It shows what a prior over weights says about functions: whether outputs have the size of the targets, whether
    functions are smooth or all saturated, whether classes are equally likely. It is `bdl.predict` with the posterior
    `bdl.posteriors.from_prior(model)`, draw by draw, and `bdl.function_draw` gives any of these draws as a function.

    Args:
        key: one random key.
        model: network, likelihood and a prior that can be drawn from.
        x: inputs, examples along axis 0.
        num_samples: S, the number of draws.
        chunk_size: draws computed at once; by default chosen for the device and the batch.
        tolerance: stop at this Monte Carlo error; see `bdl.predict`.
        quantiles: probabilities of which the predictive quantiles are returned, for regression.
        return_draws: return the network's outputs for all draws, [S, N, ...]; `bdl.plots.functions` draws them.
        check: as in `bdl.predict`.

    Returns:
        a `bdl.Prediction`, or a `bdl.ClassPrediction` where the likelihood is over classes. `epistemic` is the variance
        of the mean over the prior.

    Raises:
        ValueError: the prior is a function, or flat or improper for some array; or as in `bdl.predict`.

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.ones((3, 1))})
        >>> model = bdl.Model(network, bdl.likelihoods.Normal(scale=0.5), bdl.priors.normal(scale=2.0))
        >>> prediction = bdl.prior_predictive(jax.random.key(0), model, jnp.ones((5, 3)), num_samples=10_000)
        >>> round(float(prediction.epistemic[0, 0])), float(prediction.aleatoric[0, 0])  # Σᵢ xᵢ² 2² and 0.5²
        (12, 0.25)
    """
    return predict(
        key,
        from_prior(model),
        model,
        x,
        num_samples=num_samples,
        chunk_size=chunk_size,
        tolerance=tolerance,
        quantiles=quantiles,
        return_draws=return_draws,
        check=check,
    )
