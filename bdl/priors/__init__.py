"""The prior p(w) of a network's weights."""

from bdl.priors._as_prior import as_prior
from bdl.priors._base import FactorisedPrior, FunctionPrior, Prior
from bdl.priors._by_path import ByPath, Flat, by_path, flat
from bdl.priors._fan_in import FanIn, fan_in
from bdl.priors._iid import IID, iid, normal

__all__ = [
    "IID",
    "ByPath",
    "FactorisedPrior",
    "FanIn",
    "Flat",
    "FunctionPrior",
    "Prior",
    "as_prior",
    "by_path",
    "fan_in",
    "flat",
    "iid",
    "normal",
]
