"""The prior p(w) of a network's weights."""

from bdl.priors._around import Around, around
from bdl.priors._as_prior import as_prior
from bdl.priors._base import FactorisedPrior, FunctionPrior, Prior
from bdl.priors._by_path import ByPath, Flat, by_path, flat
from bdl.priors._fan import FanAverage, FanIn, fan_average, fan_in
from bdl.priors._heavy_tailed import cauchy, student_t
from bdl.priors._hyper import Horseshoe, horseshoe, hyper
from bdl.priors._iid import IID, iid, normal
from bdl.priors._laplace import laplace
from bdl.priors._log_uniform import LogUniform, log_uniform
from bdl.priors._scale_mixture import scale_mixture

__all__ = [
    "IID",
    "Around",
    "ByPath",
    "FactorisedPrior",
    "FanAverage",
    "FanIn",
    "Flat",
    "FunctionPrior",
    "Horseshoe",
    "LogUniform",
    "Prior",
    "around",
    "as_prior",
    "by_path",
    "cauchy",
    "fan_average",
    "fan_in",
    "flat",
    "horseshoe",
    "hyper",
    "iid",
    "laplace",
    "log_uniform",
    "normal",
    "scale_mixture",
    "student_t",
]
