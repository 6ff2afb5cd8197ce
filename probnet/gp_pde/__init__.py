"""Differential equations solved by Gaussian processes with a learned spectrum.

Source: Fang, Cooley, Long, Li, Kirby & Zhe (ICLR 2024), GP-HM. The mean is found by direct
solves instead of gradient descent, hyper-parameters by the evidence, and every prediction has
an error bar whose scale is measured.
"""

from probnet.gp_pde.checks import SolverWarning
from probnet.gp_pde.posterior import SpectralGPPosterior
from probnet.gp_pde.prior import AxisPrior
from probnet.gp_pde.solver import SpectralGPSolver

__all__ = ["AxisPrior", "SolverWarning", "SpectralGPPosterior", "SpectralGPSolver"]
