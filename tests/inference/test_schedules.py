"""Step sizes over a run, and which steps are kept."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from inference.schedules import Constant, Cyclical, Polynomial


def phases(schedule, num_samples, thin=1):
    steps = schedule.num_steps(num_samples, thin)
    return [schedule.phase(k, num_samples, thin) for k in range(steps)]


@pytest.mark.parametrize("schedule", [Constant(), Polynomial()])
def test_plain_schedules_keep_every_thinth_step(schedule):
    found = phases(schedule, 4, thin=3)
    assert [p.keep for p in found] == [False, False, True] * 4
    assert not any(p.explore or p.restart for p in found)
    assert {p.cycle for p in found} == {-1}


def test_constant_factor_is_one():
    assert {p.factor for p in phases(Constant(), 5)} == {1.0}


def test_polynomial_decay_is_that_of_the_paper():
    """a(b + t)^(−γ) with a = step·b^γ."""
    factors = [p.factor for p in phases(Polynomial(offset=20.0, power=0.7), 50)]
    t = np.arange(50)
    np.testing.assert_allclose(factors, 20**0.7 * (20 + t) ** -0.7)


def test_cyclical_cosine_and_gating_by_hand():
    """M = 3 cycles of 8 steps, β = 1/4: step factor (cos(πr) + 1)/2 at r = s/8."""
    found = phases(Cyclical(num_cycles=3, exploration=0.25), num_samples=9, thin=2)
    assert len(found) == 24
    r = np.tile(np.arange(8) / 8, 3)
    np.testing.assert_allclose([p.factor for p in found], (np.cos(np.pi * r) + 1) / 2)
    assert [p.explore for p in found] == (r < 0.25).tolist()
    keep = [False, False, False, True, False, True, False, True]
    assert [p.keep for p in found] == keep * 3
    assert [p.restart for p in found] == ([True] + [False] * 7) * 3
    assert [p.cycle for p in found] == [0] * 8 + [1] * 8 + [2] * 8


@given(
    cycles=st.integers(1, 12),
    per_cycle=st.integers(1, 30),
    thin=st.integers(1, 7),
    exploration=st.floats(0, 0.97),
)
def test_a_cycle_explores_its_share_and_keeps_what_was_asked(
    cycles, per_cycle, thin, exploration
):
    schedule = Cyclical(cycles, exploration)
    found = phases(schedule, cycles * per_cycle, thin)
    length, rest = divmod(len(found), cycles)
    assert rest == 0
    assert length - 1 < per_cycle * thin / (1 - exploration) <= length + 1e-6
    for cycle in range(cycles):
        mine = found[cycle * length : (cycle + 1) * length]
        assert {p.cycle for p in mine} == {cycle}
        assert sum(p.keep for p in mine) == per_cycle
        assert not any(p.keep and p.explore for p in mine)
        explored = sum(p.explore for p in mine)
        assert [p.explore for p in mine] == [s < explored for s in range(length)]
        assert abs(explored - exploration * length) < 1
        factors = [p.factor for p in mine]
        assert factors == sorted(factors, reverse=True)
        assert factors[0] == 1
        assert factors[-1] > 0


@pytest.mark.parametrize("exploration", [0.1, 0.25, 0.5, 0.8, 0.9])
def test_cycle_length_has_no_rounding_step(exploration):
    """100 kept steps and β = 0.8 make cycles of 500 steps, not 501: 1 − 0.8 < 0.2 in binary."""
    length = Cyclical(1, exploration).num_steps(900, 1)
    assert length == round(900 / (1 - exploration))


def test_exploration_may_be_absent():
    found = phases(Cyclical(num_cycles=2, exploration=0.0), num_samples=6)
    assert len(found) == 6
    assert all(p.keep and not p.explore for p in found)


def test_samples_must_fill_the_cycles():
    with pytest.raises(ValueError, match="multiple of the 4 cycles; got 10"):
        Cyclical(num_cycles=4).num_steps(10, 1)


@pytest.mark.parametrize(
    ("kind", "options", "match"),
    [
        (Polynomial, {"offset": 0.0}, "`offset`"),
        (Polynomial, {"power": 0.5}, "`power`"),
        (Polynomial, {"power": 1.01}, "`power`"),
        (Cyclical, {"num_cycles": 0}, "`num_cycles`"),
        (Cyclical, {"exploration": -0.1}, "`exploration`"),
        (Cyclical, {"exploration": 1.0}, "`exploration`"),
        (Cyclical, {"exploration": math.nan}, "`exploration`"),
    ],
)
def test_options_out_of_range_are_named(kind, options, match):
    with pytest.raises(ValueError, match=match):
        kind(**options)
