"""Scale mixtures of Gaussian processes: Student-t processes and their relatives.

For any GPyTorch kernel; `probnet.kernels` has those of infinitely wide neural networks.
"""

from probnet.nngp.classification import LabelRegressionPosterior, ScaleMixtureClassifier
from probnet.nngp.evidence import EvidenceMixture, compare, fit_inverse_gamma
from probnet.nngp.independent import IndependentNoisePosterior
from probnet.nngp.posterior import LeaveOneOut, ScaleMixturePosterior
from probnet.nngp.priors import (
    BurrXII,
    DensityPrior,
    Gamma,
    HalfCauchy,
    InverseGamma,
    LogNormal,
    PointMass,
    ScalePrior,
)
from probnet.nngp.regression import ScaleMixtureGP
from probnet.nngp.trained import TrainedNetworkLimit, TrainedNetworkPosterior
from probnet.nngp.variational import VariationalClassifierPosterior

__all__ = [
    "BurrXII",
    "DensityPrior",
    "EvidenceMixture",
    "Gamma",
    "HalfCauchy",
    "IndependentNoisePosterior",
    "InverseGamma",
    "LabelRegressionPosterior",
    "LeaveOneOut",
    "LogNormal",
    "PointMass",
    "ScaleMixtureClassifier",
    "ScaleMixtureGP",
    "ScaleMixturePosterior",
    "ScalePrior",
    "TrainedNetworkLimit",
    "TrainedNetworkPosterior",
    "VariationalClassifierPosterior",
    "compare",
    "fit_inverse_gamma",
]
