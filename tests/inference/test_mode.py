"""The posterior mode, against closed forms; what has no mode is refused."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

from inference.binding import bind
from inference.log_density import LogDensity
from inference.mode import climb, find_mode, full_log_density

FLOAT = torch.float64


def density(function, dim, dtype=FLOAT):
    spec = LogDensity(
        log_density=lambda p: function(p["x"]),
        scale="sum",
        params={"x": torch.zeros(dim, dtype=dtype)},
    )
    return bind(spec, None, batch_size=None, dtype=None, device=None)


@pytest.mark.parametrize("distance", [1.0, 1e4])
def test_mode_of_a_gaussian_is_its_mean(distance):
    scales = torch.logspace(-2, 2, 20, dtype=FLOAT)
    mean = torch.linspace(-1, 1, 20, dtype=FLOAT)
    target = density(lambda x: -((x - mean) / scales).square().sum() / 2, 20)
    found = find_mode(target, torch.full((20,), distance, dtype=FLOAT))
    assert (((found - mean) / scales).abs() < 2e-3).all()


def test_mode_in_unconstrained_space_counts_the_jacobian():
    """Gamma(a, b) of a positive parameter: log θ has its mode at log(a/b), not log((a−1)/b)."""
    spec = LogDensity(
        lambda p: dist.Gamma(3.0, 2.0).log_prob(p["s"]),
        params={"s": torch.ones((), dtype=FLOAT)},
        constraints={"s": constraints.positive},
    )
    target = bind(spec, None, batch_size=None, dtype=None, device=None)
    found = find_mode(target, torch.tensor([-2.0], dtype=FLOAT))
    assert float(found) == pytest.approx(math.log(3 / 2), abs=1e-6)


def test_a_narrow_bent_valley_is_followed_to_its_end():
    target = density(lambda x: -100 * (x[1] - x[0] ** 2) ** 2 - (1 - x[0]) ** 2, 2)
    found = find_mode(target, torch.tensor([-1.9, 2.0], dtype=FLOAT))
    np.testing.assert_allclose(found, [1, 1], atol=1e-4)


def test_single_precision_reaches_its_own_rounding_error():
    rows = torch.randn(2000, 5, generator=torch.Generator().manual_seed(0))
    target = density(lambda x: -(rows - x).square().sum() / 2, 5, torch.float32)
    found = find_mode(target, torch.full((5,), 2.0))
    assert found.dtype == torch.float32
    assert ((found - rows.mean(0)).abs() < 0.01 / 2000**0.5).all()


def test_the_mode_uses_all_the_data_whatever_the_batch():
    y = torch.linspace(0, 9, 10, dtype=FLOAT)
    spec = LogDensity(
        lambda p: 0 * p["m"],
        lambda p, rows: -(rows - p["m"]).square() / 2,
        params={"m": torch.zeros((), dtype=FLOAT)},
    )
    target = bind(spec, y, batch_size=3, dtype=None, device=None)
    assert float(find_mode(target, torch.zeros(1, dtype=FLOAT))) == pytest.approx(4.5)


def test_a_model_that_subsamples_is_averaged_over_disjoint_batches():
    y = torch.linspace(0, 9, 10, dtype=FLOAT)

    def model(y):
        m = pyro.sample("m", dist.Normal(y.new_tensor(0.0), 1e3))
        with pyro.plate("rows", 10, subsample_size=5) as i:
            pyro.sample("y", dist.Normal(m, 1.0), obs=y[i])

    target = bind(model, y, batch_size=None, dtype=None, device=None)
    point = torch.tensor([1.0], dtype=FLOAT)
    whole = dist.Normal(0.0, 1e3).log_prob(point) + dist.Normal(1.0, 1.0).log_prob(y).sum()
    assert float(full_log_density(target)(point)) == pytest.approx(float(whole))
    assert float(find_mode(target, point)) == pytest.approx(4.5, abs=1e-3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "function",
    [
        lambda x: -5 * x[0] - x[1:].square().sum() * torch.exp(-2 * x[0]) / 2,  # a funnel
        lambda x: x.sum(),
        lambda x: x.square().sum(),
    ],
    ids=["funnel", "linear", "upward"],
)
def test_a_density_without_a_mode_is_refused(function):
    with pytest.raises(ValueError, match=r"no mode was found: after \d+ gradients"):
        find_mode(density(function, 3), torch.full((3,), 0.5, dtype=FLOAT))


def test_a_start_that_is_not_finite_is_refused():
    target = density(lambda x: torch.log(x).sum(), 2)
    with pytest.raises(ValueError, match="not finite at the start"):
        find_mode(target, torch.full((2,), -1.0, dtype=FLOAT))


def test_an_ascent_that_ends_early_returns_its_best_point():
    def cliff(x):
        return torch.where(x < 2, x, torch.nan).sum()

    found = climb(cliff, torch.zeros(1, dtype=FLOAT))
    assert not found.converged
    assert 0 < float(found.position) < 2
    assert found.log_density == float(found.position)
    assert found.gradient_norm == pytest.approx(1)
