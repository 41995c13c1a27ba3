"""Affine maps of log-probabilities: vector, matrix and Dirichlet scaling."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bdl.calibration._checks import examples, log_probs, say_where_no_minimum
from bdl.calibration._newton import minimise
from bdl.metrics._checks import new_probs

_RIDGE = 1e-6  # nats per example, of deviations from the identity in units of the features' standard deviation
_FLOOR = 1e-6  # of the largest variance of a direction of the features, below which it counts as constant
_SEPARABLE = (
    "the NLL has no minimum, and a ridge of 1e-6 nats keeps the answer finite: a class has no example, or the map "
    "classifies all examples right. Fit it on more examples that the network was not trained on, or fit fewer "
    "numbers, as `temperature` does."
)


class Affine(eqx.Module):
    """probs ↦ softmax(W log probs + b), what `vector`, `matrix` and `dirichlet` fit.

    Attributes:
        weight: W, [K, K], or its diagonal, [K]. What is off the diagonal has mean 0 in each column: softmax does not
            see a number added to a column.
        bias: b, [K], with mean 0.
        converged: whether the NLL has a minimum here; False where the examples are separable.
    """

    weight: jax.Array
    bias: jax.Array
    converged: jax.Array

    def __call__(self, probs: Any) -> jax.Array:
        """Calibrated probabilities [..., K] for probabilities [..., K].

        Raises:
            ValueError: these are no probabilities, or not of K classes.
        """
        return _softmax(self.weight, self.bias, new_probs("calibrator", probs, self.bias.shape[-1]))


def vector(probs: Any, labels: Any, *, mask: Any = None) -> Affine:
    """Vector scaling: softmax(w ⊙ log p + b), with the w and b that minimise the NLL of the labels.

    2K numbers. The problem is convex and solved to a gradient of 2e-6; on the data of the fit the NLL is never worse
    than before. Labels that are separable have no minimum, and a ridge of 1e-6 nats keeps the answer finite.

    Args:
        probs: [..., K], K ≥ 2. A probability of exactly 0 counts as 1.2e-38.
        labels: [...], integers in 0, …, K − 1.
        mask: bool [...], True where an example counts; `None` for all.

    Raises:
        ValueError: shapes that do not match, rows that are not probabilities, labels outside the range, no example.

    Warns:
        UserWarning: the NLL has no minimum, as a class has no example or the examples are separable.

    Example:
        >>> import jax.numpy as jnp, numpy as np, bdl
        >>> probs = jnp.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.2, 0.8]])
        >>> calibrator = bdl.calibration.vector(probs, jnp.array([0, 0, 1, 1, 0]))
        >>> print(np.asarray(calibrator(probs)[2:4]).round(2))
        [[0.67 0.33]
         [0.5  0.5 ]]

    Reference:
        Guo et al. (2017), On calibration of modern neural networks, https://arxiv.org/abs/1706.04599
    """
    return _affine("vector", probs, labels, mask, 0.0, diagonal=True)


def matrix(probs: Any, labels: Any, *, penalty: float = 0.0, mask: Any = None) -> Affine:
    """Matrix scaling: softmax(W log p + b), with the W and b that minimise the NLL of the labels.

    K² + K numbers, which overfit where classes are many; for these see `dirichlet`. The problem is convex and solved
    to a gradient of 2e-6; on the data of the fit the NLL is never worse than before.

    Args:
        probs: [..., K], K ≥ 2. A probability of exactly 0 counts as 1.2e-38.
        labels: [...], integers in 0, …, K − 1.
        penalty: of the mean square of off-diagonal weights and that of biases, in nats per example.
        mask: bool [...], True where an example counts; `None` for all.

    Raises:
        ValueError: shapes that do not match, rows that are not probabilities, labels outside the range, no example, a
            negative penalty.

    Warns:
        UserWarning: the NLL has no minimum, as a class has no example or the examples are separable.

    Example:
        >>> import jax.numpy as jnp, numpy as np, bdl
        >>> probs = jnp.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.2, 0.8]])
        >>> calibrator = bdl.calibration.matrix(probs, jnp.array([0, 0, 1, 1, 0]))
        >>> print(np.asarray(calibrator(probs)[2:4]).round(2))
        [[0.67 0.33]
         [0.5  0.5 ]]

    Reference:
        Guo et al. (2017), On calibration of modern neural networks, https://arxiv.org/abs/1706.04599
    """
    return _affine("matrix", probs, labels, mask, penalty, diagonal=False)


def dirichlet(probs: Any, labels: Any, *, penalty: float = 0.01, mask: Any = None) -> Affine:
    """Dirichlet calibration: softmax(W log p + b), penalised for off-diagonal weights and for biases.

        E[−log q(y)] + λ Σ_{i≠j} W_ij² / (K (K − 1)) + λ Σ b² / K → min

    It is the map of `matrix`, and the one that is right where predictions of each class have a Dirichlet distribution.
    The penalty is 0 at the identity, so that on the data of the fit the NLL is never worse than before.

    Args:
        probs: [..., K], K ≥ 2. A probability of exactly 0 counts as 1.2e-38.
        labels: [...], integers in 0, …, K − 1.
        penalty: λ, in nats per example; choose it by the NLL of examples held out.
        mask: bool [...], True where an example counts; `None` for all.

    Raises:
        ValueError: shapes that do not match, rows that are not probabilities, labels outside the range, no example, a
            negative penalty.

    Warns:
        UserWarning: the NLL has no minimum, as a class has no example or the examples are separable.

    Example:
        >>> import jax.numpy as jnp, numpy as np, bdl
        >>> probs = jnp.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.2, 0.8]])
        >>> calibrator = bdl.calibration.dirichlet(probs, jnp.array([0, 0, 1, 1, 0]))
        >>> print(np.asarray(calibrator(probs)[2:4]).round(2))
        [[0.67 0.33]
         [0.5  0.5 ]]

    Reference:
        Kull et al. (2019), Beyond temperature scaling: obtaining well-calibrated multiclass probabilities with
        Dirichlet calibration, https://arxiv.org/abs/1910.12656
    """
    return _affine("dirichlet", probs, labels, mask, penalty, diagonal=False)


def _affine(name: str, probs: Any, labels: Any, mask: Any, penalty: Any, *, diagonal: bool) -> Affine:
    if not isinstance(penalty, jax.core.Tracer) and not (np.isfinite(penalty) and penalty >= 0):
        raise ValueError(f"{name}: expected a penalty of 0 or more nats, got {penalty}.")
    fitted = Affine(*_fit(*examples(name, probs, labels, mask), jnp.float32(penalty), diagonal=diagonal))
    say_where_no_minimum(name, fitted.converged, _SEPARABLE)
    return fitted


@jax.jit
def _softmax(weight: jax.Array, bias: jax.Array, probs: jax.Array) -> jax.Array:
    x = log_probs(probs.reshape(-1, probs.shape[-1]))
    return jax.nn.softmax(_logits(weight, bias, x), -1).reshape(probs.shape)


def _logits(weight: jax.Array, bias: jax.Array, x: jax.Array) -> jax.Array:
    """W x + b of rows x [M, K]."""
    if weight.ndim == 1:
        return x * weight[None] + bias[None]
    return jnp.matmul(x, weight.T, precision="highest") + bias[None]


@functools.partial(jax.jit, static_argnames="diagonal")
def _fit(
    probs: jax.Array, labels: jax.Array, weights: jax.Array, penalty: jax.Array, *, diagonal: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, share = log_probs(probs), weights / jnp.sum(weights)
    num_classes = x.shape[-1]
    mean = jnp.sum(share[:, None] * x, 0)
    centred = x - mean[None]
    whitening = _whitening(centred, mean, share, diagonal)
    features = centred * whitening[None] if diagonal else jnp.matmul(centred, whitening, precision="highest")

    def affine(theta: jax.Array) -> tuple[jax.Array, jax.Array]:
        # W = I + Δ Rᵀ and b = δ − Δ Rᵀ mean: deviations from the identity, Δ and δ, on features of scale one, so that
        # the steps are well conditioned whatever the spread of the log-probabilities.
        delta, shift = theta[:-num_classes], theta[-num_classes:]
        if diagonal:
            moved = delta * whitening
            return 1 + moved, _centred(shift - moved * mean)
        moved = jnp.matmul(delta.reshape(num_classes, num_classes), whitening.T, precision="highest")
        # Softmax does not see a number added to a column of W: of these W the one with the smallest penalty.
        off = moved * (1 - jnp.eye(num_classes))
        moved = moved - jnp.broadcast_to(jnp.sum(off, 0, keepdims=True) / (num_classes - 1), moved.shape)
        return jnp.eye(num_classes) + moved, _centred(shift - jnp.matmul(moved, mean, precision="highest"))

    def nll(logits: jax.Array) -> jax.Array:
        log_q = jax.nn.log_softmax(logits, -1)
        return -jnp.sum(share * jnp.take_along_axis(log_q, labels[:, None], -1)[:, 0])

    def objective(theta: jax.Array) -> jax.Array:
        delta, shift = theta[:-num_classes], theta[-num_classes:]
        # W x + b, of features of scale one, so that the gradient's rounding is as small as theirs.
        moved = _logits(delta if diagonal else delta.reshape(num_classes, num_classes), shift, features)
        found = nll(x + moved) + 0.5 * _RIDGE * jnp.sum(theta * theta)
        return found if diagonal else found + penalty * _off_identity(*affine(theta))

    identity = jnp.zeros((2 if diagonal else num_classes + 1) * num_classes, jnp.float32)
    theta, converged = minimise(objective, identity)
    theta = jnp.where(nll(_logits(*affine(theta), x)) <= nll(x), theta, identity)
    weight, bias = affine(theta)
    wrong = jnp.argmax(_logits(weight, bias, x), -1) != labels
    present = jnp.max(jnp.where(labels[:, None] == jnp.arange(num_classes)[None], share[:, None], 0.0), 0) > 0
    return weight, bias, converged & jnp.any(wrong & (share > 0)) & jnp.all(present)


def _whitening(centred: jax.Array, mean: jax.Array, share: jax.Array, diagonal: bool) -> jax.Array:
    """R [K, K], of which the columns of x R have variance one, or the reciprocal standard deviations [K].

    0 for a direction that is constant up to rounding: it tells nothing that the bias does not.
    """
    if diagonal:
        variance, directions = jnp.sum(share[:, None] * centred * centred, 0), jnp.ones(1)
    else:
        covariance = jnp.matmul((share[:, None] * centred).T, centred, precision="highest")
        variance, directions = jnp.linalg.eigh(covariance)
    rounding = 1e-5 * (1 + jnp.max(jnp.abs(mean)))
    varies = variance > jnp.maximum(_FLOOR * jnp.max(variance), rounding**2)
    reciprocal = jnp.where(varies, 1 / jnp.sqrt(jnp.where(varies, variance, 1.0)), 0.0)
    return reciprocal if diagonal else directions * reciprocal[None]


def _centred(bias: jax.Array) -> jax.Array:
    """The same biases to softmax, with mean 0."""
    return bias - jnp.mean(bias)


def _off_identity(weight: jax.Array, bias: jax.Array) -> jax.Array:
    """The mean square of off-diagonal weights and that of biases."""
    num_classes = len(bias)
    off = weight * (1 - jnp.eye(num_classes))
    return jnp.sum(off * off) / (num_classes * (num_classes - 1)) + jnp.mean(bias * bias)
