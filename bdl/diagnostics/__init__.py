"""Is the inference right? Calibration by simulation, checks of the fit, cross-validation, predictions under shift."""

from bdl.diagnostics._corruptions import CORRUPTIONS, corrupt, rotate
from bdl.diagnostics._evidence import Evidence, evidence
from bdl.diagnostics._joint_log_likelihood import dyads, joint_log_likelihood
from bdl.diagnostics._loo import Comparison, Elpd, compare, elpd, loo
from bdl.diagnostics._pointwise import pointwise_log_likelihood
from bdl.diagnostics._posterior_predictive_check import PredictiveCheck, posterior_predictive_check
from bdl.diagnostics._psis import Psis, psis
from bdl.diagnostics._ranks import Bend, EcdfDifference, bend, ecdf_difference, uniformity
from bdl.diagnostics._simulation_based_calibration import SimulationRanks, simulation_based_calibration
from bdl.diagnostics._stack import NetworkMixture, mix, stack
from bdl.diagnostics._to_arviz import to_arviz
from bdl.diagnostics._under_shift import Shift, under_shift

__all__ = [
    "CORRUPTIONS",
    "Bend",
    "Comparison",
    "EcdfDifference",
    "Elpd",
    "Evidence",
    "NetworkMixture",
    "PredictiveCheck",
    "Psis",
    "Shift",
    "SimulationRanks",
    "bend",
    "compare",
    "corrupt",
    "dyads",
    "ecdf_difference",
    "elpd",
    "evidence",
    "joint_log_likelihood",
    "loo",
    "mix",
    "pointwise_log_likelihood",
    "posterior_predictive_check",
    "psis",
    "rotate",
    "simulation_based_calibration",
    "stack",
    "to_arviz",
    "under_shift",
    "uniformity",
]
