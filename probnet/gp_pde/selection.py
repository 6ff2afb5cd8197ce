"""Priors from the data: frequencies by their spectrum, the rest by the evidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from probnet.gp_pde.discretisation import Discretisation
from probnet.gp_pde.evidence import (
    LENGTHSCALES,
    FittedPrior,
    LineEvidence,
    best_start,
    fit_line,
    prune,
)
from probnet.gp_pde.prior import AxisPrior
from probnet.gp_pde.rows import Rows
from probnet.gp_pde.spectrum import MIN_POINTS_PER_PERIOD, Peak, axis_peaks, merge_peaks

MAX_COMPONENTS = (6, 4, 4)
"""Frequencies taken per axis in one, two and three dimensions."""

DEFAULT_SMOOTHNESS = 2.5


@dataclass(frozen=True)
class Chosen:
    """A prior per axis, with its evidence and what was found on the way.

    Attributes:
        prior: one per axis, amplitude included.
        nll: negative log evidence.
        num_evaluations: of the evidence, L-BFGS iterations included.
        min_abs_eig: smallest |eigenvalue| of the collocation operator, on grids.
    """

    prior: tuple[AxisPrior, ...]
    nll: float
    num_evaluations: int
    min_abs_eig: float = math.nan


def find_peaks(problem: Discretisation, max_components: int | None = None) -> list[list[Peak]]:
    """Sinusoids along every axis, in the source and in the data of the faces."""
    found: list[list[Peak]] = []
    for axis in range(problem.pde.dim):
        spacing = problem.spacings[axis]
        count = (
            MAX_COMPONENTS[problem.pde.dim - 1] if max_components is None else max_components
        )
        groups = [
            axis_peaks(
                problem.source.movedim(axis, 0), spacing, count, problem.pde.source_noise_sd
            )
        ]
        for face in problem.faces:
            if face.data.axis != axis and face.values.numel() > 1:
                position = axis - int(face.data.axis < axis)
                lines = face.values.movedim(position, 0)
                groups.append(axis_peaks(lines, spacing, count, face.data.noise_sd))
        found.append(merge_peaks(groups, 0.5 / problem.lengths[axis])[:count])
    return found


def starting_priors(
    problem: Discretisation, peaks: Sequence[Sequence[Peak]]
) -> list[AxisPrior]:
    """One smooth component and one per peak, lengthscales of the domain.

    In one dimension a peak of f becomes a weight by the operator's symbol: the amplitude of u
    is that of f over |L̂(μ)|.
    """
    found: list[AxisPrior] = []
    for axis, mine in enumerate(peaks):
        frequency = torch.tensor([0.0, *(p.frequency for p in mine)], dtype=torch.float64)
        weight = torch.ones_like(frequency)
        if problem.pde.dim == 1:
            size = [(p.amplitude / _symbol(problem, p.frequency)) ** 2 for p in mine]
            ends = max((float(f.values.abs().max()) ** 2 for f in problem.faces), default=0.0)
            if problem.observations is not None:
                y = torch.as_tensor(problem.observations.y)
                ends = max(ends, float((y**2).mean()))
            rough = float(problem.source.square().mean()) * problem.lengths[0] ** 4 / 100
            base = max([ends, *size]) or rough or 1.0
            weight = torch.tensor([base, *(max(s, 1e-12 * base) for s in size)]).double()
        lengthscale = torch.full_like(weight, problem.lengths[axis])
        period = problem.period(axis)
        found.append(AxisPrior(weight, lengthscale, frequency, DEFAULT_SMOOTHNESS, period))
    return found


def smooth_part(start: AxisPrior) -> AxisPrior:
    """The first component alone, whose frequency is zero."""
    first = (start.weight[:1], start.lengthscale[:1], start.frequency[:1])
    return AxisPrior(*first, start.smoothness, start.period)


def select_line(
    rows: Rows,
    starts: Sequence[AxisPrior],
    problem: Discretisation,
    *,
    smoothnesses: Sequence[float],
    nugget: float,
    max_iter: int,
) -> Chosen:
    """One dimension: the best start, L-BFGS from there, and pruning."""
    evidence = LineEvidence(rows, nugget)
    length, spacing = problem.lengths[0], problem.spacings[0]
    best = best_start(evidence, starts, length, smoothnesses)
    tried = len(starts) * len(smoothnesses) * len(LENGTHSCALES)
    if not bool(rows.values.any()):  # zero data: the weights have no scale to be fitted to
        return Chosen((best.prior,), best.nll, tried)
    fitted = fit_line(evidence, best.prior, length=length, spacing=spacing, max_iter=max_iter)
    kept = prune(evidence, fitted)
    return Chosen((kept.prior,), kept.nll, tried + kept.num_iterations)


def refit_line(
    rows: Rows, prior: AxisPrior, problem: Discretisation, *, nugget: float, max_iter: int
) -> Chosen:
    """L-BFGS from a prior that was fitted to similar rows."""
    evidence = LineEvidence(rows, nugget)
    nll, amplitude = evidence(prior)
    if not math.isfinite(nll):
        return Chosen((prior,), nll, 1)
    start = prior if not evidence.profiled else prior.scaled(amplitude)
    fitted: FittedPrior = fit_line(
        evidence,
        start,
        length=problem.lengths[0],
        spacing=problem.spacings[0],
        max_iter=max_iter,
    )
    return Chosen((fitted.prior,), fitted.nll, fitted.num_iterations)


def points_per_period(
    problem: Discretisation, peaks: Sequence[Sequence[Peak]]
) -> tuple[float | None, list[str]]:
    """The fewest nodes per period of any peak, and messages where they are too few."""
    fewest, messages = math.inf, []
    for axis, mine in enumerate(peaks):
        for peak in mine:
            points = 1 / (peak.frequency * problem.spacings[axis])
            fewest = min(fewest, points)
            if points < MIN_POINTS_PER_PERIOD:
                name = problem.pde.axis_names[axis]
                messages.append(
                    f"the data along {name!r} have a component of {peak.frequency:.4g} cycles "
                    f"per unit, {points:.2f} nodes per period: below "
                    f"{MIN_POINTS_PER_PERIOD} it may be an alias. Refine `grid` along {name!r}."
                )
                break
    return (fewest if math.isfinite(fewest) else None), messages


def _symbol(problem: Discretisation, frequency: float) -> float:
    """|Σ_p a_p (2πiμ)^p| with mean coefficients; never below its value at one period."""
    value = sum(
        complex(float(a.mean())) * (2j * math.pi * frequency) ** order[0]
        for order, a in problem.coefficients.items()
    )
    smallest = 1e-6 * sum(
        float(a.abs().mean()) * (2 * math.pi * frequency) ** order[0]
        for order, a in problem.coefficients.items()
    )
    return max(abs(value), smallest)
