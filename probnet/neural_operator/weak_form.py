"""Weak residuals of Darcy flow at random test functions: physics without a mesh.

Networks give values and gradients at points shared by all inputs
(`MultiONet.value_and_gradient`); `candidate_gradient` turns them into those of the candidate
with the right boundary values. The energy of `Darcy2D.loss` needs no derivatives and is the
better loss; these are the published ones.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor
from torch.func import jvp

from probnet.neural_operator.darcy import Darcy2D
from probnet.neural_operator.problem import Problem
from probnet.neural_operator.wendland import WendlandTests


def candidate_gradient(
    problem: Problem, points: Tensor, values: Tensor, gradients: Tensor, coefficients: Tensor
) -> Tensor:
    """∇(m U + g) of a network U at points, (d, B, n): the chain rule through `ansatz`.

    Args:
        problem: whose ansatz it is.
        points: shape (n, d).
        values: of U, shape (B, n).
        gradients: of U, shape (d, B, n).
        coefficients: of B inputs.
    """

    def candidate(where: Tensor, network: Tensor) -> Tensor:
        return problem.ansatz(where)(network, coefficients)

    directions = torch.eye(len(gradients), dtype=points.dtype, device=points.device)
    along = [
        jvp(candidate, (points, values), (direction.expand_as(points), slope))[1]
        for direction, slope in zip(directions, gradients, strict=True)
    ]
    return torch.stack(along)


def values_in_cells(cells: Tensor, points: Tensor) -> Tensor:
    """Values at points of the unit square of a field that is constant in every cell.

    Args:
        cells: shape `(*batch, nx, ny)`.
        points: shape (n, 2); on an edge the cell above counts.

    Returns:
        Shape `(*batch, n)`.
    """
    last = [size - 1 for size in cells.shape[-2:]]
    x, y = points.unbind(-1)
    i = (x * cells.shape[-2]).long().clamp(0, last[0])
    j = (y * cells.shape[-1]).long().clamp(0, last[1])
    return cells[..., i, j]


def weak_residuals(
    pde: Darcy2D, tests: WendlandTests, points: Tensor, gradient: Tensor, coefficients: Tensor
) -> Tensor:
    """⟨a∇u·∇ψ_j⟩ - ⟨f ψ_j⟩ of every test function, shape (B, num_centres).

    Args:
        pde: the problem.
        tests: the test functions.
        points: `tests.points(centres)`, shape (num_centres, num_nodes, 2).
        gradient: ∇u of a candidate at the points, in their order, shape (2, B, n).
        coefficients: a in each cell, shape (B, nx, ny).
    """
    a = values_in_cells(coefficients.to(gradient), points.reshape(-1, 2))
    return _residuals(pde, tests, points, a * gradient)


def mixed_residuals(
    pde: Darcy2D,
    tests: WendlandTests,
    points: Tensor,
    flux: Tensor,
    gradient: Tensor,
    coefficients: Tensor,
) -> tuple[Tensor, Tensor]:
    """Residuals with a flux s of its own, for a that jumps: `|s - a∇u|²` and ⟨s·∇ψ_j⟩ - ⟨fψ_j⟩.

    Args:
        pde: the problem.
        tests: the test functions.
        points: `tests.points(centres)`, shape (num_centres, num_nodes, 2).
        flux: s at the points, shape (2, B, n).
        gradient: ∇u at the points, shape (2, B, n).
        coefficients: a in each cell, shape (B, nx, ny).

    Returns:
        The first at every point, shape (B, n), and the second for every test function, shape
        (B, num_centres).
    """
    a = values_in_cells(coefficients.to(gradient), points.reshape(-1, 2))
    return (flux - a * gradient).square().sum(0), _residuals(pde, tests, points, flux)


def mixed_loss(mismatch: Tensor, residuals: Tensor) -> Tensor:
    """The published loss of two-phase Darcy flow, mean `|s - a∇u|²` + √n_c mean r_j², (B,).

    Source: Zang & Koutsourelakis (J. Comput. Phys. 538, 2025), reference code.

    Args:
        mismatch: `|s - a∇u|²`, shape (B, n); see `mixed_residuals`.
        residuals: r_j, shape (B, num_centres).
    """
    weight = math.sqrt(residuals.shape[-1])
    return mismatch.mean(-1) + weight * residuals.square().mean(-1)


def _residuals(pde: Darcy2D, tests: WendlandTests, points: Tensor, flux: Tensor) -> Tensor:
    """Residuals of a flux (2, B, n) at points (num_centres, num_nodes, 2)."""
    shape = points.shape[:-1]
    at_points = partial(values_in_cells, points=points.reshape(-1, 2))
    source = at_points(pde.source.expand(pde.mesh).to(flux)).reshape(shape)
    return tests.residuals(flux.movedim(0, -1).unflatten(1, shape), source)
