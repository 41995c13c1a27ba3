"""Posteriors: distributions over all weights of a network."""

from bdl.posteriors._base import Posterior
from bdl.posteriors._factorised import Factorised, variational

__all__ = ["Factorised", "Posterior", "variational"]
