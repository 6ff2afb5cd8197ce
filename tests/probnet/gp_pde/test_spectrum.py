"""Frequencies read off data."""

import math

import pytest
import torch

from probnet.gp_pde.spectrum import Peak, axis_peaks, merge_peaks

N, LENGTH = 200, 2 * math.pi
X = torch.linspace(0, LENGTH, N, dtype=torch.float64)
SPACING = LENGTH / (N - 1)


def frequencies(lines, **options):
    return [p.frequency for p in axis_peaks(lines, SPACING, 6, **options)]


def test_sinusoids_are_found_within_a_twentieth_of_a_cycle():
    lines = torch.sin(30.3 * X) + 0.2 * torch.cos(55 * X) + 3 * X - 1
    found = sorted(frequencies(lines))
    expected = [30.3 / (2 * math.pi), 55 / (2 * math.pi)]
    assert found == pytest.approx(expected, abs=0.05 / LENGTH)
    amplitudes = sorted(p.amplitude for p in axis_peaks(lines, SPACING, 6))
    assert amplitudes == pytest.approx([0.2, 1.0], rel=1e-3)


def test_the_spectrum_of_many_lines_is_averaged():
    rows = torch.linspace(-1, 1, 50, dtype=torch.float64)
    lines = torch.sin(40 * X)[:, None] * rows + torch.cos(21 * X)[:, None] * rows**2
    found = sorted(frequencies(lines))
    assert found == pytest.approx([21 / (2 * math.pi), 40 / (2 * math.pi)], abs=0.05 / LENGTH)


def test_nothing_is_found_in_zeros_straight_lines_and_noise():
    assert frequencies(torch.zeros(N).double()) == []
    assert frequencies(2 * X + 1) == []
    assert frequencies(X[:, None] * torch.linspace(0, 1, 40).double()) == []
    noise = torch.randn(N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert frequencies(noise, noise_sd=1.0) == []


def test_peaks_of_several_sources_are_merged():
    groups = [[Peak(1.0, 1.0)], [Peak(1.1, 2.0), Peak(3.0, 1.0)]]
    assert [p.frequency for p in merge_peaks(groups, 0.5)] == [1.0, 3.0]
