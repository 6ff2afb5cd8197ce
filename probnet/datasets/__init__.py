"""Data to learn from: tables for regression."""

from probnet.datasets.regression import RegressionTable, load_regression, regression_tables

__all__ = ["RegressionTable", "load_regression", "regression_tables"]
