"""What is found around a mode: draws, and the curvature that chains will meet."""

import numpy as np
import pytest
import torch

from inference import typical_set
from inference.curvature import curvature_spectrum
from inference.errors import InferenceWarning
from inference.mode import climb
from inference.typical_set import Density, explore

FLOAT = torch.float64


def surroundings(function, start):
    whole = torch.func.vmap(torch.func.grad_and_value(function))
    density = Density(function, lambda x: whole(x)[::-1])
    mode = climb(function, start)
    spectrum = curvature_spectrum(function, mode.position)
    return explore(density, mode, spectrum, seed=0), spectrum


def test_around_a_gaussian_are_its_own_draws_and_one_curvature():
    values = torch.tensor([1.0, 4.0, 100.0], dtype=FLOAT)
    mean = torch.tensor([5.0, 0.0, -3.0], dtype=FLOAT)
    near, _ = surroundings(
        lambda x: -(values * (x - mean).square()).sum() / 2, torch.zeros(3, dtype=FLOAT)
    )
    assert near.largest_curvature == pytest.approx(100)
    whitened = (near.positions - mean) * values.sqrt()
    assert whitened.shape == (16, 3)
    assert 0.7 < float(whitened.square().mean()) < 1.4  # ±3 standard errors of 48 squares


def test_curvature_that_grows_away_from_the_mode_is_met():
    """log Gamma(2, 2): the curvature is 2eˣ, 2 at the mode; eˣ has a 95 % quantile of 2.4."""
    near, spectrum = surroundings(
        lambda x: (2 * x - 2 * x.exp()).sum(), torch.zeros(6, dtype=FLOAT)
    )
    np.testing.assert_allclose(spectrum.eigenvalues, 2, rtol=1e-4)
    assert 2 * 2.4 < near.largest_curvature < 2 * 20


def test_short_chains_reach_where_the_draws_are_not_gaussian():
    """Heavy tails: Student-t, 3 degrees of freedom: 2.25 times the Laplace variance."""
    near, _ = surroundings(
        lambda x: -2 * torch.log1p(x.square() / 3).sum(), torch.zeros(30, dtype=FLOAT)
    )
    assert float(near.positions.square().mean()) > 1.25


def test_flat_directions_do_not_stop_the_search():
    near, spectrum = surroundings(
        lambda x: -x[0].square() / 2 - x[1] ** 4, torch.ones(2, dtype=FLOAT)
    )
    assert near.positions.isfinite().all()
    assert near.largest_curvature >= float(spectrum.eigenvalues[-1])


def test_a_search_that_finds_no_stable_step_warns(monkeypatch):
    """The density of log Gamma(2, 2), stiffer away from its mode, and one attempt only."""
    monkeypatch.setattr(typical_set, "_ATTEMPTS", 1)
    with pytest.warns(InferenceWarning, match="stiffer regions, as a funnel has"):
        near, spectrum = surroundings(
            lambda x: (2 * x - 2 * x.exp()).sum(), torch.zeros(6, dtype=FLOAT)
        )
    assert near.largest_curvature > float(spectrum.eigenvalues[-1])
