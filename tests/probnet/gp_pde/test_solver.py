"""The solver on manufactured solutions, in every class of equation, and its refusals."""

import math
import warnings

import numpy as np
import pytest
import torch

from probnet.gp_pde import SolverWarning, SpectralGPSolver
from probnet.pde import (
    PDE,
    Dirichlet,
    Inflow,
    Initial,
    Neumann,
    Observations,
    Periodic,
    manufactured,
)


def test_poisson_in_one_dimension(problem, relative_error):
    pde, u = problem(solution=lambda x: torch.sin(80 * x) + 0.1 * torch.cos(7 * x))
    posterior = SpectralGPSolver(grid=120).fit(pde, Dirichlet(u))
    assert relative_error(posterior, u) < 1e-6
    assert posterior.diagnostics["estimator"] == "exact conditioning"
    assert posterior.diagnostics["warnings"] == []


def test_frequencies_are_found_without_a_fit(problem):
    pde, u = problem(solution=lambda x: x * torch.sin(150 * x))
    posterior = SpectralGPSolver(grid=200).fit(pde, Dirichlet(u), method="spectrum")
    gaps = (posterior.spectrum()[0].frequency - 150 / (2 * math.pi)).abs()
    assert float(gaps.min()) < 0.05


LINEAR = {
    "variable coefficients": {(2,): lambda x: 1 + x**2, (1,): np.cos, (0,): lambda x: -x},
    "indefinite": {(2,): 1.0, (0,): 300.0},
    "small diffusion": {(2,): 1e-3, (1,): 1.0},
}


@pytest.mark.parametrize("name", LINEAR)
def test_linear_operators(problem, relative_error, name):
    pde, u = problem(terms=LINEAR[name])
    posterior = SpectralGPSolver(grid=80).fit(pde, Dirichlet(u))
    assert relative_error(posterior, u) < 1e-6


def test_divergence_form_and_neumann_data(problem, relative_error):
    pde, u = problem()
    pde = PDE.divergence_form([(0, 1)], lambda x: 1 + 0.5 * torch.sin(6 * x), 0.0)
    conditions = [
        Dirichlet(u, "x_min"),
        Neumann(lambda x: 20 * torch.cos(20 * x) + 1, "x_max"),
    ]
    posterior = SpectralGPSolver(grid=80).fit(manufactured(pde, u), conditions)
    assert relative_error(posterior, u) < 1e-6


def test_semilinear_equations_by_newton(problem, relative_error):
    pde, u = problem(nonlinearity=lambda v: v**3 - v)
    posterior = SpectralGPSolver(grid=80).fit(pde, Dirichlet(u))
    assert relative_error(posterior, u) < 1e-6
    assert posterior.diagnostics["newton_steps"] <= 4
    assert posterior.diagnostics["newton_residual"] < 1e-8


GRID = {
    "Poisson": {},
    "Helmholtz": {"terms": {(2, 0): 1.0, (0, 2): 1.0, (0, 0): 60.0}},
    "coefficients that do not separate": {
        "terms": {(2, 0): lambda x, y: 1 + x * y, (0, 2): 2.0, (1, 1): 0.3}
    },
    "Allen-Cahn": {"nonlinearity": lambda v: v**3 - v},
}


@pytest.mark.parametrize("name", GRID)
def test_equations_on_grids(problem, relative_error, name):
    pde, u = problem(2, **GRID[name])
    posterior = SpectralGPSolver(grid=32).fit(pde, Dirichlet(u))
    assert relative_error(posterior, u) < 1e-4
    assert posterior.diagnostics["warnings"] == []


def test_three_dimensions(problem, relative_error):
    pde, u = problem(3)
    errors = [
        relative_error(SpectralGPSolver(grid=n).fit(pde, Dirichlet(u)), u) for n in (12, 20)
    ]
    assert errors[1] < 1e-3
    assert errors[1] < errors[0] / 3


def test_transport_needs_inflow_and_initial_data_only(problem, relative_error):
    pde, u = problem(
        2,
        {(1, 0): 3.0, (0, 1): 1.0},
        lambda x, t: torch.sin(5 * (x - 3 * t)),
        axis_names=("x", "t"),
    )
    posterior = SpectralGPSolver(grid=40).fit(pde, [Initial(u), Inflow(u, ["x_min"])])
    assert relative_error(posterior, u) < 2e-3
    with pytest.raises(ValueError, match="must number 1 on axis 'x'"):
        SpectralGPSolver(grid=20).fit(pde, Dirichlet(u))


def test_heat_equation_on_a_space_time_grid(problem, relative_error):
    pde, u = problem(
        2,
        {(0, 1): 1.0, (2, 0): -0.1},
        lambda x, t: torch.sin(7 * x) * torch.exp(-t),
        axis_names=("x", "t"),
    )
    posterior = SpectralGPSolver(grid=32).fit(pde, [Initial(u), Dirichlet(u)])
    assert relative_error(posterior, u) < 1e-4


