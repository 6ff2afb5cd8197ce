"""Sampled hyper-parameters."""

import pytest
import torch

from probnet.gp_pde import SpectralGPSolver
from probnet.pde import Dirichlet


def test_sampled_hyperparameters_make_a_mixture(problem):
    pde, u = problem(solution=lambda x: torch.sin(15 * x) + x)
    posterior = SpectralGPSolver(grid=16, max_components=1).fit(
        pde,
        Dirichlet(u),
        method="nuts",
        num_chains=1,
        num_warmup=15,
        num_samples=15,
        max_tree_depth=3,
    )
    x = torch.linspace(0, 1, 9, dtype=torch.float64)[:, None]
    law = posterior.predict(x)
    assert float((law.mean - u(x[:, 0])).abs().max()) < 1e-2
    assert len(posterior.solutions) == 15
    assert posterior.draws.draws["frequency"].shape == (
        1,
        15,
        len(posterior.spectrum()[0].weight),
    )


def test_several_dimensions_are_refused(problem):
    pde, u = problem(2)
    with pytest.raises(ValueError, match="in one dimension only"):
        SpectralGPSolver(grid=9).fit(pde, Dirichlet(u), method="nuts")
