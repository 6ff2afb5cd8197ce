"""Runs that end when a goal is reached."""

import numpy as np
import pytest
import torch

import inference
from inference import InferenceWarning, LogDensity, Until, diagnostics

NORMAL = LogDensity(
    log_density=lambda p: -p["x"].square().sum() / 2,
    scale="sum",
    params={"x": torch.zeros(3).double()},
)


def run(until, **options):
    given = {"num_warmup": 200, "step_size": 0.5, "seed": 1, "progress": False}
    return inference.sample(NORMAL, until=until, compile=False, **(given | options))


def test_a_goal_of_effective_draws_is_met_and_not_by_far():
    draws = run(Until(ess=800))
    x = draws.draws["x"]
    assert draws.attrs["until_reached"] is True
    assert diagnostics.ess(x).min() >= 800
    assert diagnostics.rhat(x).max() <= 1.01
    before = x[:, : int(draws.num_samples / 1.2)]
    assert diagnostics.ess(before).min() < 800 or diagnostics.rhat(before).max() > 1.01


def test_the_end_does_not_depend_on_chunks_and_draws_are_those_of_a_plain_run():
    found = run({"ess": 500, "rhat": 1.02})
    other = run({"ess": 500, "rhat": 1.02}, chunk_size=3)
    plain = run(None, num_samples=found.num_samples)
    for draws in (other, plain):
        np.testing.assert_array_equal(draws.draws["x"], found.draws["x"])


def test_a_time_budget_ends_the_run():
    draws = run(Until(seconds=0.3))
    assert draws.num_samples > 0
    assert draws.attrs["until_reached"] is True


def test_an_unreached_goal_is_said():
    with pytest.warns(InferenceWarning, match="before it reached"):
        draws = run(Until(ess=1e6), num_samples=300)
    assert draws.num_samples == 300
    assert draws.attrs["until_reached"] is False


def test_a_run_at_its_goal_is_not_made_longer_by_resuming(tmp_path):
    found = run(Until(ess=500), checkpoint=tmp_path / "run")
    again = inference.resume(tmp_path / "run", NORMAL, progress=False)
    np.testing.assert_array_equal(again.draws["x"], found.draws["x"])
    further = inference.resume(tmp_path / "run", NORMAL, until={"ess": 1000}, progress=False)
    straight = run(Until(ess=1000))
    np.testing.assert_array_equal(further.draws["x"], straight.draws["x"])


@pytest.mark.parametrize(
    ("until", "error", "message"),
    [
        ({}, ValueError, "at least one of ess, rhat and seconds"),
        ({"ess": 0}, ValueError, "until.ess"),
        ({"rhat": 0.9}, ValueError, "`until.rhat` must be above 1"),
        ({"seconds": -1}, ValueError, "until.seconds"),
        ({"minutes": 1}, TypeError, "minutes"),
        (500, TypeError, "`until` must be an inference.Until"),
    ],
)
def test_bad_goals(until, error, message):
    with pytest.raises(error, match=message):
        run(until)
