"""Convergence figures: against closed forms, and whichever ArviZ computes them."""

import arviz
import numpy as np
import pytest
from scipy import stats

from inference import diagnostics

ARVIZ_1 = int(arviz.__version__.split(".")[0]) >= 1


@pytest.fixture(params=["installed", "arviz-stats"])
def _each_arviz(request, monkeypatch):
    """Run a test with the installed ArviZ, and by the code for ArviZ 1.x."""
    if request.param == "arviz-stats":
        pytest.importorskip(
            "arviz_stats", reason="ArviZ 1.x computes by arviz-stats, which is not installed"
        )
        monkeypatch.setattr(diagnostics, "_major", lambda: 1)


def autoregressive(rho, shape, seed=0):
    """Stationary chains with unit variance: ESS is draws·(1 − ρ)/(1 + ρ)."""
    rng = np.random.default_rng(seed)
    values = np.empty(shape)
    values[:, 0] = rng.normal(size=(shape[0], *shape[2:]))
    for t in range(1, shape[1]):
        noise = rng.normal(size=(shape[0], *shape[2:]))
        values[:, t] = rho * values[:, t - 1] + np.sqrt(1 - rho**2) * noise
    return values


@pytest.mark.usefixtures("_each_arviz")
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_ess_of_autoregressive_chains_is_the_known_one(rho):
    found = diagnostics.ess(autoregressive(rho, (4, 4000, 2, 3)))
    assert found.shape == (2, 3)
    np.testing.assert_allclose(found, 16_000 * (1 - rho) / (1 + rho), rtol=0.2)


@pytest.mark.usefixtures("_each_arviz")
def test_rhat_tells_mixed_chains_from_chains_apart():
    mixed = autoregressive(0.3, (4, 500, 2))
    apart = mixed + np.arange(4)[:, None, None] * np.array([0.0, 1.0])
    found = diagnostics.rhat(apart)
    assert found.shape == (2,)
    assert found[0] < 1.01
    # of shifts 0, 1, 2, 3 the variance 5/3 between chains adds to 1 within them
    assert found[1] == pytest.approx((1 + 5 / 3) ** 0.5, rel=0.1)
    assert diagnostics.rhat(mixed[..., 0]).shape == ()


@pytest.mark.usefixtures("_each_arviz")
def test_figures_are_per_scalar_and_in_its_place():
    values = np.stack([autoregressive(r, (4, 500), seed=1) for r in (0.0, 0.9)], axis=-1)
    both = diagnostics.ess(values)
    assert both[0] == pytest.approx(float(diagnostics.ess(values[..., 0])), rel=1e-10)
    assert both[1] == pytest.approx(float(diagnostics.ess(values[..., 1])), rel=1e-10)
    assert both[0] > 5 * both[1]


@pytest.mark.usefixtures("_each_arviz")
@pytest.mark.parametrize("k", [0.2, 0.5, 0.9])
def test_pareto_k_is_the_shape_of_the_weights_tail(k):
    """Weights from a generalised Pareto law of shape k; 20 000 give k to about 0.1."""
    weights = stats.genpareto(k).rvs(20_000, random_state=np.random.default_rng(0))
    assert diagnostics.pareto_k(np.log(weights)) == pytest.approx(k, abs=0.12)
    assert diagnostics.pareto_k(np.log(weights) + 300) == pytest.approx(k, abs=0.12)


@pytest.mark.usefixtures("_each_arviz")
def test_pareto_k_of_a_guide_tells_too_wide_from_too_narrow():
    """Normal guides of a normal posterior: k is 1 − σ_guide² if narrower, below 0 if wider."""
    z = np.random.default_rng(0).normal(size=20_000)
    for scale, low, high in ((1.5, -np.inf, 0.1), (0.6, 0.45, 0.85), (0.3, 0.75, 1.2)):
        x = scale * z
        k = diagnostics.pareto_k(stats.norm.logpdf(x) - stats.norm(scale=scale).logpdf(x))
        assert low < k < high, (scale, k)


@pytest.mark.usefixtures("_each_arviz")
def test_equal_weights_are_the_best_there_are():
    """An exact guide: its weights differ by rounding alone, in which there is no tail."""
    assert diagnostics.pareto_k(np.full(4000, -3.5)) < 0.1
    rounding = np.random.default_rng(0).integers(-4, 5, size=4000) * 2.0**-50
    assert diagnostics.pareto_k(-3.5 + rounding) < 0.1


@pytest.mark.usefixtures("_each_arviz")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_have_no_finite_k(bad):
    log_weights = np.zeros(100)
    log_weights[3] = bad
    assert diagnostics.pareto_k(log_weights) == np.inf


def test_the_major_version_decides():
    assert (diagnostics._major() >= 1) == ARVIZ_1
