"""Grids against dense matrices: operator, elimination of faces, evidence, covariance."""

import functools

import pytest
import torch

from probnet.gp_pde import SpectralGPSolver
from probnet.gp_pde.conditional import GridConditional
from probnet.gp_pde.dense import Conditioned
from probnet.gp_pde.discretisation import discretise
from probnet.gp_pde.grid import grid_evidence
from probnet.gp_pde.prior import AxisPrior
from probnet.gp_pde.rows import covariance
from probnet.gp_pde.system import grid_system, interpolate
from probnet.pde import Dirichlet, Neumann

PRIOR = AxisPrior(
    torch.tensor([1.0, 0.5]).double(),
    torch.tensor([0.5, 0.4]).double(),
    torch.tensor([0.0, 1.5]).double(),
    3.5,
)
TERMS = {
    "separable": {(2, 0): 1.0, (0, 2): 2.0, (0, 0): 3.0},
    "not separable": {(2, 0): lambda x, y: 1 + x * y, (0, 2): 1.0, (1, 0): 0.5},
}


def dirichlet(u):
    return Dirichlet(u)


def mixed(u):
    """∂u/∂x = 12 cos(12x) cos(9y) + y of the example's solution at x = 1."""
    slope = Neumann(lambda x, y: 12 * torch.cos(12 * x) * torch.cos(9 * y) + y, "x_max")
    return [slope, Dirichlet(u)]


def assemble(system):
    """The matrix from values at the nodes to one datum per node: equation or condition."""
    shape = [len(n) for n in system.nodes]
    eye = torch.eye(shape[0] * shape[1]).double().reshape(-1, *shape)
    rows = torch.stack([system.operator.apply(u) for u in eye], dim=-1)
    free = torch.ones(shape, dtype=torch.bool)
    for j, (lower, upper) in enumerate(system.orders):
        for node, orders in ((0, lower), (-1, upper)):
            for order in orders:
                matrix = system.axes[j].derivatives[order][node]
                here = torch.tensordot(eye.movedim(j + 1, 1), matrix, dims=([1], [0]))
                mask = torch.zeros(shape, dtype=torch.bool)
                mask.select(j, node).fill_(True)
                spread = here.movedim(0, -1).unsqueeze(j).expand(*shape, len(eye))
                mask &= free
                rows = torch.where(mask[..., None], spread, rows)
                free &= ~mask
    return rows.reshape(len(eye), -1)


@pytest.mark.parametrize("conditions", [dirichlet, mixed])
@pytest.mark.parametrize("name", TERMS)
def test_the_solution_satisfies_equation_and_conditions(problem, name, conditions):
    pde, u = problem(2, TERMS[name])
    system = grid_system(discretise(pde, conditions(u), (10, 11)), [PRIOR, PRIOR], 1e-12)
    found, matrix = system.solve(), assemble(system)
    data = GridConditional(system).rows.values
    residual = matrix @ found.reshape(-1) - data
    assert float(residual.abs().max()) <= 1e-7 * float(data.abs().max())


def test_evidence_is_that_of_the_dense_change_of_variables(problem):
    pde, u = problem(2, TERMS["separable"])
    system = grid_system(discretise(pde, Dirichlet(u), (9, 10)), [PRIOR, PRIOR], 1e-8)
    found = system.solve()
    grams = [
        PRIOR.derivatives(n[:, None] - n, 0)[0] + 1e-8 * 1.5 * torch.eye(len(n))
        for n in system.nodes
    ]
    gram = functools.reduce(torch.kron, grams)
    flat, count = found.reshape(-1), found.numel()
    amplitude = float(flat @ torch.linalg.solve(gram, flat)) / count
    expected = (
        0.5 * count * torch.tensor(amplitude).log()
        + 0.5 * torch.linalg.slogdet(gram).logabsdet
        + torch.linalg.slogdet(assemble(system)).logabsdet
    )
    evidence = grid_evidence(system.operator, found)
    assert evidence.amplitude == pytest.approx(amplitude, rel=1e-6)
    assert evidence.nll == pytest.approx(float(expected), rel=1e-7)


def test_interpolation_is_the_conditional_mean(problem):
    pde, u = problem(2)
    system = grid_system(discretise(pde, Dirichlet(u), (9, 10)), [PRIOR, PRIOR], 1e-10)
    fields = torch.randn(2, 9, 10, generator=torch.Generator().manual_seed(0)).double()
    x = torch.rand(40, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = [
        axis.factor.solve(axis.interpolation(x[:, j], p).mT.contiguous()).mT
        for j, (axis, p) in enumerate(zip(system.axes, (1, 0), strict=True))
    ]
    expected = torch.einsum("sij,ni,nj->sn", fields, *weights)
    for order in ([*range(40)], [0, 0, 1]):  # scattered points, and few distinct ones
        found = interpolate(system.axes, fields, x[order], (1, 0))
        torch.testing.assert_close(found, expected[:, order], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", TERMS)
def test_conjugate_gradients_give_the_dense_covariance(problem, name):
    pde, u = problem(2, TERMS[name])
    rough = AxisPrior(PRIOR.weight, PRIOR.lengthscale, PRIOR.frequency, 2.5)
    system = grid_system(discretise(pde, mixed(u), (12, 13)), [rough, rough], 1e-12)
    conditional = GridConditional(system)
    rows, x = conditional.rows, torch.rand(5, 2, generator=torch.Generator().manual_seed(2))
    gram = covariance(rows, rows, system.prior)
    y = torch.randn(len(rows), 2, generator=torch.Generator().manual_seed(3)).double()
    applied = gram @ y + 1e-10 * gram.diagonal()[:, None] * y
    torch.testing.assert_close(conditional.gram(y), applied, rtol=1e-8, atol=1e-8)
    dense = Conditioned(rows, system.prior, 1e-10)
    found, expected = conditional.covariance(x.double()), dense.covariance(x.double())
    assert (found - expected).abs().max() < 1e-6 * 1.5**2  # of the prior variance


def test_grid_and_exact_conditioning_agree(problem, relative_error):
    """Two estimators of one class: they differ by their errors, which are small here."""
    pde, u = problem(2, solution=lambda x, y: torch.sin(3 * x) * torch.cos(2 * y))
    posterior = SpectralGPSolver(grid=16, smoothness=4.5).fit(pde, Dirichlet(u))
    rows = GridConditional(posterior.solutions[0].core.system).rows
    dense = Conditioned(rows, posterior.spectrum(), 1e-11)
    x = torch.rand(100, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    gap = float((dense.mean(x) - posterior.mean(x)).abs().max())
    assert gap < 1e-3
    assert gap > 0
