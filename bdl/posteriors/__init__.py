"""Posteriors: distributions over all weights of a network."""

from bdl.posteriors._base import Posterior
from bdl.posteriors._factorised import Factorised, variational
from bdl.posteriors._from_prior import FromPrior, from_prior

__all__ = ["Factorised", "FromPrior", "Posterior", "from_prior", "variational"]
