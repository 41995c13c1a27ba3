"""Inference algorithms: from a posterior and a model to a fitted posterior."""

from bdl.inference._base import Algorithm, StepInfo
from bdl.inference._map import map
from bdl.inference._vi import VIState, vi

__all__ = ["Algorithm", "StepInfo", "VIState", "map", "vi"]
