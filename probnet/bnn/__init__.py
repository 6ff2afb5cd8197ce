"""Bayesian neural networks whose prior is a function that you chose.

Say how functions should behave, by a Gaussian process; `match_prior` chooses a prior of the
weights that behaves so; `BNN(prior).fit(x, y)` samples the posterior.
"""

from probnet.bnn.flow import FlowPrior
from probnet.bnn.hierarchical import HierarchicalPrior
from probnet.bnn.matching import Match, match_prior
from probnet.bnn.measurement import Grid, MeasurementSet
from probnet.bnn.model import BNN
from probnet.bnn.networks import BayesianConvNet, BayesianMLP, BayesianNetwork
from probnet.bnn.posterior import BNNPosterior
from probnet.bnn.priors import GaussianPrior, WeightPrior
from probnet.bnn.quality import MatchReport
from probnet.bnn.random_features import RandomFeaturePrior, SpectralDensity
from probnet.bnn.targets import GPTarget, HierarchicalGPTarget, Target

__all__ = [
    "BNN",
    "BNNPosterior",
    "BayesianConvNet",
    "BayesianMLP",
    "BayesianNetwork",
    "FlowPrior",
    "GPTarget",
    "GaussianPrior",
    "Grid",
    "HierarchicalGPTarget",
    "HierarchicalPrior",
    "Match",
    "MatchReport",
    "MeasurementSet",
    "RandomFeaturePrior",
    "SpectralDensity",
    "Target",
    "WeightPrior",
    "match_prior",
]
