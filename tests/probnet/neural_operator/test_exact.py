"""The likelihood through the exact solver."""

import torch

from probnet.neural_operator import Burgers, Darcy2D
from probnet.neural_operator.exact import ExactChains, SolverLikelihood, coarser
from probnet.neural_operator.kernels import CrankNicolson
from probnet.neural_operator.observations import check_observations

SENSORS = torch.tensor([[0.2, 0.7], [0.55, 0.4]], dtype=torch.float64)


def test_likelihood_is_gaussian():
    pde = Darcy2D(mesh=(8, 6))
    inputs = 1 + torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(0)).double()
    u = pde.solve(pde.coefficients(inputs))
    y = torch.tensor([0.1, 0.3], dtype=torch.float64)
    data = check_observations(pde, y, SENSORS, 0.05)
    likelihood = SolverLikelihood(pde, data, lambda x: x.reshape(-1, 5, 5))
    value = likelihood(inputs.flatten(1))
    expected = torch.distributions.Normal(pde.interpolate(u, SENSORS), 0.05).log_prob(y).sum(-1)
    torch.testing.assert_close(value - value[0], expected - expected[0])
    torch.testing.assert_close(likelihood.solve(inputs.flatten(1)), u)
    likelihood.shift = y - pde.interpolate(u, SENSORS)[1]
    torch.testing.assert_close(float(likelihood(inputs.flatten(1))[1]), 0.0)


def test_a_decoder_with_parameters_leaves_no_graph():
    """Chains turn values into arrays, which a tensor with a gradient refuses."""
    pde = Darcy2D(mesh=(4, 4))
    scale = torch.nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
    data = check_observations(pde, [0.1, 0.3], SENSORS, 0.05)
    likelihood = SolverLikelihood(pde, data, lambda x: scale * x.reshape(-1, 2, 2))
    assert not likelihood(torch.ones(1, 4, dtype=torch.float64)).requires_grad


def test_coarser_problems_where_the_mesh_allows():
    assert [p.mesh for p in coarser(Darcy2D(mesh=(56, 56)))] == [(14, 14), (28, 28)]
    assert [p.mesh for p in coarser(Darcy2D(mesh=(64, 28)))] == [(32, 14)]
    assert coarser(Darcy2D(mesh=(20, 20))) == []  # 10 x 10 saves nothing
    assert coarser(Darcy2D(mesh=(25, 24))) == []
    assert [p.mesh for p in coarser(Burgers(mesh=(32, 24)))] == [(16, 12)]


def test_screens_are_shifted_in_warmup_and_then_let_more_pass(monkeypatch):
    """A source of few cells is blurred on the coarse mesh: a bias that a shift removes."""
    source = torch.ones(24, 24)
    source[7] = 60.0
    pde = Darcy2D(source, mesh=(24, 24))
    generator = torch.Generator().manual_seed(0)
    sensors = 0.1 + 0.8 * torch.rand(20, 2, generator=generator, dtype=torch.float64)

    def decode(x):
        return 1 + torch.sigmoid(x).reshape(-1, 2, 2)

    truth = pde.solve(pde.coefficients(decode(torch.zeros(1, 4, dtype=torch.float64))))
    data = check_observations(pde, pde.interpolate(truth, sensors)[0], sensors, 0.002)

    def rate():
        start = torch.zeros(4, 4, dtype=torch.float64)
        chains = ExactChains(pde, data, decode, CrankNicolson(4), start, num_warmup=400, seed=0)
        assert (chains.steps_per_test, chains.num_warmup) == (5, 80)
        for _ in range(140):
            chains.step()
        return float(chains.accept_rate.mean()), chains

    after, shifted = rate()
    coarse, exact = shifted._chains.num_evaluations
    assert shifted.num_solves[0] - exact == shifted.num_solves[1] - coarse > 0
    monkeypatch.setattr(ExactChains, "_shift", lambda self, positions: None)
    before, _ = rate()
    assert after > before + 0.3
