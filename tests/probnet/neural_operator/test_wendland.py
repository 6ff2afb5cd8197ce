"""Test functions against closed forms, differences and the bias of the published rule."""

import math

import pytest
import torch

from probnet.neural_operator import WendlandTests


def unit_tests(num_dims, **options):
    return WendlandTests(radius=1.0, num_dims=num_dims, **options)


@pytest.mark.parametrize("num_dims", [1, 2])
def test_the_function_is_one_at_the_centre_and_zero_from_the_rim(num_dims):
    tests = unit_tests(num_dims)
    axis = torch.tensor([0.0, 1.0, 1.5]).double()
    points = torch.zeros(3, num_dims).double()
    points[:, 0] = axis
    torch.testing.assert_close(tests.value(points), torch.tensor([1.0, 0.0, 0.0]).double())
    assert not tests.gradient(points).any()


@pytest.mark.parametrize("num_dims", [1, 2])
def test_the_gradient_is_that_of_central_differences(num_dims):
    """In the units of ξ: offsets are divided by the radius."""
    tests = WendlandTests(radius=0.3, num_dims=num_dims)
    generator = torch.Generator().manual_seed(0)
    points = 0.6 * (torch.rand(40, num_dims, generator=generator).double() - 0.5)
    step = 1e-5
    for axis in range(num_dims):
        shift = torch.zeros(num_dims).double()
        shift[axis] = step
        ahead, behind = (tests.value((points + s * shift) / 0.3) for s in (1, -1))
        differences = (ahead - behind) / (2 * step)
        found = tests.gradient(points / 0.3)[:, axis]
        assert (found - differences).abs().max() < 1e-7


@pytest.mark.parametrize(("num_dims", "integral"), [(1, 2 / 3), (2, math.pi / 9)])
def test_the_default_rule_is_exact(num_dims, integral):
    tests = unit_tests(num_dims)
    ball = 2.0 if num_dims == 1 else math.pi
    found = ball * float((tests.weights * tests.value(tests.offsets)).sum())
    assert abs(found - integral) < 1e-8
    assert abs(tests.consistency - 1) < 1e-6
    assert abs(float(tests.weights.sum()) - 1) < 1e-12


@pytest.mark.parametrize(
    ("num_dims", "size", "kappa"),
    [(2, 5, 0.8240), (2, 6, 1.0231), (2, 8, 1.00205), (2, 9, 0.99827), (1, 10, 1.00076)],
)
def test_the_published_rule_is_biased(num_dims, size, kappa):
    assert unit_tests(num_dims, quadrature="grid", grid_size=size).consistency == pytest.approx(
        kappa, abs=1e-4
    )


def test_the_published_rule_of_49_nodes_has_the_known_bias():
    tests = WendlandTests(quadrature="grid", grid_size=7)
    assert abs(tests.consistency - 0.98763) < 1e-5
    assert len(tests.offsets) == 25


@pytest.mark.parametrize("quadrature", ["gauss", "grid"])
def test_residuals_of_a_solution_vanish_only_under_the_exact_rule(quadrature):
    """s = -10 (x/3, 2y/3) has -∇·s = 10."""
    tests = WendlandTests(num_centres=20, radius=0.1, quadrature=quadrature)
    generator = torch.Generator().manual_seed(0)
    centres = tests.draw_centres((0, 0), (1, 1), generator, dtype=torch.float64)
    points = tests.points(centres)
    flux = -10 * points * torch.tensor([1 / 3, 2 / 3], dtype=torch.float64)
    bump = float((tests.weights * tests.value(tests.offsets)).sum())
    relative = tests.residuals(flux, 10.0) / (10 * bump)
    if quadrature == "gauss":
        assert relative.abs().max() < 1e-12
    else:
        torch.testing.assert_close(relative, torch.full_like(relative, tests.consistency - 1))


def test_centres_fill_every_stratum_and_keep_their_distance():
    tests = WendlandTests(num_centres=50, radius=0.1)
    centres = tests.draw_centres((0, -1), (1, 1), torch.Generator().manual_seed(0))
    inner = (centres.double() - torch.tensor([0.1, -0.9])) / torch.tensor([0.8, 1.8])
    for column in inner.T:
        assert sorted((50 * column).floor().int().tolist()) == list(range(50))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"num_centres": 0}, "num_centres"),
        ({"radius": 0.0}, "radius"),
        ({"num_dims": 3}, "num_dims"),
        ({"quadrature": "midpoint"}, "quadrature"),
        ({"grid_size": 2}, "grid_size"),
    ],
)
def test_bad_arguments_are_refused(options, name):
    with pytest.raises(ValueError, match=name):
        WendlandTests(**options)


@pytest.mark.parametrize("radius", [0.6, 5e-5])
def test_supports_too_large_or_too_small_are_refused(radius):
    with pytest.raises(ValueError, match="`radius`"):
        WendlandTests(radius=radius).draw_centres((0, 0), (1, 1), torch.Generator())
