"""One temperature for all classes."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from bdl.calibration._checks import examples, log_probs, say_where_no_minimum
from bdl.metrics._checks import new_probs

_LIMIT = math.log(100.0)  # of the size of log T
_STEPS = 60
_TOLERANCE = 1e-6  # of the slope of the NLL in log T, in nats, and of a step of log T


class Temperature(eqx.Module):
    """probs ↦ softmax(log probs / T), what `temperature` fits. The order of the classes does not change.

    Attributes:
        log_temperature: log T; T > 1 makes predictions less confident.
        converged: whether the NLL has a minimum at T; False where T stopped at 0.01 or at 100.
    """

    log_temperature: jax.Array
    converged: jax.Array

    def __call__(self, probs: Any) -> jax.Array:
        """Calibrated probabilities [..., K] for probabilities [..., K].

        Raises:
            ValueError: these are no probabilities.
        """
        return _scaled(self.log_temperature, new_probs("temperature", probs))


def temperature(probs: Any, labels: Any, *, mask: Any = None) -> Temperature:
    """Temperature scaling: softmax(log p / T), with the T that minimises the NLL of the labels.

    Softmax does not see a shift of all logits, so the temperature of log-probabilities is that of the logits, and the
    mixture of draws that a Bayesian prediction is can be calibrated although it has no logits. The NLL is convex in
    1 / T; log T is found by Newton steps within a bracket, in [log 0.01, log 100]. On the data of the fit the NLL is
    never worse than before, and accuracy is the same on all data.

    Fit it on examples that the network was not trained on.

    Args:
        probs: [..., K], K ≥ 2. A probability of exactly 0 counts as 1.2e-38.
        labels: [...], integers in 0, …, K − 1.
        mask: bool [...], True where an example counts; `None` for all.

    Raises:
        ValueError: shapes that do not match, rows that are not probabilities, labels outside the range, no example.

    Warns:
        UserWarning: the NLL has no minimum: all examples are classified right and T stopped at 0.01, or the
            probabilities say less than nothing about the labels and T stopped at 100.

    Example:
        >>> import jax.numpy as jnp, numpy as np, bdl
        >>> probs = jnp.array([[0.99, 0.01], [0.99, 0.01], [0.99, 0.01], [0.01, 0.99]])
        >>> calibrator = bdl.calibration.temperature(probs, jnp.array([0, 0, 1, 1]))
        >>> print(np.asarray(calibrator(probs)[0]).round(3))  # three of four are right
        [0.75 0.25]

    Reference:
        Guo et al. (2017), On calibration of modern neural networks, https://arxiv.org/abs/1706.04599
    """
    log_temperature, converged = _fit(*examples("temperature", probs, labels, mask))
    say_where_no_minimum(
        "temperature", converged,
        "the NLL has no minimum at a T between 0.01 and 100. It falls with T where all labels have the highest "
        "probability, and towards T = 100 where probabilities say less than nothing about the labels. Fit it on more "
        "examples, that the network was not trained on.",
    )  # fmt: skip
    return Temperature(log_temperature, converged)


@jax.jit
def _scaled(log_temperature: jax.Array, probs: jax.Array) -> jax.Array:
    return jax.nn.softmax(log_probs(probs) * jnp.exp(-log_temperature), -1)


@jax.jit
def _fit(probs: jax.Array, labels: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, share = log_probs(probs), weights / jnp.sum(weights)
    at_label = jnp.take_along_axis(x, labels[:, None], -1)[:, 0]

    def nll(theta: jax.Array) -> jax.Array:
        beta = jnp.exp(-theta)
        return jnp.sum(share * (jax.nn.logsumexp(beta * x, -1) - beta * at_label))

    def slopes(theta: jax.Array) -> tuple[jax.Array, jax.Array]:
        # With β = 1/T = exp(−θ) and q = softmax(β log p):
        # dNLL/dβ = E[Σ q log p − log p_y], d²NLL/dβ² = E[Var_q(log p)]; in θ the slope is −β dNLL/dβ.
        beta = jnp.exp(-theta)
        q = jax.nn.softmax(beta * x, -1)
        mean = jnp.sum(q * x, -1)
        spread = jnp.sum(q * (x - mean[:, None]) ** 2, -1)
        return -beta * jnp.sum(share * (mean - at_label)), beta * beta * jnp.sum(share * spread)

    def unfinished(state: Any) -> jax.Array:
        step, _, low, high, slope, _ = state
        return (step < _STEPS) & (jnp.abs(slope) > _TOLERANCE) & (high - low > _TOLERANCE)

    def advance(state: Any) -> Any:
        step, theta, low, high, slope, curvature = state
        low, high = jnp.where(slope < 0, theta, low), jnp.where(slope < 0, high, theta)
        newton = theta - slope / jnp.maximum(curvature, 1e-30)
        # Every third step halves the bracket, in which Newton steps may creep along from one side.
        inside = (newton > low) & (newton < high) & (step % 3 != 2)
        theta = jnp.where(inside, newton, (low + high) / 2)
        return step + 1, theta, low, high, *slopes(theta)

    low, high = jnp.float32(-_LIMIT), jnp.float32(_LIMIT)
    falls, rises = slopes(low)[0] < 0, slopes(high)[0] > 0
    start = (jnp.int32(0), jnp.float32(0), low, high, *slopes(jnp.float32(0)))
    theta = jax.lax.while_loop(unfinished, advance, start)[1]
    theta = jnp.where(falls, jnp.where(rises, theta, high), low)
    return jnp.where(nll(theta) <= nll(jnp.float32(0)), theta, 0.0), falls & rises
