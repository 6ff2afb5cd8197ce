"""Error bars: calibration on an ensemble, draws from the prior, scales."""

import math

import torch

from probnet.gp_pde import SpectralGPSolver
from probnet.gp_pde.features import PriorDraws
from probnet.gp_pde.prior import AxisPrior
from probnet.pde import Dirichlet


def chirps(generator):
    """Three chirps of one to four cycles."""
    amplitude = torch.randn(3, generator=generator, dtype=torch.float64)
    speed, bend, phase = torch.rand(3, 3, generator=generator, dtype=torch.float64)
    speed, bend = 1 + 3 * speed, 4 * bend - 2

    def u(x):
        x = x[..., None]
        turns = speed * x + bend * x**2 / 2 + phase
        return (amplitude * torch.sin(2 * math.pi * turns)).sum(-1)

    return u


def test_scaled_intervals_cover_and_plain_ones_are_far_too_wide(problem):
    """Thirty random problems on 32 nodes; a smaller form of the benchmark's hundred."""
    generator = torch.Generator().manual_seed(8)
    x = torch.linspace(0, 1, 102, dtype=torch.float64)[1:-1, None]
    scaled, plain = [], []
    for _ in range(30):
        pde, u = problem(solution=chirps(generator))
        posterior = SpectralGPSolver(grid=32, max_iter=15).fit(pde, Dirichlet(u))
        z = (posterior.mean(x) - u(x[:, 0])) / posterior.sd(x)
        scaled.append(z)
        plain.append(z * posterior.scale)
    z = torch.stack(scaled)
    # Errors within a problem move together: thirty problems, thirty degrees of freedom.
    covered = float((z.abs() < 1.96).double().mean())
    assert covered > 0.95 - 3 * math.sqrt(0.05 * 0.95 / 30)
    assert 0.3 < float(z.square().mean(1).sqrt().median()) < 1.5
    assert float(torch.stack(plain).square().mean(1).sqrt().median()) < 0.3


def test_grid_errors_are_of_the_size_that_is_reported(problem):
    x = torch.rand(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sizes = []
    for k in (9.0, 14.0, 19.0):
        pde, u = problem(2, solution=lambda x, y, k=k: torch.sin(k * x + 3) * torch.cos(8 * y))
        posterior = SpectralGPSolver(grid=28).fit(pde, Dirichlet(u))
        z = (posterior.mean(x) - u(*x.unbind(1))) / posterior.sd(x)
        sizes.append(float(z.square().mean().sqrt()))
    assert all(0.05 < size < 4 for size in sizes)


def test_draws_from_the_prior_have_its_covariance():
    prior = AxisPrior(
        torch.tensor([1.0, 2.0]).double(),
        torch.tensor([0.5, 0.3]).double(),
        torch.tensor([0.0, 2.0]).double(),
        2.5,
    )
    nodes = torch.linspace(0, 1, 20, dtype=torch.float64)
    x = torch.tensor([[0.1], [0.4], [0.75]]).double()
    products = torch.zeros(3, 3, dtype=torch.float64)
    for seed in range(20):
        values = PriorDraws([prior], [nodes], 200, seed).at(x)
        products += values.mT @ values / 4000
    expected = prior.derivatives(x - x.mT, 0)[0]
    # Variance 3, 4000 draws that share frequencies in twenties of 200.
    assert (products - expected).abs().max() < 5 * 3 * math.sqrt(2 / 4000 + 2 / (20 * 512))


def test_draws_know_their_derivatives():
    prior = AxisPrior(*(torch.ones(1).double() for _ in range(3)), 2.5)
    nodes = [torch.linspace(0, 1, 9, dtype=torch.float64)] * 2
    draws = PriorDraws([prior, prior], nodes, 2, 0)
    one = torch.ones(9, 9, dtype=torch.float64)
    found = draws.operator_on_grid(nodes, {(2, 0): one, (0, 1): nodes[0][:, None] * one})
    step = 1e-4
    points = torch.cartesian_prod(*nodes)
    shift = torch.tensor([[step, 0.0], [0.0, step]]).double()
    second = draws.at(points + shift[0]) - 2 * draws.at(points) + draws.at(points - shift[0])
    first = draws.at(points + shift[1]) - draws.at(points - shift[1])
    expected = second / step**2 + points[:, 0] * first / (2 * step)
    size = float(found.abs().max())
    torch.testing.assert_close(found.reshape(2, -1), expected, rtol=0, atol=1e-3 * size)
