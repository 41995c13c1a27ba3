"""The likelihood p(y | f) of targets given a network's outputs."""

from bdl.likelihoods._base import FunctionLikelihood, Likelihood, as_likelihood
from bdl.likelihoods._bernoulli import Bernoulli
from bdl.likelihoods._categorical import Categorical
from bdl.likelihoods._censored import censored
from bdl.likelihoods._class_weighted import class_weighted
from bdl.likelihoods._counts import NegativeBinomial, Poisson
from bdl.likelihoods._heteroscedastic_categorical import HeteroscedasticCategorical
from bdl.likelihoods._heteroscedastic_normal import HeteroscedasticNormal
from bdl.likelihoods._laplace import HeteroscedasticLaplace, Laplace
from bdl.likelihoods._masked import masked
from bdl.likelihoods._multivariate_normal import HeteroscedasticMultivariateNormal, MultivariateNormal
from bdl.likelihoods._normal import Normal
from bdl.likelihoods._ordinal import Ordinal
from bdl.likelihoods._student_t import HeteroscedasticStudentT, StudentT

__all__ = [
    "Bernoulli",
    "Categorical",
    "FunctionLikelihood",
    "HeteroscedasticCategorical",
    "HeteroscedasticLaplace",
    "HeteroscedasticMultivariateNormal",
    "HeteroscedasticNormal",
    "HeteroscedasticStudentT",
    "Laplace",
    "Likelihood",
    "MultivariateNormal",
    "NegativeBinomial",
    "Normal",
    "Ordinal",
    "Poisson",
    "StudentT",
    "as_likelihood",
    "censored",
    "class_weighted",
    "masked",
]
