"""Burgers' equation against Cole–Hopf by another quadrature, scikit-fem, and its energy law."""

import math
from itertools import pairwise

import numpy as np
import pytest
import skfem
import torch

from inference import InferenceWarning
from probnet.datasets.fields import SineSeries
from probnet.neural_operator import Burgers

NU = 0.1 / math.pi


def random_values(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def relative(found, exact):
    return (found - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)


def matrices(cells):
    """Mass and stiffness of the inner nodes of [-1, 1]."""
    h, n = 2 / cells, cells - 1
    beside = torch.diag(torch.ones(n - 1, dtype=torch.float64), 1)
    beside = beside + beside.T
    eye = torch.eye(n, dtype=torch.float64)
    return h / 6 * (4 * eye + beside), (2 * eye - beside) / h


def test_the_reference_is_the_transform_by_gauss_hermite():
    """U = ∫ (x - y)/t G dy / ∫ G dy, G = exp(-∫u₀/(2ν) - (x - y)²/(4νt)), for a sine series."""
    sampler = SineSeries(num_nodes=64)
    amplitudes = sampler.draw_coefficients(3, torch.Generator().manual_seed(1))
    points = torch.tensor([[-0.9, 0.05], [-0.3, 0.2], [0.1, 0.6], [0.75, 1.0]]).double()
    z, weights = map(torch.from_numpy, np.polynomial.hermite.hermgauss(150))
    y = points[:, :1] - z * (4 * NU * points[:, 1:]).sqrt()
    k = torch.pi * torch.arange(1, 9, dtype=torch.float64)
    potential = -torch.einsum("bk,nqk->bnq", amplitudes / k, torch.cos(k * y[..., None]))
    g = weights * torch.exp(-potential / (2 * NU))
    expected = 2 * ((NU / points[:, 1:]).sqrt() * z * g).sum(-1) / g.sum(-1)
    inputs = sampler.evaluate(amplitudes, torch.linspace(-1, 1, 64, dtype=torch.float64))
    found = Burgers().reference(inputs, points)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_the_default_mesh_is_accurate_and_of_second_order():
    inputs = SineSeries().sample(40, seed=3)
    errors = []
    for mesh in [(32, 16), (64, 32), (128, 64)]:
        pde = Burgers(mesh=mesh)
        errors.append(relative(pde.solve(pde.coefficients(inputs)), pde.reference(inputs)))
    assert Burgers().mesh == (128, 64)
    assert float(errors[-1].max()) < 0.002
    ratios = [float(a.mean() / b.mean()) for a, b in pairwise(errors)]
    assert all(3.5 < ratio < 4.7 for ratio in ratios)


def test_loss_is_zero_at_the_discrete_solution_alone():
    pde = Burgers(mesh=(32, 16))
    coefficients = pde.coefficients(SineSeries().sample(5, seed=4))
    u = pde.solve(coefficients)
    assert float(pde.loss(u.flatten(1), coefficients).max()) < 1e-24
    m = pde.mollifier(pde.nodes).reshape(pde.solution_shape)
    other = u + 0.1 * m * random_values(5, *pde.solution_shape)
    assert float(pde.loss(other.flatten(1), coefficients).min()) > 1e-4
    # Single precision leaves rounding, far below the loss of any useful candidate.
    single = pde.loss(u.float().flatten(1), coefficients.float())
    assert single.dtype == torch.float32
    assert float(single.max()) < 1e-10


def test_the_residual_is_that_of_scikit_fem():
    pde = Burgers(mesh=(9, 3))
    u = random_values(10, 4)
    u[[0, -1]] = 0
    basis = skfem.Basis(
        skfem.MeshLine(np.linspace(-1, 1, 10)), skfem.ElementLineP1(), intorder=4
    )

    @skfem.LinearForm
    def form(v, w):
        middle, rate = w["middle"], w["rate"]
        slope = middle.grad[0]
        return rate * v + middle * slope * v + NU * slope * v.grad[0]

    for n in range(3):
        middle, rate = (u[:, n] + u[:, n + 1]) / 2, (u[:, n + 1] - u[:, n]) * 3
        expected = form.assemble(
            basis,
            middle=basis.interpolate(middle.numpy()),
            rate=basis.interpolate(rate.numpy()),
        )[1:-1]
        np.testing.assert_allclose(pde.residual(u)[:, n], expected, atol=1e-12)


@pytest.mark.parametrize("mesh", [(16, 8), (23, 40)])
def test_loss_without_convection_is_a_norm_of_the_error(mesh):
    """The identity of the class's docstring; convection is negligible in a tiny error."""
    pde = Burgers(viscosity=0.05, mesh=mesh)
    e = random_values(*pde.solution_shape, seed=5)
    e[[0, -1]] = e[:, 0] = 0
    mass, stiffness = matrices(mesh[0])
    inner = e[1:-1]
    middle, rate = (inner[:, 1:] + inner[:, :-1]) / 2, mass @ inner.diff(dim=-1) * mesh[1]
    expected = (
        (middle * (0.05 * stiffness @ middle)).sum() / mesh[1]
        + (rate * torch.linalg.solve(0.05 * stiffness, rate)).sum() / mesh[1]
        + inner[:, -1] @ mass @ inner[:, -1]
    )
    found = 2e16 * pde.loss(1e-8 * e.reshape(1, -1), torch.zeros(1, mesh[0] + 1))
    torch.testing.assert_close(found[0], expected, rtol=1e-5, atol=0)


def test_loss_of_a_function_does_not_depend_on_the_mesh():
    def of(mesh):
        pde = Burgers(mesh=mesh)
        x, t = pde.nodes.T
        values = t * torch.sin(torch.pi * x) * (1 + x)
        return float(pde.loss(values[None], values[None, :1]))

    assert of((32, 16)) == pytest.approx(of((128, 64)), rel=0.02)


def test_the_gradient_is_that_of_differences():
    pde = Burgers(mesh=(6, 4))
    coefficients = pde.coefficients(SineSeries(num_nodes=16).sample(2, seed=6))
    ansatz = pde.ansatz(pde.nodes)
    network = random_values(2, 35, seed=7).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda u: pde.loss(ansatz(u, coefficients), coefficients), network
    )


