"""The spectral prior of one axis, as plain numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probnet.kernels.spectral import (
    GaussianSpectralMixture,
    StudentTSpectralMixture,
    spectral_derivatives,
)


@dataclass(frozen=True, eq=False)
class AxisPrior:
    """A spectral mixture along one axis of the domain.

    Attributes:
        weight: w_q, shape `(Q,)`.
        lengthscale: ℓ_q in the units of the axis, shape `(Q,)`.
        frequency: μ_q in cycles per unit of the axis, shape `(Q,)`.
        smoothness: ν of the envelope; infinity for the Gaussian mixture.
        period: length of a periodic axis; else `None`.
    """

    weight: Tensor
    lengthscale: Tensor
    frequency: Tensor
    smoothness: float
    period: float | None = None

    def derivatives(self, lag: Tensor, max_order: int) -> Tensor:
        """k, k', ... at signed lags, shape `(max_order + 1, *lag.shape)`."""
        return spectral_derivatives(
            lag,
            self.weight,
            self.lengthscale,
            self.frequency,
            smoothness=self.smoothness,
            max_order=max_order,
            period=self.period,
        )

    def scaled(self, factor: float) -> AxisPrior:
        """The same prior with its variance multiplied by `factor`."""
        return AxisPrior(
            self.weight * factor,
            self.lengthscale,
            self.frequency,
            self.smoothness,
            self.period,
        )

    def equals(self, other: AxisPrior) -> bool:
        """Whether all numbers are the same."""
        return self.to_dict() == other.to_dict()

    def kernel(self) -> GaussianSpectralMixture | StudentTSpectralMixture:
        """The GPyTorch kernel of this prior."""
        count = len(self.weight)
        if math.isfinite(self.smoothness):
            kernel = StudentTSpectralMixture(count, self.smoothness, period=self.period)
        else:
            kernel = GaussianSpectralMixture(count, period=self.period)
        kernel = kernel.double()
        kernel.set_components(self.weight, self.lengthscale, self.frequency)
        return kernel

    def to_dict(self) -> dict[str, Any]:
        """JSON-able numbers, exact in float64."""
        return {
            "weight": self.weight.tolist(),
            "lengthscale": self.lengthscale.tolist(),
            "frequency": self.frequency.tolist(),
            "smoothness": self.smoothness if math.isfinite(self.smoothness) else "inf",
            "period": self.period,
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> AxisPrior:
        """Rebuild the prior that `to_dict` described."""
        weight, lengthscale, frequency = (
            torch.tensor(fields[name], dtype=torch.float64)
            for name in ("weight", "lengthscale", "frequency")
        )
        smoothness, period = float(fields["smoothness"]), fields["period"]
        return cls(weight, lengthscale, frequency, smoothness, period)
