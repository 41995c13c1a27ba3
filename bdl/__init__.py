"""Functional Bayesian deep learning for JAX and Flax.

A model is a prior over the weights of a network and a likelihood of the data given the network's outputs. An inference
algorithm turns it into a posterior: anything that can draw the network's weights. Predict pushes draws through the
network and keeps running moments; uncertainty splits them.
"""

from bdl import (
    calibration,
    conformal,
    data,
    diagnostics,
    families,
    inference,
    likelihoods,
    metrics,
    networks,
    noise,
    objectives,
    ood,
    posteriors,
    priors,
    testing,
)
from bdl._activation_maps import ActivationMaps, activation_maps
from bdl._bind import bind
from bdl._health import health
from bdl._learned import learned, partition
from bdl.checkpoint import load, save
from bdl.evaluate import Evaluation, Score, evaluate
from bdl.fit import Fitted, History, fit
from bdl.function_draw import function_draw
from bdl.kl import kl
from bdl.likelihoods._latent import latent
from bdl.log_predictive import log_predictive
from bdl.model import Model
from bdl.networks import from_linen, from_nnx, network
from bdl.objectives import ElboTerms, elbo
from bdl.posteriors import variational
from bdl.predict import predict
from bdl.prior_predictive import prior_predictive
from bdl.prune import prune
from bdl.summary import summary
from bdl.uncertainty import ClassPrediction, Prediction

__version__ = "0.1.0"

__all__ = [
    "ActivationMaps",
    "ClassPrediction",
    "ElboTerms",
    "Evaluation",
    "Fitted",
    "History",
    "Model",
    "Prediction",
    "Score",
    "activation_maps",
    "bind",
    "calibration",
    "conformal",
    "data",
    "diagnostics",
    "elbo",
    "evaluate",
    "families",
    "fit",
    "from_linen",
    "from_nnx",
    "function_draw",
    "health",
    "inference",
    "kl",
    "latent",
    "learned",
    "likelihoods",
    "load",
    "log_predictive",
    "metrics",
    "network",
    "networks",
    "noise",
    "objectives",
    "ood",
    "partition",
    "posteriors",
    "predict",
    "prior_predictive",
    "priors",
    "prune",
    "save",
    "summary",
    "testing",
    "variational",
]
