"""Data to learn from: tables for regression, and streams of small tasks."""

from probnet.datasets.functions import GPTasks, PackedTasks, TaskBatch, TaskStream
from probnet.datasets.regression import RegressionTable, load_regression, regression_tables

__all__ = [
    "GPTasks",
    "PackedTasks",
    "RegressionTable",
    "TaskBatch",
    "TaskStream",
    "load_regression",
    "regression_tables",
]
