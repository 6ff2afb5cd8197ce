"""One solution with its error bars."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal, Normal

from probnet.gp_pde.conditional import GridConditional
from probnet.gp_pde.dense import Conditioned
from probnet.gp_pde.engines import GridSolution
from probnet.gp_pde.prior import AxisPrior
from probnet.gp_pde.uncertainty import PathwiseErrors, innovation_scale

_JITTER = 1e-10  # of a joint covariance, relative to its largest variance


@dataclass(frozen=True, eq=False)
class Solution:
    """One Gaussian posterior of u, with a scale of its errors that is measured when needed.

    Attributes:
        core: exact conditioning, or a grid solve.
        num_equation: how many rows of exact conditioning are the equation's.
        calibrated: scale the standard deviations by innovations.
        seed: of the prior draws that give a grid solve its covariance.
    """

    core: Conditioned | GridSolution
    num_equation: int
    calibrated: bool
    seed: int

    @property
    def prior(self) -> tuple[AxisPrior, ...]:
        """The prior of every axis."""
        core = self.core
        return tuple(core.prior if isinstance(core, Conditioned) else core.system.prior)

    @cached_property
    def scale(self) -> float:
        """κ, by which standard deviations are multiplied."""
        if isinstance(self.core, GridSolution):
            return self._errors.scale
        return innovation_scale(self.core, self.num_equation) if self.calibrated else 1.0

    def variance(self, x: Tensor) -> Tensor:
        """Variance of u at points, above zero everywhere."""
        if isinstance(self.core, Conditioned):
            return self.scale**2 * self.core.variance(x)
        return self._errors.at(x).square().mean(0) + self._floor

    def law(self, x: Tensor, noise_var: float, *, joint: bool) -> Distribution:
        """The Gaussian law of u at points, plus independent noise."""
        mean = self.core.mean(x)
        if not joint:
            return Normal(mean, (self.variance(x) + noise_var).sqrt(), validate_args=False)
        factor = self._factor(x)
        covariance = factor @ factor.mT
        smallest = _JITTER * float(covariance.diagonal().max())
        covariance.diagonal().add_(max(smallest, self._floor) + noise_var)
        return MultivariateNormal(mean, covariance, validate_args=False)

    def covariance(self, x: Tensor) -> Tensor:
        """Exact covariance of u at points under the prior, not scaled."""
        if isinstance(self.core, Conditioned):
            return self.core.covariance(x)
        return GridConditional(self.core.system).covariance(x)

    def functions(self, n: int, x: Tensor, stream: torch.Generator) -> Tensor:
        """Draws of u, coherent between points: `(n, points)`."""
        factor = self._factor(x)
        normals = torch.randn((n, factor.shape[1]), generator=stream, dtype=torch.float64)
        return self.core.mean(x) + normals @ factor.mT

    def _factor(self, x: Tensor) -> Tensor:
        """A matrix whose product with its transpose is the covariance at points."""
        if isinstance(self.core, GridSolution):
            errors = self._errors.at(x)
            return errors.mT / math.sqrt(len(errors))
        # A difference of prior covariances is positive definite up to rounding only.
        values, vectors = torch.linalg.eigh(self.core.covariance(x))
        return self.scale * vectors * values.clamp_min(0).sqrt()

    @cached_property
    def _errors(self) -> PathwiseErrors:
        if not isinstance(self.core, GridSolution):
            raise TypeError("exact conditioning has its covariance in closed form")
        return PathwiseErrors(self.core, self.seed, calibrated=self.calibrated)

    @cached_property
    def _floor(self) -> float:
        """Rounding error of the solution, as a variance: no standard deviation is zero."""
        if isinstance(self.core, Conditioned):
            return 0.0
        size = float(self.core.u.abs().max()) or 1.0
        return (1e-13 * size) ** 2
