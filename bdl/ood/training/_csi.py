"""CSI: an image against its own shifted copies, and which shift it was."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from numpyro import distributions as dist

from bdl._keys import derive
from bdl.inference._base import Algorithm
from bdl.inference._vi import VIState, vi
from bdl.model import Model
from bdl.ood._unit import unit
from bdl.ood.training._shifts import Shift, check_kept, check_shifts, concatenated, rotations
from bdl.ood.training._step import PenalisedInfo, check_number, descend, measured, now


class CategoricalWithEmbedding(eqx.Module):
    """S ~ Categorical(softmax(g(x))), the shift of x, beside an embedding z(x): outputs are [N, E + K].

    The first E are the embedding, the last K the logits of the shifts. `csi` trains both, `csi_score` reads both. The
    data are not shifted, and their targets are not looked at: of any y the log-likelihood is log p(S = 0 | x).

    Attributes:
        num_shifts: K.

    Example:
        >>> import jax.numpy as jnp
        >>> from bdl.ood.training import CategoricalWithEmbedding
        >>> CategoricalWithEmbedding(2)(jnp.array([[9.0, 1.0, 3.0, 0.0, 0.0]])).probs
        Array([[0.5, 0.5]], dtype=float32)
    """

    num_shifts: int = eqx.field(static=True)

    def __call__(self, outputs: Any, *, key: Any = None) -> dist.Distribution:
        """The distribution of the shift.

        Raises:
            ValueError: the outputs are not [N, E + K].
        """
        del key
        return dist.Categorical(logits=split(outputs, self.num_shifts)[1])

    def log_prob(self, distribution: Any, y: Any) -> jax.Array:
        """The log-probability that x is as it was, [N] in nats, whatever y is."""
        del y
        log_probs: jax.Array = jax.nn.log_softmax(distribution.logits, -1)
        return log_probs[..., 0]

    def check_targets(self, distribution: Any, y: Any) -> None:
        """Any will do."""


def csi(
    optimizer: optax.GradientTransformation,
    augment: Callable[[Any, Any], Any],
    *,
    shifts: Any = rotations,
    temperature: float = 0.5,
    weight: Any = 1.0,
    num_samples: int = 1,
    noise: str = "shared",
    kl_weight: Any = 1.0,
) -> Algorithm:
    """Contrast shifted instances: learn without labels what is near to what. Descend (nats, lower is better)

        L_con + weight · L_cls + KL(q || prior) / N.

    Each of the B images of a batch is augmented 2 K times and shifted by each of the K shifts twice, which makes 2 B K
    rows. The twin of row i is the other one, i′, of the same image and the same shift. All others are to be far,
    those of the same image under other shifts among them; and a classifier is to tell the shift:

        L_con = −(1 / 2BK) Σᵢ log [exp(cos(zᵢ, zᵢ′)/τ) / Σ_{j≠i} exp(cos(zᵢ, zⱼ)/τ)],
        L_cls = −(1 / 2BK) Σᵢ log p(Sᵢ | xᵢ).

    So shifts have to make an inlier an outlier: compare `rotations` and `permuted_patches` by how well `csi_score`
    tells what is known to be outside. Images are augmented before they are shifted, as a mirrored quarter turn is a
    quarter turn to the other side.

    The likelihood is `CategoricalWithEmbedding(K)`; the network has E + K outputs. Data are a pair (x, y) as ever, and
    y is not looked at: pass zeros, or labels.

    Args:
        optimizer: any optax optimiser; it is given the learned half of posterior and model only.
        augment: `augment(key, x) -> x`, other random copies, of the same shape, that are still inliers: `augmented`,
            or a `functools.partial` of it, for images.
        shifts: K functions from inputs to inputs of the same shape, the first of which leaves them as they are.
        temperature: τ.
        weight: of L_cls, λ in the paper, or an optax schedule of it.
        num_samples: draws of the weights at each step.
        noise: `"shared"`, or `"local"`: see `bdl.elbo`. Twins are compared under the same weights where it is shared.
        kl_weight: the factor on the KL of the posterior from the prior, or an optax schedule of it. An image counts as
            one example, and not as 2 K.

    Returns:
        An algorithm for `bdl.fit`, with the state of `bdl.inference.vi` and a history of `PenalisedInfo`: its
        `log_likelihood` is −N L_con, that of finding twins, and its `penalty` is L_cls.

    Raises:
        ValueError: a number is out of its range, or there are fewer than two shifts; in the fit, the likelihood is not
            `CategoricalWithEmbedding(K)`, or a shape is changed.
        TypeError: `augment` or a shift is no function.

    Reference:
        Tack, Mo, Jeong and Shin (2020), CSI: novelty detection via contrastive learning on distributionally shifted
        instances, https://arxiv.org/abs/2007.08176

    Example:
        >>> import jax, jax.numpy as jnp, optax, bdl
        >>> from bdl.ood import training
        >>> images, count = jnp.ones((6, 8, 8, 1)), len(training.rotations)
        >>> outputs = lambda params, x: x.reshape(len(x), -1) @ params["w"]
        >>> network = bdl.network(outputs, {"w": jnp.ones((64, 16 + count))})  # an embedding of 16
        >>> model = bdl.Model(network, training.CategoricalWithEmbedding(count))
        >>> posterior = bdl.variational(network.params, bdl.families.point)
        >>> algorithm = training.csi(optax.adam(1e-3), training.augmented)
        >>> data = images, jnp.zeros(6)
        >>> fitted = bdl.fit(jax.random.key(1), algorithm, posterior, model, data, num_steps=2, progress=False)
        >>> fitted.history.penalty.shape
        (2,)
    """
    shifts = check_shifts("csi", shifts)
    check_number("csi", "temperature", temperature, positive=True)
    check_number("csi", "weight", weight)
    if not callable(augment):
        raise TypeError(
            f"csi: expected `augment` as a function (key, x) -> x, got {type(augment).__name__}. For images pass "
            "bdl.ood.training.augmented."
        )
    start = vi(optimizer).init

    def init(key: Any, posterior: Any, model: Model, *, num_data: float) -> VIState:
        found = model.likelihood
        if not isinstance(found, CategoricalWithEmbedding) or found.num_shifts != len(shifts):
            raise ValueError(
                f"csi: expected the likelihood bdl.ood.training.CategoricalWithEmbedding({len(shifts)}), one class for "
                f"each shift, and a network with so many outputs more than the embedding has; got {found}."
            )
        return start(key, posterior, model, num_data=num_data)

    def step(key: Any, state: VIState, batch: tuple[Any, Any]) -> tuple[VIState, PenalisedInfo]:
        x, y = batch
        rows = views(derive(key, "augment"), augment, shifts, x)

        def measure(likelihood: Any, outputs: Any, key: Any, y: Any) -> tuple[jax.Array, jax.Array]:
            del likelihood, key, y
            embeddings, logits = split(outputs, len(shifts))
            return contrastive_loss(embeddings, temperature), shift_loss(logits)

        def loss(posterior: Any, model: Model) -> Any:
            (contrast, told), kl, network_state = measured(
                key, posterior, model, (rows, y), measure,
                num_data=state.num_data, num_samples=num_samples, noise=noise,
            )  # fmt: skip
            divergence = now(kl_weight, state.step) * kl
            # L_con + weight · L_cls + KL / N
            total = contrast + now(weight, state.step) * told + divergence / state.num_data
            scaled = -state.num_data * contrast
            return total, (network_state, (scaled - divergence, scaled, kl, told))

        after, (elbo, fit, kl, told), norm = descend(optimizer, state, loss)
        return after, PenalisedInfo(elbo, fit, kl, norm, told)

    return Algorithm(init, step)


def split(outputs: Any, num_shifts: int) -> tuple[jax.Array, jax.Array]:
    """The embedding [..., E] and the logits of the shifts [..., K].

    Raises:
        ValueError: the outputs are not [N, E + K], with E and K of at least one and two.
    """
    if outputs.ndim != 2 or outputs.shape[-1] <= num_shifts:
        raise ValueError(
            f"csi: expected outputs [N, E + {num_shifts}], an embedding and the logits of {num_shifts} shifts, but the "
            f"network's have shape {tuple(outputs.shape)}. Give its last layer {num_shifts} units more than the "
            "embedding is to have."
        )
    return outputs[:, :-num_shifts], outputs[:, -num_shifts:]


def views(key: Any, augment: Callable[[Any, Any], Any], shifts: tuple[Shift, ...], x: Any) -> Any:
    """Every example augmented anew for each of K shifts, and shifted, twice: [2 K N, ...], by view, shift, example."""
    both = 2 * shifts
    copies = jax.tree.map(lambda a: jnp.concatenate([a] * len(both)), x)
    found = augment(key, copies)
    check_kept("csi: `augment`", copies, found)
    count = jax.tree.leaves(x)[0].shape[0]
    blocks = [jax.tree.map(lambda a, i=i: a[i * count : (i + 1) * count], found) for i in range(len(both))]
    return concatenated("csi", both, blocks)


def contrastive_loss(embeddings: jax.Array, temperature: Any) -> jax.Array:
    """The normalised, temperature-scaled cross-entropy of twins, in nats, the mean over rows.

    Args:
        embeddings: [2 R, E]; the twin of row i is row i + R, and that of i + R is i.
        temperature: τ.
    """
    z = unit(embeddings)
    count = len(z)
    similar = jnp.matmul(z, z.T, precision="highest") / temperature
    # log Σ_{j≠i} exp(cos(zᵢ, zⱼ)/τ) − cos(zᵢ, zᵢ′)/τ
    others = jnp.where(jnp.eye(count, dtype=bool), -jnp.inf, similar)
    twin = (z * jnp.roll(z, count // 2, 0)).sum(-1) / temperature
    return (jax.nn.logsumexp(others, -1) - twin).mean()


def shift_loss(logits: jax.Array) -> jax.Array:
    """−log p(S | x), in nats, the mean over rows; `logits` are [2 K N, K], of rows as `views` makes them."""
    count = logits.shape[-1]
    log_probs = jax.nn.log_softmax(logits, -1).reshape(2, count, -1, count)
    return -jnp.diagonal(log_probs, axis1=1, axis2=3).mean()
