"""Densities of inputs as scores: what a generative model says, and what it says beyond a model of the background."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bdl._data_checks import check_data, is_traced
from bdl._draws import check_counts
from bdl._keys import check_key, derive
from bdl.log_predictive import log_predictive
from bdl.model import Model
from bdl.ood._detector import Detector


class NegativeLogDensity(eqx.Module):
    """x ↦ −bdl.log_predictive(key, posterior, model, (x, x))."""

    key: jax.Array
    posterior: Any
    model: Model
    num_samples: int | None = eqx.field(static=True)
    chunk_size: int | None = eqx.field(static=True)
    batch_size: int | None = eqx.field(static=True)

    def __call__(self, x: Any) -> jax.Array:
        """The scores [N] of inputs, examples along axis 0."""
        return -log_predictive(
            self.key, self.posterior, self.model, (x, x), num_samples=self.num_samples, chunk_size=self.chunk_size,
            batch_size=self.batch_size,
        )  # fmt: skip


class LikelihoodRatio(eqx.Module):
    """x ↦ score(x) − background(x)."""

    score: Callable[[Any], jax.Array]
    background: Callable[[Any], jax.Array]

    def __call__(self, x: Any) -> jax.Array:
        """The scores [N] of inputs, examples along axis 0."""
        score, background = jnp.asarray(self.score(x)), jnp.asarray(self.background(x))
        if score.shape != background.shape:
            raise ValueError(
                f"likelihood_ratio: expected scores of one shape, got {score.shape} and {background.shape}. A detector "
                "has one score for each input, [N]."
            )
        return score - background


def negative_log_density(
    key: Any,
    posterior: Any,
    model: Model,
    *,
    num_samples: int | None = None,
    chunk_size: int | None = None,
    batch_size: int | None = None,
) -> Detector:
    """−log p(x) of a model that was fitted to give its inputs back (higher = more out-of-distribution, in nats):

        score(x) = −log (1/S) Σₛ p(x | zₛ) p(zₛ) / q(zₛ | x),   zₛ ~ q(z | x),

    for a variational autoencoder, with the likelihood `bdl.latent(...)`: S draws, of the weights too where they are
    random, make a bound of −log p(x) from above, which falls to it as S grows. Of a plain autoencoder it is
    −log (1/S) Σₛ p(x | f(x; wₛ)): a reconstruction error in nats, over the draws of any posterior.

    Such densities rank some outliers above the training data (plain images above all): see `likelihood_ratio`. All
    inputs are seen by the same draws of the weights; those of z differ from row to row, so that a score moves a little
    with the place of its input.

    Args:
        key: one random key.
        posterior: anything with `sample(key)`.
        model: network and likelihood, fitted to (x, x).
        num_samples: S; may be left out where nothing is random.
        chunk_size: draws computed at once, as in `bdl.predict`.
        batch_size: examples at once, as in `bdl.predict`.

    Raises:
        ValueError: bad counts; and at the call, what `bdl.log_predictive` raises.
        TypeError: `key` is no key.

    Reference:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders, https://arxiv.org/abs/1509.00519

    Example:
        >>> import jax, jax.numpy as jnp, bdl, bdl.ood
        >>> network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.diag(jnp.array([1.0, 0.0]))})
        >>> posterior = bdl.variational(network.params, bdl.families.point)
        >>> model = bdl.Model(network, bdl.likelihoods.Normal(scale=1.0))
        >>> detector = bdl.ood.negative_log_density(jax.random.key(0), posterior, model)
        >>> near, far = detector(jnp.array([[5.0, 0.0], [0.0, 3.0]]))
        >>> float(far - near)  # ½ 3²
        4.5
    """
    check_counts("negative_log_density", posterior, model, num_samples, chunk_size)
    return Detector(NegativeLogDensity(check_key(key), posterior, model, num_samples, chunk_size, batch_size))


def likelihood_ratio(detector: Any, background: Any) -> Detector:
    """What a density says beyond that of the background (higher = more out-of-distribution, in the scores' unit):

        score(x) = −[log p(x) − log p₀(x)].

    The background model p₀ is one like the first, fitted to `perturbed` inputs: it knows how inputs look in general
    (how many pixels are dark, how smooth they are) and not what the data are about, and what both know cancels.

    Args:
        detector: of inputs, −log p(x): `negative_log_density` of a model fitted to the data. Its held-out inliers are
            forgotten, as scores are others now.
        background: −log p₀(x), of one fitted to perturbed data. With the same key and number of draws the errors of
            the two are alike, and cancel in part.

    Raises:
        TypeError: one of the two cannot be called.
        ValueError: at the call, their scores have different shapes.

    Reference:
        Ren et al. (2019), Likelihood ratios for out-of-distribution detection, https://arxiv.org/abs/1906.02845

    Example:
        >>> import jax.numpy as jnp, bdl.ood
        >>> normal = bdl.ood.Detector(lambda x: 0.5 * x[:, 0] ** 2)
        >>> bdl.ood.likelihood_ratio(normal, lambda x: 0.125 * x[:, 0] ** 2)(jnp.array([[0.0], [4.0]]))
        Array([0., 6.], dtype=float32)
    """
    scores = [d.score if isinstance(d, Detector) else d for d in (detector, background)]
    for score in scores:
        if not callable(score):
            raise TypeError(f"likelihood_ratio: expected Detectors or functions of inputs, got {type(score).__name__}.")
    return Detector(LikelihoodRatio(*scores))


def perturbed(key: Any, x: Any, *, rate: float, low: Any, high: Any) -> jax.Array:
    """Inputs of which some elements are replaced by noise, for the background model of `likelihood_ratio`:

        x̃ᵢ = uᵢ with probability μ, else xᵢ;   uᵢ ~ Uniform(low, high).

    Args:
        key: one random key.
        x: inputs [N, ...], floating, or integers: then u is uniform over low, …, high, both included.
        rate: μ in [0, 1]. The authors looked from 0.1 to 0.3 for images, together with a weight decay.
        low, high: the range of the elements, in their unit: 0 and 1 or 0 and 255 for images; for a table the smallest
            and the largest value of each column. They broadcast against one example.

    Returns:
        Of x's shape and type.

    Raises:
        TypeError: `key` is no key, or the inputs are no numbers.
        ValueError: the inputs are empty or not finite; the rate is not in [0, 1]; a low is above its high, or their
            shapes are not those of an example.

    Reference:
        Ren et al. (2019), Likelihood ratios for out-of-distribution detection, section 3,
        https://arxiv.org/abs/1906.02845

    Example:
        >>> import jax, jax.numpy as jnp, bdl.ood
        >>> noisy = bdl.ood.perturbed(jax.random.key(0), jnp.zeros((100, 28, 28, 1)), rate=0.2, low=0.5, high=1.0)
        >>> round(float((noisy > 0).mean()), 2)
        0.2
    """
    key, x = check_key(key), jnp.asarray(x)
    if not is_traced(x):
        check_data(x)
    if x.dtype == bool:
        raise TypeError("perturbed: expected numbers, got flags. Pass x.astype(int), with low=0 and high=1.")
    if not is_traced(rate) and not 0 <= rate <= 1:
        raise ValueError(f"perturbed: expected `rate` in [0, 1], got {rate}. 20 % are 0.2.")
    _check_range(x, low, high)
    low, high = (jnp.asarray(a).astype(x.dtype) for a in (low, high))
    return _perturbed(derive(key, "perturbed"), x, jnp.asarray(rate).astype(jnp.float32), low, high)


def _check_range(x: jax.Array, low: Any, high: Any) -> None:
    for name, bound in (("low", low), ("high", high)):
        try:
            fits = np.broadcast_shapes(np.shape(bound), x.shape[1:]) == x.shape[1:]
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(
                f"perturbed: expected `{name}` as a number, or of a shape that broadcasts against one example's "
                f"{x.shape[1:]}, got shape {np.shape(bound)}."
            )
        if not (is_traced(bound) or _is_of(np.asarray(bound), x.dtype)):
            raise ValueError(f"perturbed: expected `{name}` as a finite number of the inputs' {x.dtype}, got {bound}.")
    if not is_traced((low, high)) and not np.all(np.asarray(low) <= np.asarray(high)):
        raise ValueError("perturbed: expected `low` of at most `high`, for each element. Exchange them.")


def _is_of(bound: np.ndarray, dtype: Any) -> bool:
    if not jnp.issubdtype(dtype, jnp.integer):
        return bool(np.isfinite(bound).all())
    limits = jnp.iinfo(dtype)
    return bool(((bound == np.round(bound)) & (bound >= limits.min) & (bound <= limits.max)).all())


@jax.jit
def _perturbed(key: jax.Array, x: jax.Array, rate: Any, low: jax.Array, high: jax.Array) -> jax.Array:
    which, what = derive(key, "which"), derive(key, "what")
    # As one long row, for the sake of the compiler: see `flat` in bdl/_random.py.
    row = x.reshape(-1)
    low, high = (jnp.broadcast_to(a, x.shape).reshape(-1) for a in (low, high))
    if jnp.issubdtype(x.dtype, jnp.integer):
        drawn = jax.random.randint(what, row.shape, low.astype(jnp.int32), high.astype(jnp.int32) + 1).astype(x.dtype)
    else:
        drawn = jax.random.uniform(what, row.shape, x.dtype, low, high)
    return jnp.where(jax.random.bernoulli(which, rate, row.shape), drawn, row).reshape(x.shape)
