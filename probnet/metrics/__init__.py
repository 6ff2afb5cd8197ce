"""Scores of predictions, lower is better unless stated; and checks of calibration.

Arguments are torch tensors, NumPy arrays or lists, the truth `y` first; computation is in
float64. A score is a Python float, a curve a NumPy array. A `forecast` is either a torch
distribution or an array of predictive draws with the draws along `draw_axis`.
"""

from probnet.metrics.calibration import (
    calibration_curve,
    central_interval,
    interval_coverage,
    interval_width,
    pit,
    regression_calibration_error,
)
from probnet.metrics.classification import (
    accuracy,
    brier,
    expected_calibration_error,
    nll_categorical,
)
from probnet.metrics.regression import (
    crps_ensemble,
    crps_gaussian,
    crps_mixture,
    nll_gaussian,
    nll_mixture,
    relative_l2,
    rmse,
)

__all__ = [
    "accuracy",
    "brier",
    "calibration_curve",
    "central_interval",
    "crps_ensemble",
    "crps_gaussian",
    "crps_mixture",
    "expected_calibration_error",
    "interval_coverage",
    "interval_width",
    "nll_categorical",
    "nll_gaussian",
    "nll_mixture",
    "pit",
    "regression_calibration_error",
    "relative_l2",
    "rmse",
]
