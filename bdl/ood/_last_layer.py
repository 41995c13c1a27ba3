"""The energy of the logits that a network's last layer makes of features, after they were changed."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from bdl.ood import _feature_checks as checks


class LastLayer(eqx.Module):
    """The layer that makes logits of features: f W + b.

    Attributes:
        kernel: W, [D, K].
        bias: b, [K].
    """

    kernel: jax.Array
    bias: jax.Array

    @classmethod
    def checked(cls, name: str, kernel: Any, bias: Any) -> "LastLayer":
        """Of arrays that fit together, for the detector of this name."""
        return cls(*checks.last_layer(name, kernel, bias))

    @property
    def width(self) -> int:
        """The number of features, D."""
        return len(self.kernel)

    def logits(self, features: jax.Array) -> jax.Array:
        """[N, K]."""
        return jnp.matmul(features, self.kernel, precision="highest") + self.bias[None]

    def energy(self, features: jax.Array) -> jax.Array:
        """−log Σ_k exp(logit_k), in nats, [N]."""
        return -jax.nn.logsumexp(self.logits(features), -1)
