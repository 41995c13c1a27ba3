"""Families: the approximate posterior of one weight array."""

from bdl._learned import fixed_field
from bdl.families._base import Family
from bdl.families._batch_ensemble import BatchEnsemble, Copies, batch_ensemble
from bdl.families._bernoulli_dropout import BernoulliDropout, bernoulli_dropout
from bdl.families._concrete_dropout import ConcreteDropout, concrete_dropout
from bdl.families._drop_connect import DropConnect, drop_connect
from bdl.families._full_normal import FullNormal, full_normal
from bdl.families._gaussian_dropout import GaussianRowDropout, GaussianWeightDropout, gaussian_dropout
from bdl.families._low_rank_normal import LowRankNormal, low_rank_normal
from bdl.families._masksembles import Masksembles, masksembles
from bdl.families._normal import NormalFamily, normal
from bdl.families._point import point
from bdl.families._pruned import Pruned
from bdl.families._radial import Radial, radial
from bdl.families._rank1_normal import Rank1Normal, rank1_normal
from bdl.families._sparse_dropout import SparseDropout, sparse_dropout

__all__ = [
    "BatchEnsemble",
    "BernoulliDropout",
    "ConcreteDropout",
    "Copies",
    "DropConnect",
    "Family",
    "FullNormal",
    "GaussianRowDropout",
    "GaussianWeightDropout",
    "LowRankNormal",
    "Masksembles",
    "NormalFamily",
    "Pruned",
    "Radial",
    "Rank1Normal",
    "SparseDropout",
    "batch_ensemble",
    "bernoulli_dropout",
    "concrete_dropout",
    "drop_connect",
    "fixed_field",
    "full_normal",
    "gaussian_dropout",
    "low_rank_normal",
    "masksembles",
    "normal",
    "point",
    "radial",
    "rank1_normal",
    "sparse_dropout",
]
