"""What the network gets wrong, as a Gaussian law fitted to validation inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from probnet._checks import check_shape
from probnet.linalg import shrunk_covariance

Observe = Callable[[Tensor], Tensor]
"""Nodal values (batch, num_nodes) to values at the sensors (batch, num_sensors)."""


@dataclass(frozen=True, eq=False)
class ModelError:
    r"""The law of e = G(a) - û(z(a)), exact solution minus network, on unseen inputs.

    At sensors H its moments are

        μ_e = mean H e_i,   Σ_e = (1 - ρ) S + ρ tr(S)/n I,

    S the sample covariance and ρ the shrinkage of Ledoit & Wolf (J. Multivar. Anal. 88, 2004),
    which makes Σ_e well conditioned though there are fewer inputs than it has entries.

    Attributes:
        errors: e_i at the nodes of the mesh, shape (num_inputs, num_nodes).
    """

    errors: Tensor

    def __post_init__(self) -> None:
        if self.errors.ndim != 2 or len(self.errors) < 2:
            raise ValueError(
                f"`errors` must have shape (num_inputs, num_nodes), of at least 2 inputs; got "
                f"{tuple(self.errors.shape)}."
            )

    def at(self, observe: Observe) -> SensorError:
        """Moments at sensors.

        Args:
            observe: H.
        """
        values = observe(self.errors)
        mean = values.mean(0)
        covariance, shrinkage = shrunk_covariance(values - mean)
        return SensorError(
            mean=mean,
            covariance=covariance,
            shrinkage=shrinkage,
            at_sensors=values - mean,
            at_nodes=self.errors,
        )


@dataclass(frozen=True, eq=False)
class SensorError:
    """The law of the model error at sensors and, given what is seen there, at the nodes.

    Attributes:
        mean: μ_e, shape (num_sensors,).
        covariance: Σ_e, shape (num_sensors, num_sensors).
        shrinkage: ρ in [0, 1].
        at_sensors: centred errors of the validation inputs, (num_inputs, num_sensors).
        at_nodes: errors of the validation inputs, (num_inputs, num_nodes).
    """

    mean: Tensor
    covariance: Tensor
    shrinkage: float
    at_sensors: Tensor
    at_nodes: Tensor

    def draw(self, residual: Tensor, noise_sd: float, generator: torch.Generator) -> Tensor:
        """Model errors at the nodes given y - Hû, one for every residual.

        A draw e of the error's law is corrected by what the sensors say (Matheron's rule):
        e + K (r - He - ε), with the gain K of kriging, Cov(e, He) (Σ_e + σ²I)⁻¹.

        Args:
            residual: r = y - Hû, shape (draws, num_sensors).
            noise_sd: σ.
            generator: of the random numbers.
        """
        check_shape("residual", residual.shape[1:], self.mean.shape, "one value per sensor")
        count, num_inputs, rho = len(residual), len(self.at_nodes), self.shrinkage
        node_mean = self.at_nodes.mean(0)
        nodes = (self.at_nodes - node_mean) / num_inputs**0.5
        sensors = self.at_sensors / num_inputs**0.5

        def normal(columns: int) -> Tensor:
            return torch.randn(count, columns, generator=generator, dtype=residual.dtype)

        # He, shrunk: its covariance is Σ_e, and that with e the shrunk one of the sample
        factors, others = normal(num_inputs), normal(num_inputs)
        level = (rho * sensors.square().sum() / len(self.mean)).sqrt()
        seen = ((1 - rho) * factors + (rho * (1 - rho)) ** 0.5 * others) @ sensors
        seen = seen + level * normal(len(self.mean)) + noise_sd * normal(len(self.mean))
        total = self.covariance + noise_sd**2 * torch.eye(len(self.mean), dtype=residual.dtype)
        innovation = residual - self.mean - seen
        weights = torch.cholesky_solve(innovation.T, torch.linalg.cholesky(total))
        return node_mean + (factors + (1 - rho) * (sensors @ weights).T) @ nodes
