"""The split of uncertainty: aleatoric, what the data cannot tell; epistemic, what the model does not know."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import entr
from numpyro import distributions as dist

from bdl._moments import Moments


class Prediction(eqx.Module):
    """The prediction of a regression, in the targets' unit (variances in its square), of the targets' shape [N, ...].

    The law of total variance splits the predictive variance: variance = aleatoric + epistemic. Of counts the unit is
    one. A Student-t likelihood with 1 < df ≤ 2 has no variance: `variance` and `aleatoric` are ∞, `epistemic` is
    finite, quantiles exist. With df ≤ 1 there is no mean either: all of them are NaN, and quantiles exist.

    Attributes:
        mean: E[y].
        variance: Var(y).
        aleatoric: E[Var(y | w)], the noise.
        epistemic: Var(E[y | w]), over draws of the weights.
        standard_error: the Monte Carlo standard error of `mean`.
        num_samples: the number of draws, S.
        quantiles: [Q, N, ...], of the predictive mixture, where asked for.
        draws: the network's outputs for each draw, [S, N, ...], where asked for.
        covariance: Cov(y) of K targets, [N, ..., K, K], for a likelihood that is joint over them, such as
            `MultivariateNormal`; else None. covariance = aleatoric_covariance + epistemic_covariance.
        aleatoric_covariance: E[Cov(y | w)], likewise.
        epistemic_covariance: Cov(E[y | w]), likewise.

    Reference:
        Kendall and Gal (2017), What uncertainties do we need in Bayesian deep learning for computer vision?
        https://arxiv.org/abs/1703.04977
    """

    mean: jax.Array
    variance: jax.Array
    aleatoric: jax.Array
    epistemic: jax.Array
    standard_error: jax.Array
    num_samples: jax.Array
    quantiles: jax.Array | None = None
    draws: Any = None
    covariance: jax.Array | None = None
    aleatoric_covariance: jax.Array | None = None
    epistemic_covariance: jax.Array | None = None


class ClassPrediction(eqx.Module):
    """The prediction of a classification, in nats: entropy = aleatoric + epistemic.

    Of labels that are 0 or 1 each (`Bernoulli`), `probs` is the probability of 1, everything has the targets' shape
    [N, ...], and each label is split by itself.

    Attributes:
        probs: E[p(y | w)], [N, ..., K].
        entropy: of `probs`, [N, ...].
        aleatoric: the expected entropy E[H(p(y | w))].
        epistemic: the mutual information of target and weights, entropy − aleatoric. Its bias is O(1 / S).
        standard_error: the Monte Carlo standard error of `probs`.
        num_samples: the number of draws, S.
        draws: the network's outputs for each draw, [S, N, ...], where asked for.
        variation_ratio: 1 − the share of draws whose most probable class is the one that most draws vote for, [N, ...].
            A draw in which several are the most probable votes for each of them.
        aleatoric_variance: E[p (1 − p)] for each class, [N, ..., K].
        epistemic_variance: Var(p) over the draws, with 1 / S, so that for p̄ = `probs` they add up to p̄ (1 − p̄), the
            variance of the class's indicator.
        logit_variance: the variance over the draws of each logit, of the network's without noise where the likelihood
            adds noise; of log-probabilities where it has no logits. Softmax does not see a shift of all logits, which
            this contains.

    Reference:
        Depeweg et al. (2018), Decomposition of uncertainty in Bayesian deep learning,
        https://arxiv.org/abs/1710.07283; Kwon et al. (2020), Uncertainty quantification using Bayesian neural networks
        in classification, https://doi.org/10.1016/j.csda.2019.106816; Gal (2016), Uncertainty in deep learning
    """

    probs: jax.Array
    entropy: jax.Array
    aleatoric: jax.Array
    epistemic: jax.Array
    standard_error: jax.Array
    num_samples: jax.Array
    draws: Any = None
    variation_ratio: jax.Array | None = None
    aleatoric_variance: jax.Array | None = None
    epistemic_variance: jax.Array | None = None
    logit_variance: jax.Array | None = None


class Values(eqx.Module):
    """What the split needs of one draw of a regression: E[y | w], Var(y | w), and Cov(y | w) of joint targets."""

    mean: jax.Array
    variance: jax.Array
    covariance: jax.Array | None


class Classes(eqx.Module):
    """What the split needs of one draw of a classification.

    Attributes:
        probs: p(y | w).
        entropy: of it.
        votes: whether the class is the most probable one, or one of several.
        logits: the network's.
        binary: whether each element is a label by itself and `probs` the probability of 1.
    """

    probs: jax.Array
    entropy: jax.Array
    votes: jax.Array
    logits: jax.Array
    binary: bool = eqx.field(static=True)


def statistics(distribution: dist.Distribution) -> Values | Classes:
    """What the split needs of one draw, from the distribution over targets."""
    while isinstance(distribution, dist.Independent):
        distribution = distribution.base_dist
    if isinstance(distribution, dist.BernoulliLogits | dist.BernoulliProbs):
        probs, logits = distribution.probs, distribution.logits
        return Classes(probs, entropy(probs, True), probs > 0.5, logits, True)
    if isinstance(distribution, dist.CategoricalProbs) or hasattr(distribution, "mean_logits"):
        probs = distribution.probs
        logits = distribution.mean_logits if hasattr(distribution, "mean_logits") else distribution.logits
        return Classes(probs, entropy(probs, False), probs == probs.max(-1, keepdims=True), logits, False)
    if isinstance(distribution, dist.CategoricalLogits):
        return _softmax(distribution.logits)
    covariance = getattr(distribution, "covariance_matrix", None) if distribution.event_dim == 1 else None
    shape = distribution.batch_shape + distribution.event_shape
    mean, variance = (jnp.broadcast_to(a, shape) for a in (distribution.mean, distribution.variance))
    if covariance is not None:
        covariance = jnp.broadcast_to(covariance, (*shape, shape[-1]))
    # A Student-t's mean of ∞ says that there is none.
    return Values(jnp.where(jnp.isinf(mean), jnp.nan, mean), variance, covariance)


def _softmax(logits: jax.Array) -> Classes:
    # H = log Σ exp(z) − Σ p z, with z = logits − max: no cancellation, and one logarithm for each row, not each class.
    z = logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    exponentials = jnp.exp(z)
    total = exponentials.sum(-1, keepdims=True)
    probs = exponentials / total
    return Classes(probs, jnp.log(total[..., 0]) - (probs * z).sum(-1), z == 0, logits, False)


class ValueMoments(eqx.Module):
    """Running moments over the draws of a regression. Infinite variances are counted apart: ∞ − ∞ is no deviation."""

    location: Moments
    spread: Moments
    infinite: jax.Array
    covariance: Any  # Moments, or None

    @classmethod
    def empty(cls, like: Values) -> "ValueMoments":
        """No draws."""
        joint = like.covariance is not None
        infinite = jnp.zeros(like.variance.shape, bool)
        covariance = Moments.empty(like.covariance) if joint else None
        return cls(Moments.empty(like.mean, joint=joint), Moments.empty(like.variance), infinite, covariance)

    def add(self, draws: Values, valid: jax.Array) -> "ValueMoments":
        """With the draws along axis 0 that are `valid` [S]."""
        joint = draws.covariance is not None
        infinite = jnp.isinf(draws.variance)
        spread = Moments.of(jnp.where(infinite, 0.0, draws.variance), valid)
        of_valid = (infinite & valid.reshape(-1, *[1] * (infinite.ndim - 1))).any(0)
        return ValueMoments(
            self.location.merge(Moments.of(draws.mean, valid, joint=joint)),
            self.spread.merge(spread),
            self.infinite | of_valid,
            None if draws.covariance is None else self.covariance.merge(Moments.of(draws.covariance, valid)),
        )

    def split(self, *, enumerated: bool) -> Prediction:
        """The prediction."""
        ddof, count = 0 if enumerated else 1, self.location.count.astype(jnp.int32)
        error = jnp.zeros_like(self.location.mean) if enumerated else self.location.standard_error
        aleatoric, epistemic = jnp.where(self.infinite, jnp.inf, self.spread.mean), self.location.variance(ddof)
        own = None if self.covariance is None else self.covariance.mean
        between = self.location.covariance(ddof)
        return Prediction(
            mean=self.location.mean,
            variance=aleatoric + epistemic,
            aleatoric=aleatoric,
            epistemic=epistemic,
            standard_error=error,
            num_samples=count,
            covariance=None if own is None else own + between,
            aleatoric_covariance=own,
            epistemic_covariance=between,
        )


class ClassMoments(eqx.Module):
    """Running moments over the draws of a classification: of probabilities, entropies and logits, and votes."""

    location: Moments
    spread: Moments
    logits: Moments
    votes: jax.Array
    binary: bool = eqx.field(static=True)

    @classmethod
    def empty(cls, like: Classes) -> "ClassMoments":
        """No draws."""
        probs, spread, logits = (Moments.empty(a) for a in (like.probs, like.entropy, like.logits))
        return cls(probs, spread, logits, jnp.zeros(like.votes.shape, jnp.int32), like.binary)

    def add(self, draws: Classes, valid: jax.Array) -> "ClassMoments":
        """With the draws along axis 0 that are `valid` [S]."""
        votes = draws.votes & valid.reshape(-1, *[1] * (draws.votes.ndim - 1))
        return ClassMoments(
            self.location.merge(Moments.of(draws.probs, valid)),
            self.spread.merge(Moments.of(draws.entropy, valid)),
            self.logits.merge(Moments.of(draws.logits, valid)),
            self.votes + votes.sum(0, dtype=jnp.int32),
            self.binary,
        )

    def split(self, *, enumerated: bool) -> ClassPrediction:
        """The prediction."""
        count, ddof = self.location.count, 0 if enumerated else 1
        probs, error = self.location.mean, self.location.standard_error
        total = entropy(probs, self.binary)
        information = jnp.maximum(total - self.spread.mean, 0)
        share = self.votes / jnp.maximum(count, 1)
        modal = jnp.maximum(share, 1 - share) if self.binary else share.max(-1)
        between = self.location.variance(ddof=0)
        return ClassPrediction(
            probs=probs,
            entropy=total,
            aleatoric=total - information,
            epistemic=information,
            standard_error=jnp.zeros_like(error) if enumerated else error,
            num_samples=count.astype(jnp.int32),
            variation_ratio=1 - modal,
            aleatoric_variance=jnp.maximum(probs * (1 - probs) - between, 0),
            epistemic_variance=between,
            logit_variance=self.logits.variance(ddof),
        )


def entropy(probs: jax.Array, binary: bool) -> jax.Array:
    """In nats: of each label where `binary`, else along the last axis."""
    return entr(probs) + entr(1 - probs) if binary else entr(probs).sum(-1)


def no_draws(like: Values | Classes) -> ValueMoments | ClassMoments:
    """The moments of no draws of statistics of these shapes, to which draws are added and which is then split.

    `split(enumerated=True)` is for draws that are all members of a finite posterior: `epistemic` then divides by S and
    not by S − 1, and there is no Monte Carlo error.
    """
    return ClassMoments.empty(like) if isinstance(like, Classes) else ValueMoments.empty(like)
