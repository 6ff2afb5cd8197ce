"""The likelihood through the exact solver."""

import torch

from probnet.neural_operator import Burgers, Darcy2D
from probnet.neural_operator.exact import coarser, likelihood
from probnet.neural_operator.observations import check_observations

SENSORS = torch.tensor([[0.2, 0.7], [0.55, 0.4]], dtype=torch.float64)


def test_likelihood_is_gaussian_and_its_by_products_are_solutions():
    pde = Darcy2D(mesh=(8, 6))
    inputs = 1 + torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(0)).double()
    u = pde.solve(pde.coefficients(inputs))
    y = torch.tensor([0.1, 0.3], dtype=torch.float64)
    data = check_observations(pde, y, SENSORS, 0.05)
    value, product = likelihood(pde, data, lambda x: x.reshape(-1, 5, 5), keep=True)(
        inputs.flatten(1)
    )
    expected = torch.distributions.Normal(pde.interpolate(u, SENSORS), 0.05).log_prob(y).sum(-1)
    torch.testing.assert_close(value - value[0], expected - expected[0])
    torch.testing.assert_close(product, u.flatten(1))


def test_a_decoder_with_parameters_leaves_no_graph():
    """Chains turn values into arrays, which a tensor with a gradient refuses."""
    pde = Darcy2D(mesh=(4, 4))
    scale = torch.nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
    data = check_observations(pde, [0.1, 0.3], SENSORS, 0.05)
    found = likelihood(pde, data, lambda x: scale * x.reshape(-1, 2, 2), keep=True)(
        torch.ones(1, 4, dtype=torch.float64)
    )
    assert not any(part.requires_grad for part in found)


def test_coarser_problems_where_the_mesh_allows():
    assert [p.mesh for p in coarser(Darcy2D(mesh=(56, 56)))] == [(14, 14), (28, 28)]
    assert [p.mesh for p in coarser(Darcy2D(mesh=(16, 8)))] == [(8, 4)]
    assert coarser(Darcy2D(mesh=(8, 6))) == []  # a mesh of 4 x 3 knows too little
    assert coarser(Darcy2D(mesh=(15, 16))) == []
    assert [p.mesh for p in coarser(Burgers(mesh=(16, 8)))] == [(8, 4)]
