"""Deep SVDD and Deep SAD: a network that draws what is normal to one point, and known anomalies away from it."""

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from numpyro import distributions as dist

from bdl._data_checks import is_traced, place
from bdl._in_batches import in_batches, joined
from bdl._learned import Learned
from bdl.likelihoods import _targets
from bdl.networks._base import Network
from bdl.ood import _feature_checks as checks
from bdl.ood._class_moments import column_means
from bdl.ood._through import as_function
from bdl.ood.training._collapse import added_arrays, is_bounded
from bdl.ood.training._step import check_number
from bdl.uncertainty import Prediction


class DeepSAD(eqx.Module):
    """One-class training, as a likelihood: the log-probability of an example is minus its loss,

        loss = d² where y = 0,   η (d² + ε) where y = 1,   η / (d² + ε) where y = −1;   d = ‖φ(x) − c‖.

    The labels y are integers [N]: 0 is unlabelled, 1 known to be normal, −1 a known anomaly. Where all are 0 this is
    Deep SVDD. The network φ has outputs [N, D] and no biases, or it could map everything to c; `deep_sad_centre` makes
    c of its first weights, and warns. The authors begin with those of an autoencoder's encoder.

    With point masses `bdl.inference.map` minimises (1/N) Σ loss + (λ/2) ‖w‖² for the prior `bdl.priors.normal(scale=σ)`
    with λ = 1 / (N σ²). Any other posterior is fitted to p(w) exp(−Σ loss): exp(−loss) is no density of the labels, so
    that the ELBO bounds no evidence, and how wide the posterior is depends on the unit of d² and on η. What other
    functions say of such a model:

    * `bdl.predict`: of the squared distance, and not of labels: `mean` over the draws of the weights, `epistemic` the
      variance over them; `aleatoric` is 0. `expected_distance` makes a score of it.
    * `bdl.log_predictive`: log (1/S) Σ exp(−loss), in the loss's unit; to compare fits with the same c, η and ε.
    * what draws labels raises a TypeError.

    Attributes:
        centre: c, [D], which stays.
        eta: η, the weight of a labelled example; above 1 labels count more than the rest.
        epsilon: ε, which keeps the inverse of a distance finite, in the unit of d².

    Raises:
        ValueError: the centre is not [D], not finite or 0 everywhere, or a number is not positive.
        TypeError: one of them is marked as learned.

    Reference:
        Ruff et al. (2020), Deep semi-supervised anomaly detection, equation 7, https://arxiv.org/abs/1906.02694; Ruff
        et al. (2018), Deep one-class classification, https://proceedings.mlr.press/v80/ruff18a.html

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> from bdl.ood.training import DeepSAD
        >>> model = bdl.Model(bdl.network(lambda p, x: x @ p["w"], {"w": jnp.eye(2)}), DeepSAD(jnp.ones(2), eta=3.0))
        >>> outputs, labels = jnp.array([[3.0, 1.0], [3.0, 1.0], [3.0, 1.0]]), jnp.array([0, 1, -1])
        >>> [round(float(value), 2) for value in model.log_likelihood(jax.random.key(0), outputs, labels)]
        [-4.0, -12.0, -0.75]
    """

    centre: jax.Array
    eta: jax.Array
    epsilon: jax.Array

    def __init__(self, centre: Any, *, eta: Any = 1.0, epsilon: Any = 1e-6):
        for name, value in (("centre", centre), ("eta", eta), ("epsilon", epsilon)):
            if isinstance(value, Learned):
                raise TypeError(
                    f"DeepSAD: `{name}` cannot be learned: with it all distances could be made 0. Pass a number."
                )
        check_number("DeepSAD", "eta", eta, positive=True)
        check_number("DeepSAD", "epsilon", epsilon, positive=True)
        self.centre, self.eta, self.epsilon = (jnp.asarray(a).astype(jnp.float32) for a in (centre, eta, epsilon))
        if self.centre.ndim != 1 or not self.centre.size:
            raise ValueError(f"DeepSAD: expected a centre [D], got shape {self.centre.shape}. See deep_sad_centre.")
        if not is_traced(self.centre) and not (np.isfinite(self.centre).all() and np.any(self.centre)):
            raise ValueError(
                "DeepSAD: expected a finite centre other than 0, which weights of 0 map every input to. Make one: "
                "bdl.ood.training.deep_sad_centre(network, x)."
            )

    @property
    def is_reweighted(self) -> bool:
        """That what is trained bounds no evidence."""
        return True

    def squared_distance(self, outputs: Any) -> jax.Array:
        """‖φ(x) − c‖² of outputs [N, D] (higher = more out-of-distribution, in their unit squared), [N].

        Raises:
            ValueError: the outputs have another shape.
        """
        outputs = jnp.asarray(outputs)
        if outputs.ndim != 2 or outputs.shape[1:] != self.centre.shape:
            raise ValueError(
                f"DeepSAD: expected outputs [N, {len(self.centre)}], one number for each of the centre's, got the "
                f"shape {outputs.shape}. Make the centre of this network: bdl.ood.training.deep_sad_centre(network, x)."
            )
        # d² = Σⱼ (φⱼ(x) − cⱼ)²
        return ((outputs.astype(jnp.float32) - self.centre[None]) ** 2).sum(-1)

    def __call__(self, outputs: Any, *, key: Any = None) -> dist.Distribution:
        """What knows the loss of each label, [N]; its mean is the squared distance."""
        del key
        return SquaredDistance(self.squared_distance(outputs), self.eta, self.epsilon)

    def log_prob(self, distribution: dist.Distribution, y: Any) -> jax.Array:
        """Minus the loss of each example, [N].

        Raises:
            ValueError: the labels are not [N].
            TypeError: the labels are no integers.
        """
        _check_kind(y)
        _targets.check_shape(distribution, y)
        return distribution.log_prob(y)

    def training_weight(self, distribution: dist.Distribution, y: Any) -> Any:
        """1: η is in the loss already."""
        del distribution, y
        return 1.0

    def check_targets(self, distribution: dist.Distribution, y: Any) -> None:
        """Whether labels are integers among −1, 0 and 1.

        Raises:
            ValueError, TypeError: they are not; the message names the row.
        """
        y = np.asarray(y)
        _check_kind(y)
        _targets.check_shape(distribution, y)
        wrong = ~np.isin(y, (-1, 0, 1))
        if wrong.any():
            row = tuple(np.argwhere(wrong)[0])
            raise ValueError(
                f"DeepSAD: expected labels 0 (unlabelled), 1 (known to be normal) or −1 (a known anomaly), got {y[row]}"
                f" at {place(row)}."
            )


