"""Data of rare events and of time: splits, resampling, class weights, prior shift, and how far a split flatters."""

from bdl.data import splits
from bdl.data._class_weights import class_weights
from bdl.data._imbalance import warn_of_imbalance
from bdl.data._prior_shift import estimate_prior, shift_prior
from bdl.data._resampling import oversample, undersample
from bdl.data._split_optimism import Overstatement, overstatement

__all__ = [
    "Overstatement",
    "class_weights",
    "estimate_prior",
    "oversample",
    "overstatement",
    "shift_prior",
    "splits",
    "undersample",
    "warn_of_imbalance",
]
