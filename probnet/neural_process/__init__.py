"""Neural processes and martingale posteriors: one network for a stream of regression tasks."""

from probnet.neural_process.rules import CallableRule, NormalMean, PredictiveRule

__all__ = ["CallableRule", "NormalMean", "PredictiveRule"]
