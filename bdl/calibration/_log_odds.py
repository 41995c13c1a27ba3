"""Logistic maps of one probability: Platt scaling and beta calibration."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bdl.calibration._checks import new_each, say_where_no_minimum
from bdl.calibration._newton import minimise
from bdl.calibration._one_vs_rest import apply_each, each_class

_CLIP = 2.0**-24  # half the distance of 1 to the largest float32 below it
_RIDGE = 1e-6  # nats per example
# Which of a, b and c are fitted; the rest is 0. The minimum under a, b ≥ 0 is that of one of these.
_FACES = ((1.0, 1.0, 1.0), (1.0, 0.0, 1.0), (0.0, 1.0, 1.0), (0.0, 0.0, 1.0))


class LogOdds(eqx.Module):
    """p ↦ σ(a log p − b log(1 − p) + c), what `platt` (with a = b) and `beta` fit; of K classes, normalised.

    Attributes:
        a, b, c: [1] for one probability, [K] for those of K classes.
        converged: whether the NLL has a minimum here, for each.
        binary: whether probabilities are those of class 1, without an axis for classes.
    """

    a: jax.Array
    b: jax.Array
    c: jax.Array
    converged: jax.Array
    binary: bool = eqx.field(static=True)

    def __call__(self, probs: Any) -> jax.Array:
        """Calibrated probabilities, of the shape of `probs`: [...], or [..., K].

        Raises:
            ValueError: these are no probabilities, or not of K classes.
        """
        return _applied((self.a, self.b, self.c), new_each(probs, self.binary, len(self.a)), self.binary)


def platt(probs: Any, labels: Any, *, mask: Any = None) -> LogOdds:
    """Platt scaling: σ(a log(p / (1 − p)) + c), with the a and c that minimise the NLL of softened labels.

    The labels are (n₁ + 1) / (n₁ + 2) for the n₁ ones and 1 / (n₀ + 2) for the n₀ zeros, as in Platt's paper, so that
    the NLL has a minimum whatever the labels, and the map is not the identity even where that is right. Of K classes
    each is taken against the rest, and what comes out is normalised.

    Args:
        probs: [...], probabilities of class 1, or [..., K]. Of a margin or a logit pass jax.nn.sigmoid, whose log-odds
            it is. Clipped to [6e-8, 1 − 6e-8].
        labels: [...], 0 and 1, or integers in 0, …, K − 1.
        mask: bool [...], True where an example counts; `None` for all.

    Raises:
        ValueError: numbers that are no probabilities, shapes that do not match, labels outside the range, no example.

    Example:
        >>> import jax.numpy as jnp, numpy as np, bdl
        >>> probs = jnp.array([0.1, 0.1, 0.1, 0.9, 0.9])
        >>> calibrator = bdl.calibration.platt(probs, jnp.array([0, 0, 1, 1, 1]))
        >>> print(np.asarray(calibrator(jnp.array([0.1, 0.9]))).round(2))
        [0.43 0.8 ]

    Reference:
        Platt (1999), Probabilistic outputs for support vector machines and comparisons to regularized likelihood
        methods
    """
    binary = np.shape(probs) == np.shape(labels)
    slope, c, converged = _fit_platt(*each_class("platt", probs, labels, mask))
    return LogOdds(slope, slope, c, converged, binary)


def beta(probs: Any, labels: Any, *, mask: Any = None) -> LogOdds:
    """Beta calibration: σ(a log p − b log(1 − p) + c), with the a, b ≥ 0 and c that minimise the NLL of the labels.

    The right map where predictions of each class have a beta distribution; it contains the identity, a = b = 1 and
    c = 0, so that on the data of the fit the NLL of one probability is never worse than before. (For K > 2 classes
    that holds of each one against the rest before they are normalised.) The problem is convex and solved to a gradient
    of 2e-6 on each face of the constraint; labels that are separable have no minimum, and a ridge of 1e-6 nats keeps
    the answer finite.

    Args:
        probs: [...], probabilities of class 1, or [..., K]. Clipped to [6e-8, 1 − 6e-8].
        labels: [...], 0 and 1, or integers in 0, …, K − 1.
        mask: bool [...], True where an example counts; `None` for all.

    Raises:
        ValueError: numbers that are no probabilities, shapes that do not match, labels outside the range, no example.

    Warns:
        UserWarning: the NLL has no minimum, as a class has no example or the examples are separable.

    Example:
        >>> import jax.numpy as jnp, numpy as np, bdl
        >>> probs = jnp.array([0.1, 0.1, 0.5, 0.5, 0.9, 0.9])
        >>> calibrator = bdl.calibration.beta(probs, jnp.array([0, 0, 0, 1, 0, 1]))
        >>> print(np.asarray(calibrator(jnp.array([0.1, 0.5, 0.9]))).round(2))
        [0.04 0.36 0.6 ]

    Reference:
        Kull et al. (2017), Beta calibration: a well-founded and easily implemented improvement on logistic calibration
        for binary classifiers, https://proceedings.mlr.press/v54/kull17a.html
    """
    binary = np.shape(probs) == np.shape(labels)
    a, b, c, converged = _fit_beta(*each_class("beta", probs, labels, mask))
    say_where_no_minimum(
        "beta", converged,
        "the NLL has no minimum, and a ridge of 1e-6 nats keeps the answer finite: a class has no example, or a "
        "threshold separates them. Fit it on more examples that the network was not trained on.",
    )  # fmt: skip
    return LogOdds(a, b, c, converged, binary)


@functools.partial(jax.jit, static_argnames="binary")
def _applied(maps: Any, probs: jax.Array, binary: bool) -> jax.Array:
    def curve(abc: Any, p: jax.Array) -> jax.Array:
        a, b, c = abc
        log_p, log_not_p = _logs(p)
        return jax.nn.sigmoid(a * log_p - b * log_not_p + c)

    return apply_each(curve, maps, probs, binary)


def _logs(probs: jax.Array) -> tuple[jax.Array, jax.Array]:
    clipped = jnp.clip(probs, _CLIP, 1 - _CLIP)
    return jnp.log(clipped), jnp.log1p(-clipped)


def _nll(logits: jax.Array, targets: jax.Array, share: jax.Array) -> jax.Array:
    # −t log σ(z) − (1 − t) log σ(−z) = softplus(z) − t z
    return jnp.sum(share * (jax.nn.softplus(logits) - targets * logits))


@jax.jit
def _fit_platt(probs: jax.Array, labels: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    share = weights / jnp.sum(weights)

    def one(p: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        ones, zeros = jnp.sum(weights * y), jnp.sum(weights * (1 - y))
        targets = jnp.where(y > 0, (ones + 1) / (ones + 2), 1 / (zeros + 2))
        log_p, log_not_p = _logs(p)
        log_odds = log_p - log_not_p
        centre, reciprocal = _standardised(log_odds, share)
        feature = (log_odds - centre) * reciprocal
        objective = lambda theta: _nll(feature * theta[0] + theta[1], targets, share) + 0.5 * _RIDGE * theta[0] ** 2

        theta, converged = minimise(objective, jnp.zeros(2, jnp.float32))
        slope = theta[0] * reciprocal
        return slope, theta[1] - slope * centre, converged

    return jax.vmap(one)(probs, labels)


@jax.jit
def _fit_beta(probs: jax.Array, labels: jax.Array, weights: jax.Array) -> tuple[jax.Array, ...]:
    share = weights / jnp.sum(weights)
    identity = jnp.array([1.0, 1.0, 0.0], jnp.float32)

    def one(p: jax.Array, y: jax.Array) -> tuple[jax.Array, ...]:
        log_p, log_not_p = _logs(p)
        logits = lambda abc: log_p * abc[0] - log_not_p * abc[1] + abc[2]

        def on_face(free: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            start = identity * free
            objective = lambda moved: (
                _nll(logits(start + free * moved), y, share) + 0.5 * _RIDGE * jnp.sum(moved * moved)
            )
            moved, converged = minimise(objective, jnp.zeros(3, jnp.float32))
            abc = start + free * moved
            # What is not allowed loses against every other face.
            return abc, jnp.where(jnp.min(abc[:2]) >= 0, _nll(logits(abc), y, share), jnp.inf), converged

        found, values, converged = jax.vmap(on_face)(jnp.array(_FACES, jnp.float32))
        best = jnp.argmin(values)
        better = values[best] <= _nll(logits(identity), y, share)
        abc = jnp.where(better, found[best], identity)
        return abc[0], abc[1], abc[2], converged[best] & ~_separable(p, y, weights)

    return jax.vmap(one)(probs, labels)


def _separable(p: jax.Array, y: jax.Array, weights: jax.Array) -> jax.Array:
    """Whether a threshold of p has all zeros below it and all ones above, or there is only one label."""
    ones, zeros = (weights * y) > 0, (weights * (1 - y)) > 0
    return jnp.max(jnp.where(zeros, p, -jnp.inf)) < jnp.min(jnp.where(ones, p, jnp.inf))


def _standardised(x: jax.Array, share: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The mean and the reciprocal standard deviation, 0 where x is constant up to rounding."""
    mean = jnp.sum(share * x)
    scale = jnp.sqrt(jnp.sum(share * (x - mean) ** 2))
    varies = scale > 1e-5 * (1 + jnp.abs(mean))
    return mean, jnp.where(varies, 1 / jnp.where(varies, scale, 1.0), 0.0)
