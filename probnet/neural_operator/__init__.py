"""Deep generative neural operators: forward and inverse maps of a parametric PDE."""

from probnet.neural_operator.burgers import Burgers
from probnet.neural_operator.components import ComponentNetworks
from probnet.neural_operator.darcy import Darcy2D
from probnet.neural_operator.encoders import ConvEncoder, DenseEncoder, Encoder, Encoding
from probnet.neural_operator.galerkin import GalerkinBasis, ProjectedSolution, certify, refine
from probnet.neural_operator.inputs import GaussianInput, InputLikelihood, TwoPhase
from probnet.neural_operator.inverse_posterior import InversePosterior
from probnet.neural_operator.inversion import invert, invert_many
from probnet.neural_operator.model import DGenNO
from probnet.neural_operator.model_error import ModelError
from probnet.neural_operator.multionet import MultiONet
from probnet.neural_operator.pretrained import load_pretrained
from probnet.neural_operator.problem import Problem
from probnet.neural_operator.reference_chains import NotConvergedError
from probnet.neural_operator.stokes import Stokes
from probnet.neural_operator.trained import TrainedOperator
from probnet.neural_operator.weak_form import (
    candidate_gradient,
    mixed_loss,
    mixed_residuals,
    weak_residuals,
)
from probnet.neural_operator.wendland import WendlandTests

__all__ = [
    "Burgers",
    "ComponentNetworks",
    "ConvEncoder",
    "DGenNO",
    "Darcy2D",
    "DenseEncoder",
    "Encoder",
    "Encoding",
    "GalerkinBasis",
    "GaussianInput",
    "InputLikelihood",
    "InversePosterior",
    "ModelError",
    "MultiONet",
    "NotConvergedError",
    "Problem",
    "ProjectedSolution",
    "Stokes",
    "TrainedOperator",
    "TwoPhase",
    "WendlandTests",
    "candidate_gradient",
    "certify",
    "invert",
    "invert_many",
    "load_pretrained",
    "mixed_loss",
    "mixed_residuals",
    "refine",
    "weak_residuals",
]
