"""Out-of-distribution detection: scores, higher for what is less like the training data, and training for it."""

from bdl.ood import training
from bdl.ood._activation_shaping import ash, react, shape_activations
from bdl.ood._adversarial import fgsm, pgd
from bdl.ood._class_moments import ClassMoments, class_moments
from bdl.ood._compare import Comparison, compare
from bdl.ood._detector import Detector
from bdl.ood._dice import dice
from bdl.ood._draws import (
    epistemic_variance,
    expected_entropy,
    from_draws,
    logit_variance,
    mutual_information,
    predictive_entropy,
    predictive_variance,
    variation_ratio,
)
from bdl.ood._gaussian_mixture import gaussian_mixture
from bdl.ood._gaussian_process import gaussian_process
from bdl.ood._kl_matching import kl_matching
from bdl.ood._last_layer_curvature import LastLayerCurvature, last_layer_curvature
from bdl.ood._layers import layer_features, layers, pool
from bdl.ood._likelihood_ratio import likelihood_ratio, negative_log_density, perturbed
from bdl.ood._logits import energy, entropy, generalised_entropy, max_logit, max_softmax
from bdl.ood._mahalanobis import mahalanobis
from bdl.ood._mean_field import dempster_shafer, mean_field_logits
from bdl.ood._nearest_neighbours import nearest_neighbours
from bdl.ood._odin import odin
from bdl.ood._preprocessed import preprocessed
from bdl.ood._random_features import random_features
from bdl.ood._reconstruction import reconstruction_error
from bdl.ood._relative_mahalanobis import relative_mahalanobis
from bdl.ood._report import Report, report
from bdl.ood._spectral_norm import spectral_norm
from bdl.ood._through import through
from bdl.ood._vim import vim

__all__ = [
    "ClassMoments",
    "Comparison",
    "Detector",
    "LastLayerCurvature",
    "Report",
    "ash",
    "class_moments",
    "compare",
    "dempster_shafer",
    "dice",
    "energy",
    "entropy",
    "epistemic_variance",
    "expected_entropy",
    "fgsm",
    "from_draws",
    "gaussian_mixture",
    "gaussian_process",
    "generalised_entropy",
    "kl_matching",
    "last_layer_curvature",
    "layer_features",
    "layers",
    "likelihood_ratio",
    "logit_variance",
    "mahalanobis",
    "max_logit",
    "max_softmax",
    "mean_field_logits",
    "mutual_information",
    "nearest_neighbours",
    "negative_log_density",
    "odin",
    "perturbed",
    "pgd",
    "pool",
    "predictive_entropy",
    "predictive_variance",
    "preprocessed",
    "random_features",
    "react",
    "reconstruction_error",
    "relative_mahalanobis",
    "report",
    "shape_activations",
    "spectral_norm",
    "through",
    "training",
    "variation_ratio",
    "vim",
]
