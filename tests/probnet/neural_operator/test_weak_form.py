"""Weak residuals against solutions in closed form, and against what they must not see."""

import pytest
import torch

from probnet.neural_operator import Darcy2D, MultiONet, WendlandTests
from probnet.neural_operator.weak_form import (
    candidate_gradient,
    mixed_loss,
    mixed_residuals,
    values_in_cells,
    weak_residuals,
)
from probnet.pde import Dirichlet


def support_points(tests, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tests.points(tests.draw_centres((0, 0), (1, 1), generator, dtype=torch.float64))


def layered(n=10, left=2.0, right=8.0, source=10.0):
    """a jumps at x = ½, u(0) = u(1) = 0, no flux along y: s = c - f x is continuous."""
    cells = torch.full((1, n, n), left, dtype=torch.float64)
    cells[:, n // 2 :] = right

    def integral(x):  # of (c - f t)/a(t) from 0 to x, as (coefficient of c, rest)
        low, high = x.clamp_max(0.5), (x - 0.5).clamp_min(0)
        rest = source * (low**2 / (2 * left) + (x.clamp_min(0.5) ** 2 - 0.25) / (2 * right))
        return low / left + high / right, rest

    one = torch.ones((), dtype=torch.float64)
    constant = integral(one)[1] / integral(one)[0]

    def flux(points):
        return torch.stack([constant - source * points[:, 0], 0 * points[:, 0]])[:, None]

    return cells, flux


def test_cells_are_found_by_their_points():
    cells = torch.arange(6.0).reshape(2, 3)
    points = torch.tensor(
        [[0.1, 0.1], [0.9, 0.5], [0.49, 1.0], [1.0, 0.0], [0.5, 1 / 3 + 1e-3]]
    )
    assert values_in_cells(cells, points).tolist() == [0, 4, 2, 3, 4]
    assert values_in_cells(cells.expand(4, 2, 3), points).shape == (4, 5)


def test_gradient_of_a_candidate_is_that_of_automatic_differentiation():
    """Non-zero boundary data, so that both m and g contribute."""
    pde = Darcy2D(1.0, (6, 6), Dirichlet(lambda x, y: torch.sin(x) * (1 + y**2)))
    net = MultiONet(
        num_dims=2, latent_dim=5, width=8, depth=3, sum_layers=2, initial_weight=1.0
    )
    net = net.double()
    latents = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).double()
    points = support_points(WendlandTests(3, 0.1)).reshape(-1, 2)
    cells = torch.ones(4, 6, 6, dtype=torch.float64)
    found = candidate_gradient(pde, points, *net.value_and_gradient(points, latents), cells)

    repeated = points.expand(4, -1, -1).clone().requires_grad_()
    u = torch.stack(
        [
            pde.ansatz(p)(net(p, z[None]), cells[:1])[0]
            for p, z in zip(repeated, latents, strict=True)
        ]
    )
    (expected,) = torch.autograd.grad(u.sum(), repeated)
    torch.testing.assert_close(found, expected.movedim(-1, 0))


def test_residuals_vanish_at_a_solution_with_constant_coefficient():
    """u = -f x²/(2a) is a solution with its own boundary values: the network says 0."""
    pde = Darcy2D(10.0, (8, 8), Dirichlet(lambda x, y: -10 * x**2 / 6 + y))
    tests = WendlandTests(30, 0.1)
    points = support_points(tests)
    flat, cells = points.reshape(-1, 2), torch.full((2, 8, 8), 3.0, dtype=torch.float64)
    zero = torch.zeros(2, len(flat), dtype=torch.float64)
    gradient = candidate_gradient(pde, flat, zero, torch.stack([zero, zero]), cells)
    assert weak_residuals(pde, tests, points, gradient, cells).abs().max() < 1e-13
    wrong = weak_residuals(pde, tests, points, gradient, 1.1 * cells)
    bump = (tests.weights * tests.value(tests.offsets)).sum()
    torch.testing.assert_close(wrong, (10.0 * 0.1 * bump).expand_as(wrong))


def test_source_by_cell_is_taken_from_the_point_s_cell():
    source = torch.zeros(4, 4, dtype=torch.float64)
    source[:2] = 6.0
    pde, tests = Darcy2D(source, (4, 4)), WendlandTests(12, 0.05)
    points = support_points(tests)
    none = torch.zeros(2, 1, points[..., 0].numel(), dtype=torch.float64)
    found = weak_residuals(pde, tests, points, none, torch.ones(1, 4, 4))[0]
    bump = float((tests.weights * tests.value(tests.offsets)).sum())
    left, right = points[..., 0].amax(-1) < 0.5, points[..., 0].amin(-1) > 0.5
    torch.testing.assert_close(found[left], torch.full_like(found[left], -6.0 * bump))
    assert found[right].abs().max() == 0
    assert left.any()
    assert right.any()


def test_mixed_residuals_vanish_across_a_jump():
    cells, flux = layered()
    pde, tests = Darcy2D(10.0, (10, 10)), WendlandTests(40, 0.1)
    points = support_points(tests)
    flat = points.reshape(-1, 2)
    s = flux(flat)
    gradient = s / values_in_cells(cells, flat)
    mismatch, residuals = mixed_residuals(pde, tests, points, s, gradient, cells)
    assert mixed_loss(mismatch, residuals).max() < 1e-24
    moved = cells.roll(1, dims=1)
    moved[:, 0] = cells[:, 0]
    assert mixed_loss(*mixed_residuals(pde, tests, points, s, gradient, moved)) > 1e-2


def test_mixed_loss_weighs_as_published():
    mismatch, residuals = torch.full((3, 8), 2.0), torch.full((3, 100), 0.5)
    torch.testing.assert_close(mixed_loss(mismatch, residuals), torch.full((3,), 2 + 10 * 0.25))


@pytest.mark.parametrize(("radius", "seen"), [(1e-4, False), (0.1, True)])
def test_tiny_supports_do_not_see_an_interface(radius, seen):
    """A flux that jumps at x = ½ is wrong, but balances the source on either side."""
    cells, flux = layered()
    pde, tests = Darcy2D(10.0, (10, 10)), WendlandTests(100, radius)
    points = support_points(tests)
    s = flux(points.reshape(-1, 2))
    s[0] += 3.0 * (points.reshape(-1, 2)[:, 0] > 0.5)
    largest = weak_residuals(pde, tests, points, s, torch.ones_like(cells)).abs().max()
    assert bool(largest > 1e-6) is seen


def test_parameters_of_the_network_get_gradients():
    pde, tests = Darcy2D(10.0, (8, 8)), WendlandTests(5, 0.1)
    nets = [
        MultiONet(
            num_dims=2, latent_dim=3, width=6, depth=3, sum_layers=2, initial_weight=1.0, seed=k
        ).double()
        for k in range(3)
    ]
    points, latents = support_points(tests), torch.ones(2, 3, dtype=torch.float64)
    flat, cells = points.reshape(-1, 2), torch.ones(2, 8, 8, dtype=torch.float64)
    gradient = candidate_gradient(pde, flat, *nets[0].value_and_gradient(flat, latents), cells)
    s = torch.stack([net(flat, latents) for net in nets[1:]])
    mixed_loss(*mixed_residuals(pde, tests, points, s, gradient, cells)).sum().backward()
    for net in nets:
        assert all(p.grad is not None for p in net.trunk_layers.parameters())
