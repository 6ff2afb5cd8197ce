"""Smoothness and lengthscale of a prior in several dimensions, by the evidence."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from probnet.gp_pde.discretisation import Discretisation
from probnet.gp_pde.evidence import LENGTHSCALES, with_envelope
from probnet.gp_pde.grid import grid_evidence
from probnet.gp_pde.prior import AxisPrior
from probnet.gp_pde.rows import Rows, covariance
from probnet.gp_pde.selection import DEFAULT_SMOOTHNESS, Chosen, smooth_part
from probnet.gp_pde.system import grid_system
from probnet.linalg import EquilibratedCholesky

_SPURIOUS = 0.3  # share of the smallest |eigenvalue| below which there is a false one
_SLOW = 3e7  # Σ M_j³ beyond which smoothness and lengthscale are searched greedily


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

    Smooth priors have differentiation matrices of low numerical rank, whose spurious
    eigenvalues near zero ruin the solution: a prior is passed over if its smallest |eigenvalue|
    is far below that of a rough one. All combinations are tried on small grids. On large ones
    the search moves to the best neighbour until there is none. The prior without peaks is the
    last to be tried: a smooth solution may have some that mean nothing.
    """
    options = [
        (s, share) for s in range(len(smoothnesses)) for share in range(len(LENGTHSCALES))
    ]
    rough = fixed_prior(problem, starts, DEFAULT_SMOOTHNESS)
    reference = _grid_choice(problem, rough, right, slope, nugget)
    smallest = 0.0 if reference is None else _SPURIOUS * reference.min_abs_eig
    known: dict[tuple[int, int], Chosen | None] = {}
    if smoothnesses[0] == DEFAULT_SMOOTHNESS:
        known[0, LENGTHSCALES.index(1.0)] = reference

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
    plain = _with(
        [smooth_part(start) for start in starts],
        problem, smoothnesses[best[0]], LENGTHSCALES[best[1]],
    )  # fmt: skip
    other = _grid_choice(problem, plain, right, slope, nugget)
    if other and other.min_abs_eig >= smallest and other.nll < chosen.nll:
        chosen = other
    return replace(chosen, num_evaluations=len(known) + 1)


def select_dense(
    problem: Discretisation,
    starts: Sequence[AxisPrior],
    slope: Tensor,
    right: Tensor,
    *,
    smoothnesses: Sequence[float],
    nugget: float,
) -> Chosen:
    """Exact conditioning in several dimensions, on the same choices."""
    rows = problem.rows(slope, right)
    best: Chosen | None = None
    tried = 0
    for smoothness, share in itertools.product(smoothnesses, LENGTHSCALES):
        tried += 1
        try:
            found = _dense_choice(rows, _with(starts, problem, smoothness, share), nugget)
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


def _greedy(
    options: Sequence[tuple[int, int]], evaluate: Callable[[tuple[int, int]], float]
) -> tuple[int, int]:
    current = (0, LENGTHSCALES.index(1.0))
    while True:
        near = [o for o in options if abs(o[0] - current[0]) + abs(o[1] - current[1]) <= 1]
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
        found: Any = minimize_scalar(
            lambda log: fit(math.exp(log))[0],
            bounds=(math.log(typical) - 12, math.log(typical) + 12),
            method="bounded",
            options={"xatol": 0.1},
        )
        amplitude = math.exp(found.x)
        nll = fit(amplitude)[0]
    else:
        half_log_det_and_more, quadratic = fit(1.0)
        amplitude = quadratic / len(rows) or 1.0
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
        new = with_envelope(start, length, smoothness, share)
        twin = next((p for p in found if p.equals(new)), None)
        found.append(twin or new)
    return tuple(found)
