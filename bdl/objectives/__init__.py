"""Objectives: the only home of signs, and of N / batch."""

from bdl.objectives._alpha import alpha
from bdl.objectives._base import ElboTerms
from bdl.objectives._elbo import elbo
from bdl.objectives._iw_bound import iw_bound

__all__ = ["ElboTerms", "alpha", "elbo", "iw_bound"]
