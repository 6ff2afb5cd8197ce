"""Data to learn from: tables for regression, and streams of small tasks, random fields."""

from probnet.datasets.fields import (
    FieldSampler,
    InflowProfile,
    LevelSetGRF,
    SineField,
    SineSeries,
)
from probnet.datasets.functions import GPTasks, PackedTasks, TaskBatch, TaskStream
from probnet.datasets.regression import RegressionTable, load_regression, regression_tables

__all__ = [
    "FieldSampler",
    "GPTasks",
    "InflowProfile",
    "LevelSetGRF",
    "PackedTasks",
    "RegressionTable",
    "SineField",
    "SineSeries",
    "TaskBatch",
    "TaskStream",
    "load_regression",
    "regression_tables",
]
