"""Data to learn from: tables for regression, and streams of small tasks, random fields."""

from probnet.datasets.fields import (
    FieldSampler,
    InflowProfile,
    LevelSetGRF,
    SineField,
    SineSeries,
)
from probnet.datasets.functions import (
    GPTasks,
    HareLynxTasks,
    ImageTasks,
    PackedTasks,
    PredatorPreyTasks,
    TaskBatch,
    TaskStream,
    load_hare_lynx,
    simulate_predator_prey,
)
from probnet.datasets.regression import RegressionTable, load_regression, regression_tables

__all__ = [
    "FieldSampler",
    "GPTasks",
    "HareLynxTasks",
    "ImageTasks",
    "InflowProfile",
    "LevelSetGRF",
    "PackedTasks",
    "PredatorPreyTasks",
    "RegressionTable",
    "SineField",
    "SineSeries",
    "TaskBatch",
    "TaskStream",
    "load_hare_lynx",
    "load_regression",
    "regression_tables",
    "simulate_predator_prey",
]
