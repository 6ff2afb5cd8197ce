"""scikit-learn adapters for flat tables, usable in a `Pipeline`.

They standardise inside; `predict` returns arrays. For predictive distributions use the model
that each wraps, or the fitted `posterior_`.
"""

from probnet.estimators.bnn import BNNClassifier, BNNRegressor
from probnet.estimators.nngp import NNGPClassifier, NNGPRegressor

__all__ = ["BNNClassifier", "BNNRegressor", "NNGPClassifier", "NNGPRegressor"]
