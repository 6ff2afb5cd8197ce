"""Default mode and the published objective side by side, on the published problems.

Relative L2 errors on 300 points per axis; CPU-seconds of one thread, in one process.
"""

import math
import time

import pytest
import torch

from probnet.gp_pde import SpectralGPSolver
from probnet.pde import PDE, Dirichlet, manufactured

TURN = 2 * math.pi
CASES = {  # dimensions, length, nodes, solution, steps of Adam, bound on the default's error
    "P1": (1, TURN, 400, lambda x: torch.sin(100 * x), 500, 1e-6),
    "P5": (
        1,
        1.0,
        400,
        lambda x: torch.sin(500 * x) - 2 * (x - 0.5) ** 2,
        500,
        1e-4,
    ),
    "P6": (2, TURN, 400, lambda x, y: torch.sin(100 * x) * torch.sin(100 * y), 100, 1e-6),
}


def timed(solver, *arguments, **options):
    clock = time.process_time()
    posterior = solver.fit(*arguments, **options)
    return posterior, time.process_time() - clock


@pytest.mark.benchmark
@pytest.mark.parametrize("name", CASES)
def test_default_beside_published(name):
    dim, length, nodes, u, num_steps, bound = CASES[name]
    terms = {tuple(2 * int(i == j) for i in range(dim)): 1.0 for j in range(dim)}
    pde = manufactured(PDE.linear([(0, length)] * dim, terms, 0.0), u)
    solver = SpectralGPSolver(grid=nodes)
    axis = torch.linspace(0, length, 300, dtype=torch.float64)
    x = torch.cartesian_prod(*[axis] * dim).reshape(-1, dim)
    truth = u(*x.unbind(1))

    def error(posterior):
        return float((posterior.mean(x) - truth).norm() / truth.norm())

    ours, seconds = timed(solver, pde, Dirichlet(u))
    published, more = timed(
        solver, pde, Dirichlet(u), method="adam", num_steps=num_steps, progress=False
    )
    print(
        f"\n{name}: default {error(ours):.1e} in {seconds:.2f} s; published, {num_steps} "
        f"steps, {error(published):.1e} in {more:.1f} s ({more / num_steps:.3f} s per step)"
    )
    assert error(ours) < bound
    assert error(ours) < 1e-4 * error(published)
    assert seconds < more
