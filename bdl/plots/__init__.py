"""Pictures of predictions, of their errors and of fits: predictions and arrays in, matplotlib axes out.

Each function draws on `ax`, or on the axes of a new figure, and returns it: titles, units and limits are yours. Colours
are those of Okabe and Ito, which the colour-blind tell apart.
"""

from bdl.plots._calibration import quantile_calibration, reliability
from bdl.plots._classification import probabilities, uncertainty
from bdl.plots._confusion import confusion
from bdl.plots._images import activation_map, uncertainty_maps
from bdl.plots._ranking import precision_recall, risk_coverage, roc, scores
from bdl.plots._regression import bands, functions, intervals
from bdl.plots._training import history, rates, signal_to_noise

__all__ = [
    "activation_map",
    "bands",
    "confusion",
    "functions",
    "history",
    "intervals",
    "precision_recall",
    "probabilities",
    "quantile_calibration",
    "rates",
    "reliability",
    "risk_coverage",
    "roc",
    "scores",
    "signal_to_noise",
    "uncertainty",
    "uncertainty_maps",
]
