"""Sampling and variational inference for Pyro models and log densities, ArviZ out.

`sample` runs Markov chains (SGHMC and relatives, HMC, NUTS), `fit` variational inference;
both return a frozen `Draws`. The package knows densities, gradients and draws; it has never
heard of a model or a network.
"""

from inference import calibration, diagnostics, schedules
from inference._version import __version__
from inference.bias import BiasCheck
from inference.draws import Draws, load
from inference.errors import AllChainsDivergedError, InferenceWarning, InitError
from inference.log_density import LogDensity
from inference.resuming import resume
from inference.sampling import sample
from inference.stopping import Until
from inference.svi import fit
from inference.tuning import Suggestion, suggest_step_size

__distribution__ = "probnet-bayes"

__all__ = [
    "AllChainsDivergedError",
    "BiasCheck",
    "Draws",
    "InferenceWarning",
    "InitError",
    "LogDensity",
    "Suggestion",
    "Until",
    "__version__",
    "calibration",
    "diagnostics",
    "fit",
    "load",
    "resume",
    "sample",
    "schedules",
    "suggest_step_size",
]
