"""Priors from the data: frequencies by their spectrum, the rest by the evidence."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from probnet.gp_pde.discretisation import Discretisation
from probnet.gp_pde.evidence import (
    LENGTHSCALES,
    FittedPrior,
    LineEvidence,
    best_start,
    fit_line,
    prune,
)
from probnet.gp_pde.grid import grid_evidence
from probnet.gp_pde.prior import AxisPrior
from probnet.gp_pde.rows import Rows, covariance
from probnet.gp_pde.spectrum import MIN_POINTS_PER_PERIOD, Peak, axis_peaks, merge_peaks
from probnet.gp_pde.system import grid_system
from probnet.linalg import EquilibratedCholesky

MAX_COMPONENTS = (6, 4, 4)
"""Frequencies taken per axis in one, two and three dimensions."""

DEFAULT_SMOOTHNESS = 2.5
_ROUGH_LENGTHSCALE, _SPURIOUS = 0.3, 0.02
_SLOW = 3e7  # Σ M_j³ beyond which smoothness and lengthscale are searched greedily


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
        count = MAX_COMPONENTS[problem.pde.dim - 1] if max_components is None else max_components
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
    fitted = fit_line(
        evidence, best.prior, length=length, spacing=spacing, max_iter=max_iter
    )
    kept = prune(evidence, fitted)
    tried = len(starts) * len(smoothnesses) * len(LENGTHSCALES)
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


def select_grid(
    problem: Discretisation,
    starts: Sequence[AxisPrior],
    right: Tensor,
    slope: Tensor,
    *,
    smoothnesses: Sequence[float],
    nugget: float,
) -> Chosen:
    """Several dimensions: smoothness and lengthscale (in domain lengths) of highest evidence.

    Smooth priors have differentiation matrices of low numerical rank, whose spurious eigenvalues
    near zero ruin the solution: a prior is passed over if its smallest |eigenvalue| is far below
    that of a rough one. All combinations are tried on small grids. On large ones the search moves to the best
    neighbour until there is none.
    """
    options = [
        (s, share) for s in range(len(smoothnesses)) for share in range(len(LENGTHSCALES))
    ]
    known: dict[tuple[int, int], Chosen | None] = {}
    rough = _with(starts, problem, DEFAULT_SMOOTHNESS, _ROUGH_LENGTHSCALE)
    reference = _grid_choice(problem, rough, right, slope, nugget)
    smallest = 0.0 if reference is None else _SPURIOUS * reference.min_abs_eig

    def evaluate(option: tuple[int, int]) -> float:
        if option not in known:
            prior = _with(starts, problem, smoothnesses[option[0]], LENGTHSCALES[option[1]])
            found = _grid_choice(problem, prior, right, slope, nugget)
            known[option] = found if found and found.min_abs_eig >= smallest else None
        found = known[option]
        return math.inf if found is None else found.nll

    if sum(n**3 for n in problem.shape) <= _SLOW:
        best = min(options, key=evaluate)
    else:
        best = _greedy(options, evaluate)
    chosen = known[best]
    if chosen is None:
        raise ValueError(
            "`nugget` is too small: the prior covariance is singular for every smoothness and "
            "lengthscale tried."
        )
    return replace(chosen, num_evaluations=len(known))


def select_dense(
    problem: Discretisation,
    starts: Sequence[AxisPrior],
    slope: Tensor,
    right: Tensor,
    *,
    smoothnesses: Sequence[float],
    nugget: float,
) -> Chosen:
    """Exact conditioning in several dimensions: smoothness and lengthscale of highest evidence."""
    rows = problem.rows(slope, right)
    best: Chosen | None = None
    tried = 0
    for smoothness, share in itertools.product(smoothnesses, LENGTHSCALES):
        tried += 1
        try:
            found = _dense_choice(
                rows, _with(starts, problem, smoothness, share), nugget
            )
        except ValueError:
            continue
        if best is None or found.nll < best.nll:
            best = found
    if best is None:
        raise ValueError("`nugget` is too small: the Gram matrix is singular for every prior.")
    return replace(best, num_evaluations=tried)


def with_amplitude(
    problem: Discretisation,
    prior: tuple[AxisPrior, ...],
    slope: Tensor,
    right: Tensor,
    *,
    exact: bool,
    nugget: float,
) -> Chosen:
    """A given prior with the amplitude of highest evidence."""
    if exact:
        return _dense_choice(problem.rows(slope, right), prior, nugget)
    found = _grid_choice(problem, prior, right, slope, nugget)
    if found is None:
        raise ValueError("`nugget` is too small: the prior covariance is singular.")
    return found


def fixed_prior(
    problem: Discretisation, starts: Sequence[AxisPrior], smoothness: float
) -> tuple[AxisPrior, ...]:
    """The starting priors with a given smoothness, as `method="spectrum"` uses them."""
    return _with(starts, problem, smoothness, 1.0)


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


def _greedy(
    options: Sequence[tuple[int, int]], evaluate: Callable[[tuple[int, int]], float]
) -> tuple[int, int]:
    current = (0, LENGTHSCALES.index(1.0))
    while True:
        near = [
            o for o in options if abs(o[0] - current[0]) + abs(o[1] - current[1]) <= 1
        ]
        best = min(near, key=evaluate)
        if evaluate(best) >= evaluate(current):
            return current
        current = best


def _dense_choice(rows: Rows, prior: tuple[AxisPrior, ...], nugget: float) -> Chosen:
    """The amplitude in closed form without noise, by a search on its logarithm with noise."""
    gram = covariance(rows, rows, prior)

    def fit(amplitude: float) -> tuple[float, float]:
        factor = EquilibratedCholesky(amplitude * gram, nugget, rows.noise_var)
        quadratic = float(rows.values @ factor.solve(rows.values))
        return 0.5 * (quadratic + factor.log_det), quadratic

    amplitude = 1.0
    if bool((rows.noise_var > 0).any()):
        typical = float((rows.values**2).sum() / gram.diagonal().sum()) or 1.0
        found = minimize_scalar(
            lambda log: fit(math.exp(log))[0],
            bounds=(math.log(typical) - 12, math.log(typical) + 12),
            method="bounded",
            options={"xatol": 0.1},
        )
        amplitude = math.exp(found.x)
        nll = fit(amplitude)[0]
    else:
        half_log_det_and_more, quadratic = fit(1.0)
        amplitude = max(quadratic / len(rows), 1e-300)
        nll = half_log_det_and_more - 0.5 * quadratic + 0.5 * len(rows) * math.log(amplitude)
    return Chosen(_shared_scale(prior, amplitude), nll, 1)


def _shared_scale(prior: tuple[AxisPrior, ...], amplitude: float) -> tuple[AxisPrior, ...]:
    """The variance is the product of the axes'; axes that were one object stay one."""
    share = amplitude ** (1 / len(prior))
    scaled = {id(p): p.scaled(share) for p in prior}
    return tuple(scaled[id(p)] for p in prior)


