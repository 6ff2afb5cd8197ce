"""Positions from around the mode, where curvature and gradient noise matter."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from inference.curvature import Spectrum, largest_curvature
from inference.errors import warn
from inference.mode import Mode
from inference.rng import Stream, generator

_CHAINS = 64
_POINTS = 16
_NEARLY_GAUSSIAN = 0.5
_NEARLY_CONSTANT = 1.5
_STEPS_PER_RELAXATION = 10
_MIN_STEPS, _MAX_STEPS = 100, 500
_SNAPSHOTS = 2
_ATTEMPTS = 8
_STABLE = 2.0


class Neighbourhood(NamedTuple):
    """What is found around a mode.

    Attributes:
        positions: nearly draws of the target, shape (16, dim).
        largest_curvature: a bound on it over the typical set.
        num_gradients: what it cost, in gradients of all the data.
    """

    positions: Tensor
    largest_curvature: float
    num_gradients: int


class Density(NamedTuple):
    """A log density on all the data.

    Attributes:
        value: of one position (dim,).
        value_and_gradient: of positions (chains, dim).
    """

    value: Callable[[Tensor], Tensor]
    value_and_gradient: Callable[[Tensor], tuple[Tensor, Tensor]]


def explore(density: Density, mode: Mode, spectrum: Spectrum, seed: int) -> Neighbourhood:
    """Draw from around the mode, and see how the curvature changes there.

    Draws of the Laplace approximation will do if the log density at them is that of the
    Gaussian to half a nat, and the curvature varies little. Otherwise 64 short Langevin chains
    start from the mode, with a step that is stable at every position they reach.
    """
    random = generator(seed, Stream.TUNING)
    cost = 0
    if spectrum.complete and bool(spectrum.curved.all()):
        positions, nearly = _laplace(density, mode, spectrum, random)
        cost = len(positions)
        if nearly:
            positions = positions[:_POINTS]
            curvature, more = _stiffest(density, positions, spectrum, random)
            cost += more
            if curvature <= _NEARLY_CONSTANT * float(spectrum.eigenvalues[-1]):
                return Neighbourhood(positions, curvature, cost)
    step_size = float(spectrum.eigenvalues[-1]) ** -0.5
    for _ in range(_ATTEMPTS):
        positions, steps = _pilot(density, mode, spectrum, step_size, random)
        cost += _CHAINS * steps
        if bool(positions.isfinite().all()):
            curvature, more = _stiffest(density, positions, spectrum, random)
            cost += more
            if step_size**2 * curvature <= _STABLE:
                return Neighbourhood(positions[:_POINTS], curvature, cost)
            step_size = min(step_size / 2, curvature**-0.5)
        else:
            step_size /= 4
    warn(
        "no step was found at which chains from the mode stay where the curvature lets them: "
        "the density has ever stiffer regions, as a funnel has. The suggested step follows the "
        "stiffest point seen; reparametrise, or prefer method='nuts'."
    )
    curvature = max(step_size**-2, float(spectrum.eigenvalues[-1]))
    return Neighbourhood(mode.position[None].repeat(_POINTS, 1), curvature, cost)


def _laplace(
    density: Density, mode: Mode, spectrum: Spectrum, random: torch.Generator
) -> tuple[Tensor, bool]:
    """Draws of N(mode, H⁻¹), and whether the target is nearly that."""
    dim = len(mode.position)
    normals = torch.randn(_CHAINS, dim, generator=random, dtype=torch.float64)
    moves = (normals * spectrum.eigenvalues.rsqrt()) @ spectrum.eigenvectors.mT
    positions = mode.position + moves.to(mode.position)
    values, _ = density.value_and_gradient(positions)
    misfit = values.double().cpu() - mode.log_density + normals.square().sum(-1) / 2
    return positions, bool(misfit.isfinite().all()) and float(misfit.std()) < _NEARLY_GAUSSIAN


def _pilot(
    density: Density,
    mode: Mode,
    spectrum: Spectrum,
    step_size: float,
    random: torch.Generator,
) -> tuple[Tensor, int]:
    """Positions (128, dim) of BAOA chains from the mode, and the number of their steps.

    The last ones, and some from the second half; NaN if a chain was lost.
    """
    softest = float(spectrum.eigenvalues[spectrum.curved][0]) ** 0.5
    steps = int(_STEPS_PER_RELAXATION / (step_size * softest))
    steps = min(max(steps, _MIN_STEPS), _MAX_STEPS)
    decay = torch.tensor(-softest * step_size, dtype=torch.float64).exp()
    strength = float((1 - decay**2).sqrt())
    position = mode.position[None].repeat(_CHAINS, 1)

    def normal() -> Tensor:
        made = torch.randn(position.shape, generator=random, dtype=position.dtype)
        return made.to(position.device)

    momentum = normal()
    kept: list[Tensor] = []
    every = steps // (2 * _SNAPSHOTS)
    for step in range(1, steps + 1):
        gradient = density.value_and_gradient(position)[1]
        momentum = momentum + step_size * gradient
        position = position + step_size / 2 * momentum
        momentum = float(decay) * momentum + strength * normal()
        position = position + step_size / 2 * momentum
        if (steps - step) % every == 0 and len(kept) < _SNAPSHOTS and 2 * step > steps:
            kept.append(position)
    return torch.cat(kept), steps


def _stiffest(
    density: Density, positions: Tensor, spectrum: Spectrum, random: torch.Generator
) -> tuple[float, int]:
    """A bound on the curvature in the typical set, and what it cost.

    The largest of the mode's and the positions', and beyond it as far again as it lies from
    their median: chains meet stiffer places than a few positions show.
    """
    start = spectrum.eigenvectors[:, -1]
    elsewhere = torch.randn(len(start), generator=random, dtype=torch.float64)
    start = start + 0.3 * elsewhere / elsewhere.norm()
    values, cost = largest_curvature(density.value, positions, start)
    largest = max(float(values.max()), float(spectrum.eigenvalues[-1]))
    return 2 * largest - float(values.median()), cost * len(positions)
