"""Noisy point values of a solution: what every inversion is given, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from inference._checks import check_finite, check_positive
from probnet._checks import Values, as_tensor, check_matrix, check_shape


@dataclass(frozen=True, eq=False)
class Observations:
    """y = u(sensors) + noise_sd ε.

    Attributes:
        y: observed values, shape (num_sensors,).
        sensors: where, shape (num_sensors, num_dims).
        noise_sd: of the measurement noise, in the units of y.
    """

    y: Tensor
    sensors: Tensor
    noise_sd: float

    def log_likelihood(self, u: Tensor) -> Tensor:
        """-|y - u|²/2σ² of predictions (..., num_sensors) without the constant."""
        return -(self.y - u).square().sum(-1) / (2 * self.noise_sd**2)


def check_observations(
    problem: Any, y: Values, sensors: Values, noise_sd: float | None
) -> Observations:
    """Return observations as float64 tensors, or raise.

    Args:
        problem: knows its number of dimensions and its domain.
        y: observed values, shape (num_sensors,).
        sensors: positions, shape (num_sensors, num_dims), inside the domain.
        noise_sd: absolute, in the units of y, > 0.

    Raises:
        ValueError: on no observation, other shapes, non-finite values, sensors outside of the
            domain, or a missing `noise_sd`.
    """
    if noise_sd is None:
        raise ValueError(
            "`noise_sd` is missing: the posterior's width rests on it. Give the sd of the "
            "measurement noise in the units of `y`, such as noise_sd=0.003."
        )
    sd = check_positive("noise_sd", noise_sd)
    values = check_finite("y", as_tensor("y", y))
    if not values.numel():
        raise ValueError("`y` must hold at least one observation; got none.")
    positions = check_finite("sensors", check_matrix("sensors", sensors))
    check_shape("y", values.shape, positions.shape[:1], "one value per sensor")
    problem.check_points("sensors", positions)
    return Observations(values.detach(), positions.detach(), sd)
