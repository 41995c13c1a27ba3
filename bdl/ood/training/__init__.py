"""Training of classifiers that are to know what they do not know: each an algorithm for `bdl.fit`."""

from bdl.ood.training._confidence_loss import confidence_loss
from bdl.ood.training._dcgan import Discriminator, Generator, dcgan
from bdl.ood.training._energy_bound import energy_bound
from bdl.ood.training._gan import Adversary, GANInfo, GANState, confidence_gan, generate
from bdl.ood.training._learned_confidence import (
    CategoricalWithConfidence,
    ConfidenceInfo,
    ConfidenceState,
    learned_confidence,
    unconfidence,
)
from bdl.ood.training._logit_norm import logit_norm
from bdl.ood.training._outlier_exposure import outlier_exposure
from bdl.ood.training._step import PenalisedInfo
from bdl.ood.training._with_outliers import OutlierState

__all__ = [
    "Adversary",
    "CategoricalWithConfidence",
    "ConfidenceInfo",
    "ConfidenceState",
    "Discriminator",
    "GANInfo",
    "GANState",
    "Generator",
    "OutlierState",
    "PenalisedInfo",
    "confidence_gan",
    "confidence_loss",
    "dcgan",
    "energy_bound",
    "generate",
    "learned_confidence",
    "logit_norm",
    "outlier_exposure",
    "unconfidence",
]
