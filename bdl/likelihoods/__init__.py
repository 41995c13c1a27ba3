"""The likelihood p(y | f) of targets given a network's outputs."""

from bdl.likelihoods._base import FunctionLikelihood, Likelihood, as_likelihood
from bdl.likelihoods._categorical import Categorical
from bdl.likelihoods._heteroscedastic_normal import HeteroscedasticNormal
from bdl.likelihoods._normal import Normal

__all__ = [
    "Categorical",
    "FunctionLikelihood",
    "HeteroscedasticNormal",
    "Likelihood",
    "Normal",
    "as_likelihood",
]