def test_periodic_equations(problem, relative_error):
    turn = 2 * math.pi
    pde, u = problem(1, {(2,): 1.0, (0,): -1.0}, lambda x: torch.cos(turn * (9 * x - 0.1)))
    posterior = SpectralGPSolver(grid=48).fit(pde, Periodic())
    assert relative_error(posterior, u) < 1e-6


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constant_solutions(problem, dim, value):
    pde, u = problem(dim, solution=lambda x, *_: 0 * x + value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        posterior = SpectralGPSolver(grid=20).fit(pde, Dirichlet(u))
    x = torch.full((1, dim), 0.37)
    assert float(posterior.mean(x)) == pytest.approx(value, abs=1e-6)
    assert float(posterior.sd(x)) > 0


@pytest.mark.parametrize(("dim", "grid"), [(1, 32), (1, 48), (2, 32)])
def test_aliases_are_reported(problem, dim, grid):
    fast = {1: lambda x: torch.sin(160 * x), 2: lambda x, y: torch.sin(160 * x) * torch.sin(y)}
    pde, u = problem(dim, solution=fast[dim])
    with pytest.warns(SolverWarning, match=r"alias"):
        posterior = SpectralGPSolver(grid=grid).fit(pde, Dirichlet(u))
    assert posterior.diagnostics["warnings"]


def test_resonances_are_reported_and_singular_operators_refused(problem):
    k = math.pi**2
    pde, u = problem(1, {(2,): 1.0, (0,): k * (1 + 1e-6)}, torch.exp)
    with pytest.warns(SolverWarning, match="near-singular"):
        SpectralGPSolver(grid=40).fit(pde, Dirichlet(u))
    pde, u = problem(2)
    with pytest.raises(ValueError, match="undetermined up to a constant"):
        SpectralGPSolver(grid=12).fit(pde, Neumann(0.0))


def test_newton_that_does_not_converge_is_reported(problem):
    pde, u = problem(nonlinearity=lambda v: 50 * torch.exp(v))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        SpectralGPSolver(grid=40, max_newton=1).fit(pde, Dirichlet(u))
    assert any("has not converged" in str(warning.message) for warning in caught)


REFUSED = {
    "few nodes": ({"grid": 6}, Dirichlet(0.0), "at least 8 nodes"),
    "axes": ({"grid": (9, 9)}, Dirichlet(0.0), "must have 1 entries"),
    "array": ({"grid": 9}, Dirichlet([0.0, 1.0]), "must have shape"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused(problem, name):
    settings, conditions, message = REFUSED[name]
    pde, _ = problem()
    with pytest.raises(ValueError, match=message):
        SpectralGPSolver(**settings).fit(pde, conditions)


def test_bad_data_and_settings_are_refused(problem):
    pde, _ = problem(2)
    corners = [Dirichlet(0.0, "x_min"), Dirichlet(1.0, ["x_max", "y_min", "y_max"])]
    with pytest.raises(ValueError, match="contradict each other where faces meet"):
        SpectralGPSolver(grid=12).fit(pde, corners)
    source = np.full((12, 12), np.nan)
    broken = PDE.linear([(0, 1)] * 2, {(2, 0): 1.0, (0, 2): 1.0}, source)
    with pytest.raises(ValueError, match="`source` holds 144 non-finite"):
        SpectralGPSolver(grid=12).fit(broken, Dirichlet(0.0))
    outside = Observations([[0.5, 1.5]], [0.0], 0.1)
    with pytest.raises(ValueError, match=r"`observations.x` must lie in the domain"):
        SpectralGPSolver(grid=12).fit(pde, Dirichlet(0.0), observations=outside)
    with pytest.raises(ValueError, match="`smoothness` must be"):
        SpectralGPSolver(smoothness=1.5)
    with pytest.raises(TypeError, match="takes no option"):
        SpectralGPSolver(grid=12).fit(pde, Dirichlet(0.0), num_chains=2)


def test_noise_is_a_likelihood(problem):
    """Noisy source, boundary and observations in closed form; intervals cover the truth."""
    pde, u = problem(2, solution=lambda x, y: torch.sin(4 * x) * torch.cos(3 * y))
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(40, 2, generator=generator, dtype=torch.float64)
    noise = torch.randn(40, generator=generator, dtype=torch.float64)
    data = Observations(x, u(*x.unbind(1)) + 0.1 * noise, 0.1)
    pde = type(pde)(pde.domain, pde.terms, pde.source, source_noise_sd=0.5)
    solver = SpectralGPSolver(grid=10)
    posterior = solver.fit(pde, Dirichlet(u, noise_sd=0.1), observations=data)
    points = torch.rand(100, 2, generator=generator, dtype=torch.float64)
    law = posterior.predict(points, observation=False)
    assert (
        float(((law.mean - u(*points.unbind(1))).abs() < 3 * law.stddev).double().mean()) > 0.9
    )
    total = posterior.predict(points).variance
    torch.testing.assert_close(total, law.variance + 0.01)


def test_results_are_bit_equal(problem):
    pde, u = problem(2)
    x = torch.rand(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    runs = [SpectralGPSolver(grid=16).fit(pde, Dirichlet(u), seed=3) for _ in range(2)]
    for read in (lambda p: p.mean(x), lambda p: p.sd(x), lambda p: p.sample(4, x, seed=1)):
        assert torch.equal(read(runs[0]), read(runs[1]))