def _grid_choice(
    problem: Discretisation,
    prior: tuple[AxisPrior, ...],
    right: Tensor,
    slope: Tensor,
    nugget: float,
) -> Chosen | None:
    try:
        system = grid_system(problem, prior, nugget).with_slope(slope, right)
        if max(axis.factor.nugget for axis in system.axes) > nugget:
            return None
        found = grid_evidence(system.operator, system.solve())
    except (ValueError, torch.linalg.LinAlgError):  # pyright: ignore[reportPrivateImportUsage] - torch does not list it
        return None
    if not math.isfinite(found.nll):
        return None
    smallest = system.operator.separable.min_abs_eig
    return Chosen(_shared_scale(prior, found.amplitude), found.nll, 1, smallest)


def _with(
    starts: Sequence[AxisPrior], problem: Discretisation, smoothness: float, share: float
) -> tuple[AxisPrior, ...]:
    """The starts with another envelope; axes that are alike share one object."""
    found: list[AxisPrior] = []
    for start, length in zip(starts, problem.lengths, strict=True):
        new = replace(
            start,
            lengthscale=torch.full_like(start.weight, share * length),
            smoothness=smoothness,
        )
        twin = next((p for p in found if p.equals(new)), None)
        found.append(twin or new)
    return tuple(found)


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

