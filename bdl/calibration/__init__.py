"""Calibration after training: `fit(predictions, targets) -> calibrator`, and `calibrator(predictions)`.

Calibrators are pytrees and go through `jax.jit` and `jax.vmap`.
"""

from bdl.calibration._affine import Affine, dirichlet, matrix, vector
from bdl.calibration._ensemble import Ensemble, ensemble
from bdl.calibration._histogram_binning import HistogramBinning, histogram_binning
from bdl.calibration._isotonic import Isotonic, isotonic
from bdl.calibration._log_odds import LogOdds, beta, platt
from bdl.calibration._quantile import QuantileRecalibration, quantile_recalibration
from bdl.calibration._temperature import Temperature, temperature
from bdl.calibration._variance import VarianceScale, variance_scale

__all__ = [
    "Affine",
    "Ensemble",
    "HistogramBinning",
    "Isotonic",
    "LogOdds",
    "QuantileRecalibration",
    "Temperature",
    "VarianceScale",
    "beta",
    "dirichlet",
    "ensemble",
    "histogram_binning",
    "isotonic",
    "matrix",
    "platt",
    "quantile_recalibration",
    "temperature",
    "variance_scale",
    "vector",
]
