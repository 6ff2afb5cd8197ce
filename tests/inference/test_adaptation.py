"""What HMC learns in warm-up, each part against what is known."""

import itertools
import math

import numpy as np
import pytest
import torch

from inference.adaptation import DualAveraging, PooledCovariance, TrajectoryLength, slow_windows
from inference.hamiltonian import Metric, Point, Transition


def test_windows_are_stans():
    """Stan Reference Manual: 75, then 25 doubling, the last takes up the rest, then 50."""
    assert slow_windows(1000) == [(75, 100), (100, 150), (150, 250), (250, 450), (450, 950)]
    assert slow_windows(150) == [(75, 100)]
    assert slow_windows(100) == [(15, 90)]
    assert slow_windows(19) == []


@pytest.mark.parametrize("length", [20, 33, 149, 150, 151, 200, 777, 5000])
def test_windows_follow_each_other(length):
    windows = slow_windows(length)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(windows))
    assert all(start < end for start, end in windows)
    assert windows[-1][1] < length


@pytest.mark.parametrize("target", [0.6, 0.9])
def test_dual_averaging_finds_the_wanted_acceptance(target):
    """Acceptance exp(-ε), so that the answer is -log(target)."""
    averaging = DualAveraging(target, 1.0)
    step = 1.0
    for _ in range(3000):
        step = averaging.update(math.exp(-step))
    assert averaging.average == pytest.approx(-math.log(target), rel=0.03)


@pytest.mark.parametrize("dense", [False, True])
def test_pooled_covariance_is_numpys_shrunk(dense):
    positions = torch.tensor(np.random.default_rng(0).normal(3.0, 2.0, size=(10, 4, 3)))
    pooled = PooledCovariance(dense=dense, like=positions[0, 0])
    for block in positions:
        pooled.update(block)
    rows = positions.reshape(-1, 3).numpy()
    expected = np.cov(rows.T) * 40 / 45 + 1e-3 * 5 / 45 * np.eye(3)
    expected = expected if dense else np.diag(expected)
    np.testing.assert_allclose(pooled.estimate(), expected, rtol=1e-12)
    np.testing.assert_allclose(pooled.mean, rows.mean(0), rtol=1e-12)


@pytest.mark.parametrize(("start", "spread"), [(0.2, 1.0), (0.2, 5.0)])
def test_the_length_maximises_chees_of_an_oscillator(start, spread):
    """For N(0, s²) and times uniform in (0, 2τ), E Δ² ∝ ½ - sin(4τ/s)/(8τ/s).

    Its first maximum is where tan(4τ/s) = 4τ/s: τ = 1.1234 s, here with the exact flow.
    """
    rng = np.random.default_rng(0)
    metric, length = Metric(torch.ones(1).double()), TrajectoryLength(start)
    for _ in range(1500):
        num_steps = math.ceil(100 * 2 * length.current * rng.random())
        time = num_steps / 100
        x, p = (torch.tensor(rng.normal(size=(64, 1))) for _ in range(2))
        x = spread * x
        turned = x * math.cos(time / spread) + spread * p * math.sin(time / spread)
        momentum = p * math.cos(time / spread) - x / spread * math.sin(time / spread)
        none = torch.zeros(64).double()
        begin, end = Point(x, p, none, x), Point(turned, momentum, none, x)
        done = Transition(begin, end, none, none, none + 1, none > -1, 0.01, num_steps)
        length.update(done, metric, torch.zeros(1).double())
    assert length.average == pytest.approx(1.1234 * spread, rel=0.15)


def test_the_length_ignores_chains_that_broke_off():
    """And is unmoved where all did."""
    metric, length = Metric(torch.ones(1).double()), TrajectoryLength(1.0)
    x = torch.ones(2, 1).double()
    none = torch.zeros(2).double()
    wild = Point(x * 1e200, x * 1e200, none, x)
    done = Transition(Point(x, x, none, x), wild, none, none, none, none > 0, 0.1, 3)
    length.update(done, metric, torch.zeros(1).double())
    assert length.current == 1.0
