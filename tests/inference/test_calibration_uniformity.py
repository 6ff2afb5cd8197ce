"""The tests of uniformity, on ranks whose law is known."""

import numpy as np
import pytest
from scipy import stats

from inference.calibration.uniformity import (
    central_coverage,
    ecdf_bands,
    uniformity_p_values,
)

COLUMNS = 2000


def ranks(seed, count=200, high=100):
    return np.random.default_rng(seed).integers(high, size=(count, COLUMNS))


@pytest.mark.parametrize(("count", "num_samples"), [(200, 99), (60, 99), (200, 50)])
def test_uniform_ranks_are_rejected_as_often_as_they_should(count, num_samples):
    """Under the null p < 0.05 in 5 % of 2000 sets (KS: at most), within four errors."""
    found = uniformity_p_values(ranks(0, count, num_samples + 1), num_samples)
    chi, ks = (found < 0.05).mean(1)
    slack = 4 * (0.05 * 0.95 / COLUMNS) ** 0.5
    assert chi == pytest.approx(0.05, abs=slack + 0.005)  # 0.005: chi-squared of counts of 5
    assert ks < 0.05 + slack


def test_chi_squared_counts_twenty_bins_of_five():
    found = uniformity_p_values(ranks(1)[:, :3], 99)
    for column in range(3):
        counts = np.bincount(ranks(1)[:, column] // 5, minlength=20)
        assert found[0, column] == pytest.approx(stats.chisquare(counts).pvalue)


@pytest.mark.parametrize(
    "law", [(2, 2), (0.5, 0.5), (1.6, 1)], ids=["wide", "narrow", "biased"]
)
def test_ranks_that_are_not_uniform_are_rejected(law):
    u = np.random.default_rng(2).beta(*law, size=(1000, 20))
    assert uniformity_p_values((100 * u).astype(int), 99).max(0).max() < 1e-3
    assert uniformity_p_values((100 * u).astype(int), 99).min(0).max() < 1e-6


def test_perfect_ranks_have_exact_coverage():
    """Every rank once: each level is met exactly, whatever the number of draws."""
    levels = (0.5, 0.8, 0.9, 0.95)
    for num_samples in (9, 50, 99):
        found = central_coverage(np.arange(num_samples + 1), num_samples, levels)
        np.testing.assert_allclose(found, levels, rtol=1e-12)


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_bands_hold_uniform_ranks_with_their_level(level):
    grid, low, high = ecdf_bands(200, 99, level)
    found = ranks(3)
    ecdf = (found[None] < np.arange(1, 100)[:, None, None]).mean(1)
    inside = ((low[:, None] <= ecdf) & (ecdf <= high[:, None])).all(0).mean()
    error = (level * (1 - level) / COLUMNS) ** 0.5
    assert inside == pytest.approx(level, abs=4 * error + 0.02)  # 0.02: counts are discrete
    assert (low < grid).all()
    assert (grid < high).all()
