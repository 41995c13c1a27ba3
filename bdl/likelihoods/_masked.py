"""Targets of which some were not observed."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from numpyro import distributions as dist

from bdl._data_checks import place
from bdl.likelihoods import _targets
from bdl.likelihoods._base import as_likelihood
from bdl.likelihoods._wrapped import Wrapped


def masked(likelihood: Any, void: float | None = None) -> "Masked":
    """`likelihood`, with targets of which some were not observed: ragged sequences, unlabelled pixels.

    What was not observed adds exactly 0 to the log-likelihood and to its gradient, whatever stands in its place.
    Predictions are those of `likelihood`, everywhere.

    Args:
        likelihood: any of `bdl.likelihoods`, or a function.
        void: the value that stands for what was not observed: a label such as 255 or −1, or NaN. Without it, targets
            are a pair (y, observed), with `observed` a boolean array, True where y counts.

    With a likelihood over vectors (`MultivariateNormal`) `observed` has a flag for each vector, and a vector with one
    void entry is not observed as a whole.

    Raises:
        ValueError: (with the data, outside of a trace) an example has nothing but void; the targets are not a pair, or
            `observed` is not boolean or of another shape; or what was observed is not what `likelihood` takes.

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> labels = jnp.array([[0, 1, 255], [2, 255, 255]])  # two sequences, padded to 3 steps
        >>> network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.zeros((2, 4))})
        >>> model = bdl.Model(network, bdl.likelihoods.masked(bdl.likelihoods.Categorical(), void=255))
        >>> outputs, _ = model.apply(network.params, jnp.ones((2, 3, 2)))
        >>> model.log_likelihood(jax.random.key(0), outputs, labels) / jnp.log(0.25)  # how many were observed
        Array([2., 1.], dtype=float32)
    """
    if void is not None:
        void = math.nan if void != void else void  # one object: a program compiled for NaN is found again
    return Masked(as_likelihood(likelihood), void)


class Masked(Wrapped):
    """A likelihood with targets of which some were not observed. Made by `masked`."""

    void: float | None = eqx.field(static=True)

    def log_prob(self, distribution: dist.Distribution, y: Any) -> jax.Array:
        """The log-probabilities of the targets' elements in nats, 0 where they were not observed."""
        y, observed = self._filled(distribution, y)
        return jnp.where(observed, super().log_prob(distribution, y), 0.0)

    def training_weight(self, distribution: dist.Distribution, y: Any) -> Any:
        """The weights of `likelihood`."""
        return super().training_weight(distribution, self._filled(distribution, y)[0])

    def check_targets(self, distribution: dist.Distribution, y: Any) -> None:
        """Whether each example has something observed, and that is what `likelihood` takes.

        Raises:
            ValueError, TypeError: it is not so; the message names the row.
        """
        filled, observed = self._filled(distribution, jax.tree.map(np.asarray, y))
        empty = np.logical_not(np.asarray(observed).reshape(len(observed), -1).any(1))
        if empty.any():
            raise ValueError(
                f"masked: nothing was observed of the example at {place(tuple(np.argwhere(empty)[0]))}, and of "
                f"{int(empty.sum())} of {len(empty)} examples in all. Leave them out: keep = observed.reshape(len(y), "
                "-1).any(1); x, y = x[keep], y[keep]."
            )
        super().check_targets(distribution, jax.tree.map(np.asarray, filled))

    def _filled(self, distribution: dist.Distribution, y: Any) -> tuple[Any, jax.Array]:
        # The targets with some value that can be where void was, so that nothing is NaN; and which were observed.
        if self.void is None:
            y, observed = _targets.pair("masked", "observed", y)
            _targets.check_flags("masked", "observed", distribution, observed)
        elif isinstance(y, tuple | list):
            raise ValueError(
                "`masked(..., void=)` takes the targets as one array. For a pair (y, observed) leave void out."
            )
        else:
            if y.ndim < distribution.event_dim:
                _targets.check_shape(distribution, y)
            void = jnp.isnan(y) if math.isnan(self.void) else y == self.void
            observed = ~void.any(axis=tuple(range(y.ndim - distribution.event_dim, y.ndim)))

        def fill(values: Any) -> jax.Array:
            if values.shape[: observed.ndim] != observed.shape:
                _targets.check_shape(distribution, values)
            values = jnp.asarray(values)
            flags = observed.reshape(observed.shape + (1,) * (values.ndim - observed.ndim))
            other = False if values.dtype == bool else distribution.support.feasible_like(values)
            return jnp.where(flags, values, jnp.asarray(other).astype(values.dtype))

        return jax.tree.map(fill, y), observed
