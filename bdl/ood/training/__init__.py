"""Training of networks that are to know what they do not know: algorithms for `bdl.fit`, and a likelihood."""

from bdl.ood.training._augment import augmented
from bdl.ood.training._confidence_loss import confidence_loss
from bdl.ood.training._csi import CategoricalWithEmbedding, csi
from bdl.ood.training._csi_score import csi_score
from bdl.ood.training._dcgan import Discriminator, Generator, dcgan
from bdl.ood.training._deep_sad import DeepSAD, deep_sad_centre, expected_distance
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
from bdl.ood.training._shift_prediction import shift_score, shifted
from bdl.ood.training._shifts import permuted_patches, rotations
from bdl.ood.training._step import PenalisedInfo
from bdl.ood.training._with_outliers import OutlierState

__all__ = [
    "Adversary",
    "CategoricalWithConfidence",
    "CategoricalWithEmbedding",
    "ConfidenceInfo",
    "ConfidenceState",
    "DeepSAD",
    "Discriminator",
    "GANInfo",
    "GANState",
    "Generator",
    "OutlierState",
    "PenalisedInfo",
    "augmented",
    "confidence_gan",
    "confidence_loss",
    "csi",
    "csi_score",
    "dcgan",
    "deep_sad_centre",
    "energy_bound",
    "expected_distance",
    "generate",
    "learned_confidence",
    "logit_norm",
    "outlier_exposure",
    "permuted_patches",
    "rotations",
    "shift_score",
    "shifted",
    "unconfidence",
]
