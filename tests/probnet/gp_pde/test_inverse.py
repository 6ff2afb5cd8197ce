"""Unknown coefficients and amplitudes from observations of u."""

import math

import pytest
import torch
from torch.distributions import HalfNormal, LogNormal, Normal

from probnet.gp_pde import SpectralGPSolver
from probnet.gp_pde.discretisation import discretise
from probnet.gp_pde.fit import Fit
from probnet.gp_pde.inverse import ForwardModel
from probnet.pde import PDE, Dirichlet, Initial, Observations, Periodic, Unknown

TURN = 2 * math.pi


def start(x, t):
    return torch.sin(TURN * x)


def advection(prior):
    beta = Unknown("beta", prior)
    return PDE.linear([(0, 1)] * 2, {(1, 0): beta, (0, 1): 1.0}, 0.0, axis_names=("x", "t"))


def observations(beta, count=25, noise_sd=0.1):
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    noise = torch.randn(count, generator=generator, dtype=torch.float64)
    y = start(x[:, 0] - beta * x[:, 1], 0) + noise_sd * noise
    return x, y


def test_sensitivities_match_finite_differences():
    """∂u/∂θ of (D u')' = A f + ... for a coefficient and an amplitude, semilinear."""
    unknowns = {"D": torch.tensor(1.2).double(), "A": torch.tensor(0.7).double()}
    pde = PDE.semilinear(
        [(0, 1)],
        {(2,): Unknown("D", LogNormal(0.0, 1.0))},
        lambda u: -(u**3),
        Unknown("A", Normal(0.0, 1.0), times=lambda x: torch.sin(5 * x)),
    )
    problem = discretise(pde, Dirichlet(lambda x: x), (24,), unknown=unknowns)
    fit = Fit(SpectralGPSolver(grid=24), problem, "nuts", 0)
    prior, _ = fit.choose_prior(*fit.linear_part())
    x = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)[:, None]
    forward = ForwardModel(fit, prior, x)
    for name, value in unknowns.items():
        leaves = {n: v.clone().requires_grad_() for n, v in unknowns.items()}
        u = forward(leaves)
        slopes = torch.stack(
            [torch.autograd.grad(u[i], leaves[name], retain_graph=True)[0] for i in range(5)]
        )
        step = 1e-5
        up, down = (forward({**unknowns, name: value + s * step}) for s in (1, -1))
        torch.testing.assert_close(slopes, (up - down) / (2 * step), rtol=1e-5, atol=1e-7)


def test_a_speed_is_recovered_with_its_uncertainty():
    """The posterior of beta against quadrature over the exact solution."""
    x, y = observations(0.8)
    grid = torch.linspace(0.5, 1.1, 2001, dtype=torch.float64)
    u = start(x[:, 0] - grid[:, None] * x[:, 1], 0)
    log_posterior = -((u - y) ** 2).sum(1) / (2 * 0.01)
    log_posterior = log_posterior + LogNormal(0.0, 0.5).log_prob(grid)
    weight = torch.softmax(log_posterior, 0)
    mean = float((weight * grid).sum())
    sd = math.sqrt(float((weight * (grid - mean) ** 2).sum()))
    posterior = SpectralGPSolver(grid=16).fit(
        advection(LogNormal(0.0, 0.5)),
        [Periodic("x"), Initial(start)],
        observations=Observations(x, y, 0.1),
        method="nuts",
        num_chains=1,
        num_warmup=60,
        num_samples=150,
    )
    beta = posterior.draws.draws["beta"].reshape(-1)
    assert abs(beta.mean() - mean) < 0.5 * sd  # five standard errors at 100 effective draws
    assert 0.7 * sd < beta.std() < 1.4 * sd
    law = posterior.predict(x[:3], observation=False)
    assert float((law.mean - start(x[:3, 0] - 0.8 * x[:3, 1], 0)).abs().max()) < 0.1
    assert posterior.to_datatree()["posterior"]["beta"].dims == ("chain", "draw")


def test_the_noise_is_inferred_where_it_has_a_prior():
    x, y = observations(0.8, noise_sd=0.2)
    posterior = SpectralGPSolver(grid=12).fit(
        advection(Normal(1.0, 0.3)),
        [Periodic("x"), Initial(start)],
        observations=Observations(x, y, HalfNormal(1.0)),
        method="nuts",
        num_chains=1,
        num_warmup=50,
        num_samples=60,
    )
    assert 0.1 < float(posterior.draws.draws["noise_sd"].mean()) < 0.4


def test_what_is_missing_is_asked_for():
    pde, data = advection(LogNormal(0.0, 0.5)), Observations(*observations(0.8), 0.1)
    solver, conditions = SpectralGPSolver(grid=12), [Periodic("x"), Initial(start)]
    with pytest.raises(ValueError, match="must be 'nuts'"):
        solver.fit(pde, conditions, observations=data)
    with pytest.raises(ValueError, match="`observations` are needed"):
        solver.fit(pde, conditions, method="nuts")
    noisy = [Periodic("x"), Initial(start, noise_sd=0.1)]
    with pytest.raises(ValueError, match="must be 0 where unknowns are inferred"):
        solver.fit(pde, noisy, observations=data, method="nuts")
