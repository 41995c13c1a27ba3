"""Conformal prediction: sets that hold the truth with a probability that is promised, whatever the model.

Scores tell how badly a prediction fits a target (higher is worse); a set is all targets whose score is at most a
threshold, and the threshold keeps the promise.
"""

from bdl.conformal._adaptive import Adaptive, AdaptiveInfo, AdaptiveState, adaptive
from bdl.conformal._by_class import by_class
from bdl.conformal._class_scores import aps_score, lac_score, raps_score
from bdl.conformal._jackknife import cv_plus, jackknife_plus
from bdl.conformal._regression import Interval, NormalisedInterval, QuantileInterval, cqr, interval, normalised
from bdl.conformal._risk_control import false_negative_rate, risk_control
from bdl.conformal._sets import ApsSets, LacSets, aps, lac, raps
from bdl.conformal._split import split
from bdl.conformal._weighted import weighted

__all__ = [
    "Adaptive",
    "AdaptiveInfo",
    "AdaptiveState",
    "ApsSets",
    "Interval",
    "LacSets",
    "NormalisedInterval",
    "QuantileInterval",
    "adaptive",
    "aps",
    "aps_score",
    "by_class",
    "cqr",
    "cv_plus",
    "false_negative_rate",
    "interval",
    "jackknife_plus",
    "lac",
    "lac_score",
    "normalised",
    "raps",
    "raps_score",
    "risk_control",
    "split",
    "weighted",
]