class SquaredDistance(dist.Distribution):
    """The losses of `DeepSAD` in the place of a distribution over labels, which it is not.

    Args:
        square: squared distances to the centre, [N].
        eta, epsilon: of the loss.
    """

    support = dist.constraints.integer_interval(-1, 1)
    pytree_data_fields = ("square", "eta", "epsilon")

    def __init__(self, square: jax.Array, eta: jax.Array, epsilon: jax.Array):
        self.square, self.eta, self.epsilon = square, eta, epsilon
        super().__init__(batch_shape=square.shape, validate_args=False)

    @property
    def mean(self) -> jax.Array:
        """The squared distance, which is what there is to predict."""
        return self.square

    @property
    def variance(self) -> jax.Array:
        """0: given the weights, the distance is what it is."""
        return jnp.zeros_like(self.square)

    def log_prob(self, value: Any) -> jax.Array:
        """Minus the loss of these labels, [N]."""
        # η (d² + ε)^y
        guarded = self.square + self.epsilon
        known = self.eta * jnp.where(value > 0, guarded, 1 / guarded)
        return -jnp.where(value == 0, self.square, known)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Nothing can be drawn.

        Raises:
            TypeError: always.
        """
        raise TypeError("DeepSAD: its loss is no distribution over labels, so that none can be drawn. " + _INSTEAD)

    def cdf(self, value: Any) -> jax.Array:
        """There is none.

        Raises:
            TypeError: always.
        """
        raise TypeError("DeepSAD: its loss is no distribution over labels, so that it has no quantiles. " + _INSTEAD)


_INSTEAD = "Scores are `likelihood.squared_distance(outputs)` and `bdl.predict(...).mean`."


def expected_distance(prediction: Prediction) -> jax.Array:
    """The squared distance to the centre, the mean over draws of the weights (higher = more out-of-distribution).

    In the unit of the outputs squared. For `bdl.ood.from_draws`, with a model whose likelihood is `DeepSAD`. It is the
    squared distance of the mean output, plus the variance of the outputs.

    Args:
        prediction: of such a model, from `bdl.predict`.

    Returns:
        [N].

    Raises:
        TypeError: this is no such prediction.

    Example:
        >>> import jax, jax.numpy as jnp, bdl, bdl.ood
        >>> from bdl.ood.training import DeepSAD, expected_distance
        >>> network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.ones((1, 1))})
        >>> posterior, model = bdl.variational(network.params, bdl.families.point), bdl.Model(network, DeepSAD([1.0]))
        >>> detector = bdl.ood.from_draws(jax.random.key(0), posterior, model, expected_distance)
        >>> detector(jnp.array([[1.0], [4.0]]))
        Array([0., 9.], dtype=float32)
    """
    if not isinstance(prediction, Prediction) or prediction.mean.ndim != 1:
        raise TypeError(
            f"expected_distance: expected the prediction of a model whose likelihood is DeepSAD, got "
            f"{type(prediction).__name__}. Of classes and regressions there are other scores in bdl.ood."
        )
    return prediction.mean


def deep_sad_centre(function: Any, x: Any, *, margin: float = 0.1, batch_size: int | None = None) -> jax.Array:
    """The centre c of Deep SVDD and Deep SAD: the mean of the first outputs, none of its entries near 0.

        cⱼ = mⱼ where |mⱼ| ≥ margin, else ± margin with the sign of mⱼ;   m = (1/N) Σₙ φ(xₙ).

    A unit whose centre is 0 is matched by weights of 0. Make it once, before the fit, and of the weights that the fit
    begins with: initial ones, or those of an autoencoder's encoder.

    Args:
        function: a `bdl.Network` with those weights, or a function from inputs to outputs [N, D].
        x: the training data without known anomalies, examples along axis 0.
        margin: how far from 0 at least, in the outputs' unit, above 0.
        batch_size: examples at once; all where `None`.

    Returns:
        [D], float32.

    Raises:
        ValueError: the outputs are not [N, D] or not finite, or the margin is not positive.
        TypeError: the first is no network and no function.

    Warns:
        UserWarning: the network can map every input to c: it adds numbers whatever the input (biases, the shift of a
            normalisation layer, positions), which the message names, or its outputs are bounded. Of a function nothing
            of the kind is known.

    Reference:
        Ruff et al. (2018), Deep one-class classification, https://proceedings.mlr.press/v80/ruff18a.html, with its
        propositions 1 to 3.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.array([[2.0, 0.01, -0.01]])})
        >>> bdl.ood.training.deep_sad_centre(network, jnp.array([[1.0], [3.0]]))
        Array([ 4. ,  0.1, -0.1], dtype=float32)
    """
    check_number("deep_sad_centre", "margin", margin, positive=True)
    apply = as_function("deep_sad_centre", function)
    outputs = joined(in_batches(lambda batch: _outputs(apply, batch), x, batch_size))
    outputs = checks.features("deep_sad_centre", outputs)
    if isinstance(function, Network) and not is_traced((function, outputs)):
        _warn_of_collapse(function, x, batch_size)
    return _pushed(column_means(outputs), margin)


@eqx.filter_jit
def _outputs(function: Any, x: Any) -> Any:
    return function(x)


@jax.jit
def _pushed(mean: jax.Array, margin: Any) -> jax.Array:
    return jnp.where(jnp.abs(mean) < margin, jnp.where(mean < 0, -margin, margin), mean)


def _warn_of_collapse(network: Network, x: Any, batch_size: int | None) -> None:
    batch = jax.tree.map(lambda a: jnp.asarray(a[:batch_size]), x)
    added = added_arrays(network, batch)
    if added:
        warnings.warn(
            f"deep_sad_centre: the network adds {', '.join(added)} whatever the input, so that it can map every input "
            "to the centre. Leave biases out: use_bias=False in Flax's layers and in bdl.networks.mlp and lenet, and "
            "in normalisation layers.",
            stacklevel=3,
        )
    if is_bounded(network, lambda scaled: _outputs(as_function("deep_sad_centre", scaled), batch)):
        warnings.warn(
            "deep_sad_centre: the outputs of the network are bounded, so that saturated units can map every input to "
            "the centre. Let its last layer be linear, without an activation or a normalisation behind it.",
            stacklevel=3,
        )


def _check_kind(y: Any) -> None:
    if not jnp.issubdtype(jnp.result_type(y), jnp.integer):
        raise TypeError(
            f"DeepSAD: expected integer labels, 0 (unlabelled), 1 (known to be normal) or −1 (a known anomaly), got "
            f"{jnp.result_type(y)}. Of flags of known anomalies make jnp.where(is_anomaly, -1, 0)."
        )
