"""The search for a step: within its budget, at the optimum, and no further than it must."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference import linear_theory
from inference.step_budget import choose


def baoa(values, step, friction, variance):
    del variance
    return linear_theory.baoa(values, step, friction)


def symplectic(values, step, friction, variance):
    del variance
    return linear_theory.symplectic(values, step, friction)


def best(step_of, values, variance, bias=0.03, **options):
    limit = (2 / values.max()) ** 0.5
    decay = 3.0 if step_of is baoa else 0.99
    return choose(
        step_of, values, variance, largest_step=limit, largest_decay=decay, bias=bias, **options
    )


def test_friction_balances_means_and_variances_without_noise():
    """For small steps the slower of 2a/λ and a/λ + 1/a per time is shortest at a = √λ."""
    values = np.array([1.0, 50.0, 1000.0])
    found = best(baoa, values, 0 * values)
    assert found.step_size == pytest.approx((2 / 1000) ** 0.5, rel=0.02)
    assert found.friction == pytest.approx(1, rel=0.05)
    assert found.prediction.autocorrelation.max() == pytest.approx(
        2 / found.step_size, rel=0.03
    )


spectra = st.lists(st.floats(-3, 3), min_size=1, max_size=60)


@settings(max_examples=15, deadline=None)
@given(
    logs=spectra,
    noise=st.floats(0.0, 300.0),
    bias=st.sampled_from([0.01, 0.1]),
    step_of=st.sampled_from([baoa, symplectic]),
)
def test_any_spectrum_keeps_to_the_budget_in_every_direction(logs, noise, bias, step_of):
    """Noise V = r λ, as for minibatches of one row in r."""
    values = np.sort(10.0 ** np.array(logs))
    variance = noise * values
    found = best(step_of, values, variance, bias)
    assert (np.abs(found.prediction.inflation) <= bias * (1 + 1e-6)).all()
    assert found.step_size**2 * values[-1] <= 2 * (1 + 1e-9)
    assert np.isfinite(found.prediction.autocorrelation).all()


@pytest.mark.parametrize("step_of", [baoa, symplectic])
def test_the_budget_is_used_up_and_twice_the_step_breaks_it(step_of):
    values = np.array([1.0, 10.0, 100.0])
    found = best(step_of, values, 40 * values)
    assert np.abs(found.prediction.inflation).max() > 0.8 * 0.03
    step = step_of(values, 2 * found.step_size, found.friction, 40 * values)
    doubled = linear_theory.predict(step, values, 40 * values)
    assert np.abs(doubled.inflation).max() > 1.5 * 0.03


@pytest.mark.parametrize("noise", [0.0, 5.0, 40.0])
def test_no_step_of_a_fine_grid_mixes_better(noise):
    values = np.array([1.0, 10.0, 100.0])
    found = best(baoa, values, noise * values)
    step = np.geomspace(1e-4, (2 / 100) ** 0.5, 120)[:, None, None]
    decay = np.geomspace(1e-4, 3, 120)[None, :, None]
    all_steps = linear_theory.baoa(values, step, decay / step)
    grid = linear_theory.predict(all_steps, values, noise * values)
    within = (np.abs(grid.inflation) <= 0.03).all(-1)
    shortest = np.where(within, grid.autocorrelation.max(-1), np.inf).min()
    assert found.prediction.autocorrelation.max() <= 1.05 * shortest


def test_shares_count_only_the_variances_of_the_parameters():
    """A stiff direction with a hundredth of every parameter's variance may be hotter."""
    values = np.array([1.0, 100.0])
    variance = np.array([0.0, 4000.0])
    shares = np.array([[0.99, 0.01], [0.985, 0.015]])
    strict = best(baoa, values, variance)
    loose = best(baoa, values, variance, shares=shares)
    assert strict.prediction.inflation.max() <= 0.03
    assert (shares @ loose.prediction.inflation).max() == pytest.approx(0.03, rel=0.1)
    assert loose.prediction.autocorrelation.max() < strict.prediction.autocorrelation.max() / 4


def test_noise_beyond_every_step_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"no step size keeps .* Raise `batch_size`"):
        best(baoa, np.array([1.0]), np.array([1e12]))
