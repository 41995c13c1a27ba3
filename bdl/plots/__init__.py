"""Pictures of predictions: predictions and arrays in, matplotlib axes out.

Each function draws on `ax`, or on the axes of a new figure, and returns it: titles, units and limits are yours. Colours
are those of Okabe and Ito, which the colour-blind tell apart.
"""

from bdl.plots._classification import probabilities, uncertainty
from bdl.plots._images import activation_map
from bdl.plots._regression import bands, functions, intervals

__all__ = ["activation_map", "bands", "functions", "intervals", "probabilities", "uncertainty"]
