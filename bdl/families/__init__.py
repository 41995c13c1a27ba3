"""Families: the approximate posterior of one weight array."""

from bdl._learned import fixed_field
from bdl.families._base import Family
from bdl.families._bernoulli_dropout import BernoulliDropout, bernoulli_dropout
from bdl.families._normal import NormalFamily, normal
from bdl.families._point import point

__all__ = ["BernoulliDropout", "Family", "NormalFamily", "bernoulli_dropout", "fixed_field", "normal", "point"]
