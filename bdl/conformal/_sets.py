"""Split conformal sets of classes: LAC, APS and RAPS, on average over classes or for each of them."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from bdl._keys import check_key, derive
from bdl.conformal._by_class import by_class as of_each_class
from bdl.conformal._class_scores import check_penalty, lac_score, raps_score
from bdl.conformal._split import split
from bdl.metrics._checks import classes


class LacSets(eqx.Module):
    """probs ↦ {k: 1 − p_k ≤ threshold}, what `lac` fits.

    Attributes:
        threshold: a number, or [K].
    """

    threshold: jax.Array

    def __call__(self, probs: Any) -> jax.Array:
        """Whether each class is in the set: bool, of the shape [..., K] of `probs`.

        Raises:
            ValueError: these are no probabilities.
        """
        return _inside(lac_score(probs), self.threshold)


class ApsSets(eqx.Module):
    """(key, probs) ↦ {k: s(k) ≤ threshold} with the score s of APS or RAPS, what `aps` and `raps` fit.

    Attributes:
        threshold: a number, or [K].
        penalty: λ of RAPS, 0 for APS.
        free_classes: k₀ of RAPS.
        randomised: whether scores are.
    """

    threshold: jax.Array
    penalty: jax.Array
    free_classes: jax.Array
    randomised: bool = eqx.field(static=True)

    def __call__(self, key: Any, probs: Any) -> jax.Array:
        """Whether each class is in the set: bool, of the shape [..., K] of `probs`.

        Args:
            key: one random key; `None` where it is not randomised.
            probs: [..., K].

        Raises:
            ValueError: these are no probabilities.
            TypeError: there is no key where sets are randomised.
        """
        key = derive(check_key(key), "conformal sets") if self.randomised else None
        score = raps_score(key, probs, penalty=self.penalty, free_classes=self.free_classes)
        return _inside(score, self.threshold)


def lac(probs: Any, labels: Any, *, alpha: float, by_class: bool = False, mask: Any = None) -> LacSets:
    """LAC (also THR): all classes whose probability is at least a threshold. The smallest sets on average.

    P(y in the set) ≥ 1 − α, and = ⌈(1 − α)(n + 1)⌉ / (n + 1) without ties of probabilities, if these n examples and
    the new one are exchangeable; on average over examples. With `by_class` the same holds among the examples of each
    class, with their number for n. Hard examples may get an empty set. Where n < 1/α − 1 all classes are in it.

    Args:
        probs: [..., K].
        labels: [...], integers in 0, …, K − 1.
        alpha: α, the share that may be missed.
        by_class: whether the promise is for each class (Mondrian): larger sets.
        mask: bool [...], True where an example counts; `None` for all.

    Raises:
        ValueError: α is not in (0, 1), shapes that do not match, rows that are not probabilities, labels outside the
            range, no example.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> probs = jnp.array([[0.75, 0.25], [0.5, 0.5], [0.25, 0.75], [0.25, 0.75]])
        >>> sets = bdl.conformal.lac(probs, jnp.array([0, 0, 1, 0]), alpha=0.4)
        >>> sets(jnp.array([[0.9, 0.1], [0.5, 0.5]]))
        Array([[ True, False],
               [ True,  True]], dtype=bool)

    Reference:
        Sadinle et al. (2019), Least ambiguous set-valued classifiers with bounded error levels,
        https://arxiv.org/abs/1609.00451
    """
    checked, found, weights = classes("lac", probs, labels, mask)
    return LacSets(_threshold(lac_score(checked), found, weights, alpha, by_class))


def aps(
    key: Any,
    probs: Any,
    labels: Any,
    *,
    alpha: float,
    randomised: bool = True,
    by_class: bool = False,
    mask: Any = None,
) -> ApsSets:
    """APS, adaptive prediction sets: the most probable classes until their probability is large enough.

    P(y in the set) = ⌈(1 − α)(n + 1)⌉ / (n + 1) if randomised (no ties, as the score is continuous where p_y > 0), else
    ≥ 1 − α, if these n examples and the new one are exchangeable; on average over examples. Sets are large where
    predictions are uncertain; a randomised one may be empty. With `by_class` the promise holds among the examples of
    each class, with their number for n. Where n < 1/α − 1 all classes are in the set.

    Args:
        key: one random key; `None` where it is not randomised.
        probs: [..., K].
        labels: [...], integers in 0, …, K − 1.
        alpha: α, the share that may be missed.
        randomised: whether the last class is in with a probability, so that the promise is exact.
        by_class: whether the promise is for each class (Mondrian): larger sets.
        mask: bool [...], True where an example counts; `None` for all.

    Raises:
        ValueError: α is not in (0, 1), shapes that do not match, rows that are not probabilities, labels outside the
            range, no example.
        TypeError: there is no key where sets are randomised.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> probs = jnp.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.25, 0.25, 0.5], [0.5, 0.25, 0.25]])
        >>> sets = bdl.conformal.aps(None, probs, jnp.array([0, 1, 2, 1]), alpha=0.4, randomised=False)
        >>> sets(None, jnp.array([[0.5, 0.375, 0.125], [0.375, 0.375, 0.25]]))
        Array([[ True, False, False],
               [ True, False, False]], dtype=bool)

    Reference:
        Romano et al. (2020), Classification with valid and adaptive coverage, https://arxiv.org/abs/2006.02544
    """
    return _aps("aps", key, probs, labels, alpha, 0.0, 0, randomised, by_class, mask)


def raps(
    key: Any,
    probs: Any,
    labels: Any,
    *,
    alpha: float,
    penalty: float = 0.01,
    free_classes: int = 1,
    randomised: bool = True,
    by_class: bool = False,
    mask: Any = None,
) -> ApsSets:
    """RAPS: APS with a penalty for each class beyond the first few, which cuts the long tails of its sets.

    The promise of `aps`, whatever the penalty, if it was not chosen on these examples.

    Args:
        key: one random key; `None` where it is not randomised.
        probs: [..., K].
        labels: [...], integers in 0, …, K − 1.
        alpha: α, the share that may be missed.
        penalty: λ ≥ 0, in units of probability; a large one makes all sets nearly equally large.
        free_classes: k₀, how many classes go without a penalty.
        randomised: whether the last class is in with a probability, so that the promise is exact.
        by_class: whether the promise is for each class (Mondrian): larger sets.
        mask: bool [...], True where an example counts; `None` for all.

    Raises:
        ValueError: α is not in (0, 1), shapes that do not match, rows that are not probabilities, labels outside the
            range, no example, a negative penalty.
        TypeError: there is no key where sets are randomised.

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> probs = jax.nn.softmax(jnp.arange(40.0).reshape(10, 4) % 7)
        >>> key, new_key = jax.random.split(jax.random.key(0))
        >>> sets = bdl.conformal.raps(key, probs, jnp.argmax(probs, -1), alpha=0.2)
        >>> sets(new_key, probs).shape
        (10, 4)

    Reference:
        Angelopoulos et al. (2021), Uncertainty sets for image classifiers using conformal prediction,
        https://arxiv.org/abs/2009.14193
    """
    check_penalty("raps", penalty, free_classes)
    return _aps("raps", key, probs, labels, alpha, penalty, free_classes, randomised, by_class, mask)


def _aps(
    name: str, key: Any, probs: Any, labels: Any, alpha: float, penalty: float, free_classes: int, randomised: bool,
    by_class: bool, mask: Any,
) -> ApsSets:  # fmt: skip
    key = derive(check_key(key), "conformal calibration") if randomised else None
    checked, found, weights = classes(name, probs, labels, mask)
    scores = raps_score(key, checked, penalty=penalty, free_classes=free_classes)
    threshold = _threshold(scores, found, weights, alpha, by_class)
    return ApsSets(threshold, jnp.float32(penalty), jnp.int32(free_classes), randomised)


def _threshold(scores: jax.Array, labels: jax.Array, weights: jax.Array, alpha: float, by_class: bool) -> jax.Array:
    own = jnp.take_along_axis(scores, labels[..., None], -1)[..., 0]
    if by_class:
        return of_each_class(own, labels, num_classes=scores.shape[-1], alpha=alpha, mask=weights > 0)
    return split(own, alpha=alpha, mask=weights > 0)


@jax.jit
def _inside(scores: jax.Array, threshold: jax.Array) -> jax.Array:
    return scores <= jnp.broadcast_to(threshold, scores.shape)
