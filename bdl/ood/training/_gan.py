"""A classifier trained together with a generator of the outliers that it is to be unsure of."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from bdl._convolutions import fast_images
from bdl._keys import check_key, derive
from bdl.inference._base import Algorithm
from bdl.inference._vi import vi
from bdl.likelihoods._base import call
from bdl.model import Model
from bdl.networks._base import Network
from bdl.ood.training._confidence_loss import kl_from_uniform
from bdl.ood.training._step import (
    PenalisedInfo,
    check_number,
    descend,
    distributions,
    log_likelihood,
    measured,
    now,
    per_example,
    rows,
)
from bdl.ood.training._with_outliers import both, check_alike

_ADAM = 2e-4, 0.5  # rate and first moment's decay of the two adversaries, as published


class Adversary(eqx.Module):
    """A network that is trained beside the classifier: the generator or the discriminator.

    Attributes:
        network: with its weights and its state as fitted so far.
        optimizer: its optimiser's state.
    """

    network: Network
    optimizer: Any

    def apply(self, params: Any, x: Any) -> tuple[Any, Any]:
        """Outputs and state under other weights, as in training."""
        return self.network.apply(params, self.network.state, x, train=True)


class GANState(eqx.Module):
    """The state of `confidence_gan` between steps.

    Attributes:
        posterior, model: of the classifier, as fitted so far.
        optimizer: its optimiser's state.
        step: the number of steps taken.
        generator, discriminator: the two adversaries.
        num_data: the size N of the data set.
        latent_size: the numbers that an outlier is made from.
    """

    posterior: Any
    model: Model
    optimizer: Any
    step: jax.Array
    generator: Adversary
    discriminator: Adversary
    num_data: float = eqx.field(static=True)
    latent_size: int = eqx.field(static=True)


class GANInfo(PenalisedInfo):
    """`PenalisedInfo`, whose penalty is KL(U || p) at what the generator makes, and the losses of the adversaries.

    Attributes:
        discriminator_loss: −E[log D(x)] − E[log (1 − D(G(z)))], in nats; 2 log 2 where it cannot tell.
        generator_loss: what the generator descends, in nats, its part for being unsure included.
    """

    discriminator_loss: jax.Array
    generator_loss: jax.Array


def generate(key: Any, state: GANState, num_samples: int) -> Any:
    """Outliers from the generator of a fit by `confidence_gan`.

    Args:
        key: one random key.
        state: `fitted.state`.
        num_samples: how many.

    Returns:
        [num_samples, ...], like the inputs.
    """
    network = state.generator.network
    latents = jax.random.normal(check_key(key), (num_samples, state.latent_size))
    return network.apply(network.params, network.state, latents)[0]


def confidence_gan(
    optimizer: optax.GradientTransformation,
    generator: Network,
    discriminator: Network,
    *,
    latent_size: int = 100,
    weight: Any = 1.0,
    generator_weight: Any = None,
    non_saturating: bool = True,
    generator_optimizer: optax.GradientTransformation | None = None,
    discriminator_optimizer: optax.GradientTransformation | None = None,
    num_samples: int = 1,
    noise: str = "local",
    kl_weight: Any = 1.0,
) -> Algorithm:
    """Train a classifier to be unsure of outliers that a generator makes near the boundary of the data.

    Each step, on one batch, z standard Normal and drawn anew for each of the three (nats, lower is better):

        discriminator   −E[log D(x)] − E[log (1 − D(G(z)))]
        generator       −E[log D(G(z))] + weight · E[KL(U || p(y | G(z), w))]
        classifier      −ELBO / N + weight · E[KL(U || p(y | G(z), w))]

    The generator is drawn to the data by the discriminator and away from where the classifier is sure by the KL: to
    where the density is low, around the data. No outliers are needed. The generator sees the classifier with the
    running statistics of its batch normalisation, as in use.

    Args:
        optimizer: of the classifier, any optax optimiser.
        generator: from latents [N, latent_size] to inputs, with its initial weights; of images see `dcgan`, else
            `bdl.networks.mlp`.
        discriminator: from inputs to a logit, [N] or [N, 1], with its initial weights.
        latent_size: the numbers that an outlier is made from.
        weight: of the KL in the classifier's loss, or an optax schedule of it.
        generator_weight: of the KL in the generator's loss, the same as `weight` where `None`; 0 is the ablation by an
            ordinary GAN, whose outliers are in the data.
        non_saturating: whether the generator's first term is −E[log D(G(z))], as in the authors' code; else it is
            E[log (1 − D(G(z)))], as in the paper, whose gradient vanishes where D is sure.
        generator_optimizer, discriminator_optimizer: Adam with a rate of 2e-4 and b1 = 0.5 where `None`.
        num_samples: draws of the classifier's weights at each step.
        noise: `"local"` or `"shared"`; see `bdl.elbo`.
        kl_weight: the factor on the KL of the posterior from the prior, or an optax schedule of it.

    Returns:
        An algorithm for `bdl.fit`, whose history has `GANInfo`. `fitted.state` has the two adversaries, and `generate`
        draws from it.

    Raises:
        ValueError: a number is out of its range; in the fit, what the generator makes is not like the inputs, the
            discriminator does not give one number for each, or the likelihood is not of one class out of K.

    Reference:
        Lee, Lee, Lee and Shin (2018), Training confidence-calibrated classifiers for detecting out-of-distribution
        samples, algorithm 1, https://arxiv.org/abs/1711.09325

    Example:
        >>> import jax, jax.numpy as jnp, optax, bdl
        >>> from bdl.ood.training import confidence_gan, generate
        >>> x, y = jnp.eye(2), jnp.array([0, 1])
        >>> classifier, generator, discriminator = (
        ...     bdl.networks.mlp(jax.random.key(i), x, outputs) for i, outputs in enumerate((3, 2, 1))
        ... )
        >>> posterior = bdl.variational(classifier.params, bdl.families.point)
        >>> model = bdl.Model(classifier, bdl.likelihoods.Categorical())
        >>> algorithm = confidence_gan(optax.adam(1e-3), generator, discriminator, latent_size=2)
        >>> fitted = bdl.fit(jax.random.key(3), algorithm, posterior, model, (x, y), num_steps=2, progress=False)
        >>> generate(jax.random.key(4), fitted.state, 5).shape
        (5, 2)
    """
    check_number("confidence_gan", "weight", weight)
    generator_weight = weight if generator_weight is None else generator_weight
    check_number("confidence_gan", "generator_weight", generator_weight)
    if latent_size < 1:
        raise ValueError(f"confidence_gan: expected `latent_size` of at least 1, got {latent_size}.")
    default = optax.adam(_ADAM[0], b1=_ADAM[1])
    of_generator, of_discriminator = generator_optimizer or default, discriminator_optimizer or default
    start = vi(optimizer).init

    def init(key: Any, posterior: Any, model: Model, *, num_data: float) -> GANState:
        state = start(key, posterior, model, num_data=num_data)
        return GANState(
            state.posterior, state.model, state.optimizer, state.step,
            Adversary(generator, of_generator.init(generator.params)),
            Adversary(discriminator, of_discriminator.init(discriminator.params)),
            state.num_data, latent_size,
        )  # fmt: skip

    def uncertainty(key: Any, state: GANState, made: Any, y: Any) -> jax.Array:
        """E[KL(U || p(y | x, w))] at what was made."""

        def measure(likelihood: Any, outputs: Any, key: Any, y: Any) -> tuple[jax.Array]:
            return (per_example(kl_from_uniform("confidence_gan", call(likelihood, outputs, key))),)

        return measured(
            key, state.posterior, state.model, (made, y), measure,
            num_data=state.num_data, num_samples=num_samples, noise=noise, train=False,
        )[0][0]  # fmt: skip

    def discriminate(key: Any, state: GANState, x: Any) -> tuple[Adversary, jax.Array]:
        made, _ = state.generator.apply(state.generator.network.params, _latents(key, state, x))
        check_alike("confidence_gan", made, x, "the generator to make what is")

        def loss(params: Any) -> Any:
            real, network_state = state.discriminator.apply(params, x)
            after = _with_network(state.discriminator, state=network_state)
            fake, network_state = after.apply(params, made)
            # −log D = softplus(−logit), −log (1 − D) = softplus(logit)
            value = jax.nn.softplus(-_logits(real, x)).mean() + jax.nn.softplus(_logits(fake, x)).mean()
            return value, (network_state, value)

        return _train(of_discriminator, state.discriminator, loss)

    def imitate(key: Any, state: GANState, batch: Any) -> tuple[Adversary, jax.Array]:
        x, y = batch
        latents = _latents(key, state, x)

        def loss(params: Any) -> Any:
            made, network_state = state.generator.apply(params, latents)
            logits = _logits(state.discriminator.apply(state.discriminator.network.params, made)[0], x)
            fooled = jax.nn.softplus(-logits).mean() if non_saturating else -jax.nn.softplus(logits).mean()
            value = fooled + now(generator_weight, state.step) * uncertainty(key, state, made, y)
            return value, (network_state, value)

        return _train(of_generator, state.generator, loss)

    def classify(key: Any, state: GANState, batch: Any) -> tuple[GANState, Any, jax.Array]:
        x, y = batch
        inside = rows(x)
        made, _ = state.generator.apply(state.generator.network.params, _latents(key, state, x))

        def measure(likelihood: Any, outputs: Any, key: Any, y: Any) -> tuple[jax.Array, jax.Array]:
            at_inliers, at_made = distributions(likelihood, outputs, key, inside)
            return log_likelihood(likelihood, at_inliers, y), per_example(kl_from_uniform("confidence_gan", at_made))

        def loss(posterior: Any, model: Model) -> Any:
            (fit, excess), kl, network_state = measured(
                key, posterior, model, (both(x, made), y), measure,
                num_data=state.num_data, num_samples=num_samples, noise=noise,
            )  # fmt: skip
            divergence, scaled = now(kl_weight, state.step) * kl, state.num_data * fit
            total = divergence / state.num_data - fit + now(weight, state.step) * excess
            return total, (network_state, (scaled - divergence, scaled, kl, excess))

        return descend(optimizer, state, loss)

    def step(key: Any, state: GANState, batch: tuple[Any, Any]) -> tuple[GANState, GANInfo]:
        found, of_found = discriminate(derive(key, "discriminator"), state, batch[0])
        state = dataclasses.replace(state, discriminator=found)
        found, of_made = imitate(derive(key, "generator"), state, batch)
        state = dataclasses.replace(state, generator=found)
        state, (elbo, fit, kl, excess), norm = classify(derive(key, "classifier"), state, batch)
        return state, GANInfo(elbo, fit, kl, norm, excess, of_found, of_made)

    return Algorithm(init, step)


def _latents(key: Any, state: GANState, x: Any) -> jax.Array:
    return jax.random.normal(derive(key, "latents"), (rows(x), state.latent_size))


def _logits(outputs: Any, x: Any) -> jax.Array:
    count = rows(x)
    if outputs.shape not in ((count,), (count, 1)):
        raise ValueError(
            f"confidence_gan: expected a discriminator with one logit for each input, [N] or [N, 1] for N = {count}, "
            f"got outputs of shape {outputs.shape}. Give its last layer one unit."
        )
    return outputs.reshape(count).astype(jnp.float32)


def _train(
    optimizer: optax.GradientTransformation, adversary: Adversary, loss: Callable[[Any], Any]
) -> tuple[Adversary, jax.Array]:
    """The adversary after a step, and its loss before it; `loss(params) -> (loss, (state, loss))`."""
    params = adversary.network.params
    gradient, (network_state, value) = fast_images(jax.grad(loss, has_aux=True))(params)
    updates, optimizer_state = optimizer.update(gradient, adversary.optimizer, params)
    found = _with_network(adversary, params=optax.apply_updates(params, updates), state=network_state)
    return Adversary(found.network, optimizer_state), value


def _with_network(adversary: Adversary, **parts: Any) -> Adversary:
    return dataclasses.replace(adversary, network=dataclasses.replace(adversary.network, **parts))
