"""The published objective and optimiser."""

import math

import pytest
import torch

from probnet.gp_pde import SpectralGPSolver
from probnet.pde import PDE, Dirichlet, Neumann, manufactured


def test_the_published_trajectory_is_reproduced():
    """Relative L2 error after 1, 10 and 39 steps on u'' = f, u = sin 100x, as released."""
    u = lambda x: torch.sin(100 * x)  # noqa: E731
    pde = manufactured(PDE.linear([(0, 2 * math.pi)], {(2,): 1.0}, 0.0), u)
    x = torch.linspace(0, 2 * math.pi, 300, dtype=torch.float64)
    errors = {}

    def record(step, solution):
        if step in {1, 10, 39}:
            gap = solution.mean(x[:, None]) - u(x)
            errors[step] = float(gap.norm() / u(x).norm())

    SpectralGPSolver(grid=400).fit(
        pde, Dirichlet(u), method="adam", num_steps=39, callback=record, progress=False
    )
    expected = {1: 0.98720, 10: 0.87859, 39: 0.58764}
    assert errors == pytest.approx(expected, abs=1e-4)


def test_other_conditions_and_bad_options_are_refused(problem):
    pde, u = problem()
    conditions = [Neumann(0.0, "x_min"), Dirichlet(u, "x_max")]
    with pytest.raises(ValueError, match="Dirichlet data only"):
        SpectralGPSolver(grid=9).fit(pde, conditions, method="adam")
    with pytest.raises(ValueError, match="frequency_bound"):
        SpectralGPSolver(grid=9).fit(pde, Dirichlet(u), method="adam", frequency_bound=-1.0)
