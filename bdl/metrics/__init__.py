"""Metrics: arrays in, numbers out. They know nothing of models and posteriors."""

from bdl.metrics._auroc import auroc
from bdl.metrics._bootstrap import BootstrapInterval, bootstrap
from bdl.metrics._brier import brier
from bdl.metrics._calibration_error import (
    calibration_noise_floor,
    expected_calibration_error,
    maximum_calibration_error,
)
from bdl.metrics._confusion import confusion_at_thresholds, confusion_matrix
from bdl.metrics._crps import crps, crps_mixture, crps_normal
from bdl.metrics._detection import detection, detection_error, error_detection, fpr_at_tpr, tnr_at_tpr
from bdl.metrics._energy_score import energy_score
from bdl.metrics._errors import mae, rmse
from bdl.metrics._fidelity import agreement, total_variation, wasserstein_1, wasserstein_2
from bdl.metrics._from_confusion import (
    accuracy,
    balanced_accuracy,
    cohen_kappa,
    f1,
    g_mean,
    matthews_correlation,
    precision,
    recall,
)
from bdl.metrics._intervals import coverage, interval_width, sharpness
from bdl.metrics._kernel_calibration import kernel_calibration_error, kernel_calibration_test
from bdl.metrics._log_likelihood import log_likelihood, normal_log_likelihood
from bdl.metrics._pit import pit, pit_normal, quantile_calibration, randomised_pit, regression_calibration_error
from bdl.metrics._precision_recall import average_precision
from bdl.metrics._quantile_scores import interval_score, pinball
from bdl.metrics._reliability import Reliability, reliability
from bdl.metrics._segmentation import iou, mean_iou
from bdl.metrics._selective import augrc, aurc, coverage_at_risk, excess_aurc, risk_coverage, sparsification_error
from bdl.metrics._skill import (
    critical_success_index,
    false_alarm_ratio,
    gilbert_skill_score,
    heidke_skill_score,
    heidke_skill_score_1,
    probability_of_detection,
    true_skill_statistic,
)

__all__ = [
    "BootstrapInterval",
    "Reliability",
    "accuracy",
    "agreement",
    "augrc",
    "aurc",
    "auroc",
    "average_precision",
    "balanced_accuracy",
    "bootstrap",
    "brier",
    "calibration_noise_floor",
    "cohen_kappa",
    "confusion_at_thresholds",
    "confusion_matrix",
    "coverage",
    "coverage_at_risk",
    "critical_success_index",
    "crps",
    "crps_mixture",
    "crps_normal",
    "detection",
    "detection_error",
    "energy_score",
    "error_detection",
    "excess_aurc",
    "expected_calibration_error",
    "f1",
    "false_alarm_ratio",
    "fpr_at_tpr",
    "g_mean",
    "gilbert_skill_score",
    "heidke_skill_score",
    "heidke_skill_score_1",
    "interval_score",
    "interval_width",
    "iou",
    "kernel_calibration_error",
    "kernel_calibration_test",
    "log_likelihood",
    "mae",
    "matthews_correlation",
    "maximum_calibration_error",
    "mean_iou",
    "normal_log_likelihood",
    "pinball",
    "pit",
    "pit_normal",
    "precision",
    "probability_of_detection",
    "quantile_calibration",
    "randomised_pit",
    "recall",
    "regression_calibration_error",
    "reliability",
    "risk_coverage",
    "rmse",
    "sharpness",
    "sparsification_error",
    "tnr_at_tpr",
    "total_variation",
    "true_skill_statistic",
    "wasserstein_1",
    "wasserstein_2",
]
