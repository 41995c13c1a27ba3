"""Out-of-distribution detection: scores, higher for what is less like the training data, and training for it."""

from bdl.ood._detector import Detector

__all__ = ["Detector"]
