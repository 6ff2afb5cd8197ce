# ruff: noqa: E402 - the companion is checked before the modules below import it
"""Probabilistic modelling in torch: data, networks, likelihoods, scores, and model families.

Inference itself is in the package `inference`, which comes with this one.
"""

from probnet._companion import require_own_inference

require_own_inference()

from probnet import (
    bnn,
    datasets,
    gp_pde,
    kernels,
    likelihoods,
    metrics,
    networks,
    neural_operator,
    neural_process,
    nngp,
    pde,
)
from probnet._archive import PosteriorState
from probnet.posterior import Posterior, load
from probnet.predictive import DrawsMixture
from probnet.standardizer import Standardizer

__version__ = "0.1.0"

__all__ = [
    "DrawsMixture",
    "Posterior",
    "PosteriorState",
    "Standardizer",
    "__version__",
    "bnn",
    "datasets",
    "gp_pde",
    "kernels",
    "likelihoods",
    "load",
    "metrics",
    "networks",
    "neural_operator",
    "neural_process",
    "nngp",
    "pde",
]
