"""Small equations with a known solution."""

import math

import pytest
import torch

from probnet.pde import PDE, manufactured

WAVE = {
    1: lambda x: torch.sin(20 * x) + x,
    2: lambda x, y: torch.sin(12 * x) * torch.cos(9 * y) + x * y,
    3: lambda x, y, z: torch.sin(6 * x) * torch.cos(5 * y) + x * z,
}


def laplacian(dim):
    return {tuple(2 * int(i == j) for i in range(dim)): 1.0 for j in range(dim)}


@pytest.fixture
def problem():
    """Make (equation, solution) for a Laplacian, or for other terms."""

    def make(dim=1, terms=None, solution=None, nonlinearity=None, **options):
        u = solution or WAVE[dim]
        box, terms = [(0, 1)] * dim, terms or laplacian(dim)
        if nonlinearity is None:
            pde = PDE.linear(box, terms, 0.0, **options)
        else:
            pde = PDE.semilinear(box, terms, nonlinearity, 0.0, **options)
        return manufactured(pde, u), u

    return make


@pytest.fixture
def relative_error():
    """Relative L2 error of a posterior mean at random points of the unit box."""

    def measure(posterior, u, num_points=300):
        generator = torch.Generator().manual_seed(11)
        shape = (num_points, len(posterior.nodes))
        x = torch.rand(shape, generator=generator, dtype=torch.float64)
        truth = u(*x.unbind(1))
        error = torch.linalg.norm(posterior.mean(x) - truth)
        return float(error) / math.sqrt(float(truth.square().sum()))

    return measure