def test_every_network_has_the_initial_and_boundary_values():
    pde = Burgers(mesh=(24, 6))
    inputs = SineSeries().sample(3, seed=8)
    coefficients = pde.coefficients(inputs)
    network = random_values(3, len(pde.nodes))
    u = pde.ansatz(pde.nodes)(network, coefficients).reshape(3, *pde.solution_shape)
    torch.testing.assert_close(u[..., 0], coefficients, rtol=0, atol=1e-13)
    assert float(u[:, [0, -1]].abs().max()) < 1e-13
    assert pde.ansatz(pde.nodes)(network.float(), coefficients).dtype == torch.float32


def test_the_ansatz_starts_from_the_flow_of_heat():
    pde = Burgers(mesh=(24, 6))
    x = torch.linspace(-1, 1, 40, dtype=torch.float64)
    coefficients = pde.coefficients(torch.sin(2 * torch.pi * x) + torch.cos(torch.pi * x / 2))
    points = torch.tensor([[0.123, 0.4], [-0.7, 0.9]]).double()
    found = pde.ansatz(points)(torch.zeros(2).double(), coefficients)
    x, t = points.T
    expected = torch.exp(-NU * (2 * torch.pi) ** 2 * t) * torch.sin(2 * torch.pi * x)
    expected += torch.exp(-NU * (torch.pi / 2) ** 2 * t) * torch.cos(torch.pi * x / 2)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_inputs_on_any_grid_are_interpolated():
    """Exact for sines; values at the input's own nodes are kept whatever they are."""
    sampler = SineSeries(num_nodes=37)
    amplitudes = sampler.draw_coefficients(4, torch.Generator().manual_seed(9))
    pde = Burgers(mesh=(50, 2))
    coarse, fine = (
        sampler.evaluate(amplitudes, torch.linspace(-1, 1, n, dtype=torch.float64))
        for n in (37, 51)
    )
    torch.testing.assert_close(pde.coefficients(coarse), fine, rtol=0, atol=1e-12)
    rough = torch.nn.functional.pad(random_values(2, 24), (1, 1))
    torch.testing.assert_close(pde.coefficients(rough)[:, ::2], rough, rtol=0, atol=1e-12)
    assert pde.coefficients(rough.float()).dtype == torch.float32


def test_observations_interpolate_the_nodal_values():
    pde = Burgers(mesh=(7, 5))
    x, t = pde.nodes.T
    values = (1 + 2 * x - t + 3 * x * t).reshape(1, *pde.solution_shape)
    points = torch.tensor([[-1, 0], [1, 1], [0.3, 0.77], [-0.51, 0.2]]).double()
    x, t = points.T
    found = pde.interpolate(values, points)
    torch.testing.assert_close(found, (1 + 2 * x - t + 3 * x * t)[None])


def test_the_halved_problem_has_half_the_cells():
    assert Burgers(0.1, mesh=(8, 6)).halved().mesh == (4, 3)
    assert Burgers(0.1, mesh=(8, 6)).halved().viscosity == 0.1
    with pytest.raises(ValueError, match="even"):
        Burgers(mesh=(8, 3)).halved()


def test_batches_do_not_change_a_solution():
    pde = Burgers(mesh=(16, 8))
    coefficients = pde.coefficients(SineSeries().sample(6, seed=1).reshape(2, 3, -1))
    solutions = pde.solve(coefficients)
    assert solutions.shape == (2, 3, 17, 9)
    torch.testing.assert_close(solutions[1, 2], pde.solve(coefficients[1, 2]))


def test_newton_that_does_not_settle_warns():
    pde = Burgers(viscosity=1e-4, mesh=(64, 1))
    start = torch.nn.functional.pad(1e3 * random_values(63), (1, 1))
    with pytest.warns(InferenceWarning, match="use more steps"):
        pde.solve(start)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Burgers(viscosity=0.0), "viscosity"),
        (lambda: Burgers(mesh=(1, 4)), "mesh"),
        (lambda: Burgers(mesh=(4, 0)), "mesh"),
        (lambda: Burgers().coefficients(torch.ones(2, 64)), "`inputs` must be zero at x = -1"),
        (lambda: Burgers().coefficients(torch.zeros(2)), "g >= 3"),
        (lambda: Burgers().coefficients(torch.full((5,), torch.nan)), "`inputs`"),
        (lambda: Burgers(mesh=(8, 4)).solve(torch.zeros(2, 8)), r"\(\*batch, 9\)"),
        (lambda: Burgers(mesh=(8, 4)).solve(torch.full((9,), torch.inf)), "`coefficients`"),
        (lambda: Burgers(mesh=(8, 4)).solve(torch.ones(9)), "zero at x = -1"),
        (lambda: Burgers().interpolate(torch.zeros(129, 65), torch.zeros(1, 3)), "`points`"),
        (lambda: Burgers(1e-3).reference(torch.tensor([0.0, 5, -5, 0])), "decades"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
