"""Projection on modes: optimality, certificates, and conjugate gradients from a guess."""

import pytest
import torch

from probnet.datasets.fields import LevelSetGRF
from probnet.neural_operator import Darcy2D
from probnet.neural_operator.galerkin import GalerkinBasis, certify, refine
from probnet.pde import Dirichlet

MESH = (14, 12)


@pytest.fixture(scope="module")
def problem():
    pde = Darcy2D(mesh=MESH, boundary=Dirichlet(lambda x, y: 0.01 * x + 0 * y))
    media = LevelSetGRF(num_nodes=15)
    train, test = (pde.coefficients(media.sample(n, seed=n)) for n in (60, 8))
    return pde, GalerkinBasis.pod(pde, pde.solve(train), 40), test


def energy_error(pde, u, a):
    error = u - pde.solve(a)
    return (error * pde.stiffness_product(error, a)).sum((-2, -1)).sqrt()


def test_the_projection_is_the_best_in_the_energy_norm(problem):
    """No other combination of the modes is nearer; the gradient of the error vanishes."""
    pde, basis, a = problem
    u = basis.leading(10).solve(a).values
    best = energy_error(pde, u, a)
    weights = 1e-3 * torch.randn(8, 10, generator=torch.Generator().manual_seed(0)).double()
    other = u + torch.einsum("br,rxy->bxy", weights, basis.modes[:10])
    assert (energy_error(pde, other, a) > best).all()
    defect = pde.residual(u, a).flatten(1) @ basis.modes[:10].flatten(1).T
    assert defect.abs().max() < 1e-12


def test_errors_fall_with_more_modes_and_never_exceed_their_bound(problem):
    pde, basis, a = problem
    exact = pde.solve(a)
    ones = torch.ones(MESH).double()
    last = torch.full((8,), torch.inf).double()
    for count in (5, 10, 20, 40):
        found = basis.leading(count).solve(a)
        errors = energy_error(pde, found.values, a)
        assert (errors <= last).all()
        last = errors
        gap, u = found.values - exact, found.values
        slopes = [(v * pde.stiffness_product(v, ones)).sum((-2, -1)).sqrt() for v in (gap, u)]
        relative = slopes[0] / slopes[1]
        assert (relative <= found.error_bound).all()
        assert (found.error_bound <= 2 * relative).all()  # the contrast of a bounds the slack


def test_all_inner_functions_together_give_the_solution():
    pde = Darcy2D(mesh=(4, 5))
    functions = torch.zeros(12, 5, 6).double()
    functions[:, 1:-1, 1:-1] = torch.eye(12).double().reshape(12, 3, 4)
    doubled = torch.cat([functions, functions[:3] + functions[3:6]])
    basis = GalerkinBasis.from_functions(pde, doubled)
    assert basis.num_modes == 12
    a = 1 + torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(basis.solve(a).values, pde.solve(a))


def test_the_exact_solution_is_certified_as_such(problem):
    pde, _, a = problem
    assert (certify(pde, pde.solve(a), a).error_bound < 1e-10).all()
    wrong = pde.lifted + 1.1 * (pde.solve(a) - pde.lifted)
    assert (certify(pde, wrong, a).error_bound > 0.01).all()
    assert (certify(pde, pde.solve(a).float(), a).error_bound < 1e-3).all()


def test_no_certificate_for_values_that_are_wrong_on_the_boundary(problem):
    """A constant more has the same residual inside, and is no solution."""
    pde, _, a = problem
    shifted = pde.solve(a) + 1.0
    assert pde.residual(shifted, a)[:, 1:-1, 1:-1].abs().max() < 1e-12
    for call in (lambda: certify(pde, shifted, a), lambda: refine(pde, shifted, a, 2)):
        with pytest.raises(ValueError, match="differ by up to 1"):
            call()


def test_a_solution_that_is_zero_is_certified():
    pde, a = Darcy2D(0.0, (4, 4)), torch.ones(2, 4, 4, dtype=torch.float64)
    assert refine(pde, torch.zeros(2, 5, 5), a, 3).error_bound.tolist() == [0.0, 0.0]


def test_conjugate_gradients_converge_at_the_rate_of_the_contrast(problem):
    """Contrast 2: after k steps the energy error is at most 2 ((√2 - 1)/(√2 + 1))ᵏ times."""
    pde, basis, a = problem
    guess = basis.leading(5).solve(a).values
    start = energy_error(pde, guess, a)
    rate = (2**0.5 - 1) / (2**0.5 + 1)
    for steps in (0, 1, 2, 4, 8):
        found = refine(pde, guess, a, steps)
        assert (energy_error(pde, found.values, a) <= 2 * rate**steps * start + 1e-14).all()
    exact = pde.solve(a)
    torch.testing.assert_close(refine(pde, exact, a, 3).values, exact)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda pde: GalerkinBasis(pde, torch.zeros(2, 3, 3)), "`modes` must have shape"),
        (lambda pde: GalerkinBasis(pde, torch.ones(2, 15, 13)), "vanish on the boundary"),
        (lambda pde: GalerkinBasis.pod(pde, torch.zeros(2, 3, 3), 1), "`solutions`"),
        (
            lambda pde: GalerkinBasis.pod(
                pde, pde.solve(torch.ones(3, *MESH) + torch.arange(3)[:, None, None]), 5
            ),
            "rank",
        ),
    ],
)
def test_bad_modes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(Darcy2D(mesh=MESH))
