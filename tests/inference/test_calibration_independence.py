"""Effective sample sizes of short chains whose autocorrelation is known."""

import numpy as np
import pytest

from inference import InferenceWarning
from inference.calibration.independence import check_independence, effective_samples


def autoregression(rho, shape, seed=0):
    """Stationary chains with the lag-one autocorrelation ρ, along the last axis."""
    rng = np.random.default_rng(seed)
    x = np.empty(shape)
    x[..., 0] = rng.normal(size=shape[:-1])
    for i in range(1, shape[-1]):
        x[..., i] = rho * x[..., i - 1] + (1 - rho**2) ** 0.5 * rng.normal(size=shape[:-1])
    return x


def exact(rho, length):
    """σ²/Var(mean) of one chain."""
    lags = np.arange(1, length)
    return length / (1 + 2 * np.sum((1 - lags / length) * rho**lags))


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(400, 11, 9), (400, 2, 50)], ids=str)
def test_several_chains(rho, shape):
    """Within 15 %: 5 standard errors of the pooled variance of means, and the ranks."""
    found = effective_samples(autoregression(rho, shape))
    assert found == pytest.approx(shape[1] * exact(rho, shape[2]), rel=0.15)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.5])
def test_a_lone_chain_is_cut_in_four(rho):
    """Neighbouring pieces are a little dependent."""
    found = effective_samples(autoregression(rho, (400, 1, 99)))
    assert found == pytest.approx(exact(rho, 99), rel=0.25)


def test_warning():
    good = {"a": autoregression(0.0, (200, 1, 99)), "few": np.zeros((200, 1, 5))}
    check_independence({"a": good["a"]}, thin=3)
    assert np.isnan(effective_samples(good["few"]))
    assert np.isnan(effective_samples(autoregression(0.0, (200, 1, 11))))
    trend = np.tile(np.arange(12.0), (200, 1, 1))
    assert effective_samples(trend) < 12 / 2  # so that twelve draws can be warned of
    bad = {**good, "b": autoregression(0.6, (200, 1, 99))}
    with pytest.warns(InferenceWarning, match=r"99 draws of 'b' count for 2\d .*about 1[25]"):
        check_independence({n: bad[n] for n in ("a", "b")}, thin=3)
