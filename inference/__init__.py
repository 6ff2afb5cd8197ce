"""Sampling and variational inference for Pyro models and log densities, ArviZ out.

`sample` runs Markov chains (SGHMC and relatives, HMC, NUTS), `fit` variational inference;
both return a frozen `Draws`. The package knows densities, gradients and draws; it has never
heard of a model or a network.
"""

from inference import calibration, diagnostics, schedules
from inference._version import __version__
from inference.draws import Draws, load
from inference.errors import AllChainsDivergedError, InferenceWarning, InitError
from inference.log_density import LogDensity
from inference.sampling import sample
from inference.svi import fit

__distribution__ = "probnet-bayes"

__all__ = [
    "AllChainsDivergedError",
    "Draws",
    "InferenceWarning",
    "InitError",
    "LogDensity",
    "__version__",
    "calibration",
    "diagnostics",
    "fit",
    "load",
    "sample",
    "schedules",
]
