"""Autoencoders: through few numbers and back, without and with a distribution of them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from bdl.networks._base import Network
from bdl.networks._mlp import MLP
from bdl.networks._reference import initialised
from bdl.networks._transform import stochastic


class Autoencoder(nn.Module):
    """A decoder of what an encoder makes of the inputs; both are modules of any kind. See `autoencoder`.

    Attributes:
        encoder: inputs [N, ...] to codes [N, L].
        decoder: codes [N, L] to outputs [N, ...].
    """

    encoder: nn.Module
    decoder: nn.Module

    def __call__(self, x: Any) -> Any:
        """The outputs, [N, ...]."""
        return self.decoder(self.encoder(x))


class LatentOutputs(NamedTuple):
    """The outputs of a network that draws latent variables z, for `bdl.latent`.

    Attributes:
        outputs: given z, what the likelihood takes, [N, ...].
        log_weight: log p(z) − log q(z | x) of the z that was drawn, in nats, [N].
    """

    outputs: Any
    log_weight: jax.Array


class VAE(nn.Module):
    """A variational autoencoder of an encoder and a decoder, modules of any kind. See `vae`.

    The stream of random numbers is `"latent"`, or Flax's default one; without either, z is the mean of q(z | x).

    Attributes:
        encoder: inputs [N, ...] to [N, 2 L]: mean and log scale of q(z | x).
        decoder: latents [N, L] to the likelihood's outputs [N, ...].
    """

    encoder: nn.Module
    decoder: nn.Module

    def __call__(self, x: Any) -> LatentOutputs:
        """A draw z ~ q(z | x) decoded, and its weight."""
        mean, log_scale = self.encode(x)
        stream = next((name for name in ("latent", "params") if self.has_rng(name)), None)
        noise = jnp.zeros_like(mean) if stream is None else jax.random.normal(self.make_rng(stream), mean.shape)
        z = mean + jnp.exp(log_scale) * noise
        # log N(z; 0, 1) − log N(z; mean, scale²), in which log 2π cancels
        log_weight = (0.5 * noise**2 + log_scale - 0.5 * z**2).astype(jnp.float32).sum(-1)
        return LatentOutputs(self.decode(z), log_weight)

    def encode(self, x: Any) -> tuple[jax.Array, jax.Array]:
        """Mean and log scale of q(z | x), [N, L] each."""
        mean, log_scale = jnp.split(self.encoder(x), 2, axis=-1)
        return mean, log_scale

    def decode(self, z: Any) -> Any:
        """The likelihood's outputs given z, [N, ...]."""
        return self.decoder(z)


def autoencoder(
    key: Any, x: Any, num_latents: int, *, widths: Sequence[int] = (128,), num_outputs: int | None = None
) -> Network:
    """An autoencoder with initial weights: dense layers to `num_latents` numbers, and back to the inputs' shape.

    Fit it with the inputs as targets too, `bdl.fit(..., (x, x), ...)`. For other layers put modules of your own into
    `bdl.networks.Autoencoder`, and that into `bdl.from_linen`.

    Args:
        key: of the initial weights.
        x: inputs [N, ..., C], or their `jax.ShapeDtypeStruct`.
        num_latents: L, numbers of a code.
        widths: units of the encoder's hidden layers; the decoder has the same in reverse order.
        num_outputs: the outputs' last axis where it is not C: 2 C for `bdl.likelihoods.HeteroscedasticNormal`.

    Reference:
        Hinton and Salakhutdinov (2006), https://doi.org/10.1126/science.1127647

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> images = jnp.ones((5, 8, 8, 1))
        >>> network = bdl.networks.autoencoder(jax.random.key(0), images, 2)
        >>> network.apply(network.params, network.state, images)[0].shape
        (5, 8, 8, 1)
    """
    return initialised(key, Autoencoder(*_coders(x, num_latents, widths, num_outputs)), x)


def vae(
    key: Any, x: Any, num_latents: int, *, widths: Sequence[int] = (128,), num_outputs: int | None = None
) -> Network:
    """A variational autoencoder with initial weights, of dense layers; its latents are drawn from each call's key.

        p(x) = ∫ p(x | z) p(z) dz,   p(z) = Normal(0, 1),   q(z | x) = Normal(mean(x), scale(x)²).

    Its evidence lower bound is that of the library: with the likelihood `bdl.latent(likelihood)` and the inputs as
    targets, `bdl.elbo` is (N / batch) Σₙ [log p(xₙ | zₙ) + log p(zₙ) − log q(zₙ | xₙ)] − KL(weights), in nats and
    maximised, `bdl.fit` fits it, and weights may have any posterior. For other layers put modules of your own into
    `bdl.networks.VAE`, and that into `bdl.from_linen` and `bdl.networks.stochastic`.

    Args:
        key: of the initial weights.
        x: inputs [N, ..., C], or their `jax.ShapeDtypeStruct`.
        num_latents: L, the dimensions of z.
        widths: units of the encoder's hidden layers; the decoder has the same in reverse order.
        num_outputs: the outputs' last axis where it is not C: 2 C for `bdl.likelihoods.HeteroscedasticNormal`.

    Reference:
        Kingma and Welling (2014), Auto-encoding variational Bayes, https://arxiv.org/abs/1312.6114

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> images = jnp.ones((5, 8, 8, 1))
        >>> network = bdl.networks.vae(jax.random.key(0), images, 2)
        >>> model = bdl.Model(network, bdl.latent(bdl.likelihoods.Normal(scale=0.1)))
        >>> weights = bdl.variational(network.params, {})
        >>> bdl.elbo(jax.random.key(1), weights, model, (images, images), num_data=50).elbo.shape
        ()
    """
    encoder, decoder = _coders(x, num_latents, widths, num_outputs, per_latent=2)
    return stochastic(initialised(key, VAE(encoder, decoder), x))


def _coders(x: Any, num_latents: int, widths: Any, num_outputs: int | None, per_latent: int = 1) -> tuple[MLP, MLP]:
    shape = (*x.shape[1:-1], num_outputs or x.shape[-1])
    return MLP(per_latent * num_latents, tuple(widths)), MLP(shape, tuple(widths)[::-1])
