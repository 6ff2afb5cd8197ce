"""Sick chains are frozen without harm to the others."""

import warnings

import numpy as np
import pytest
import torch

import inference
from inference import AllChainsDivergedError, InferenceWarning, LogDensity
from inference.monitor import Monitor
from inference.samplers import SGLD
from inference.samplers.sghmc import SGHMCState

CPU = torch.device("cpu")


def bounded(limit):
    """A standard normal whose log density is NaN beyond a limit of its first coordinate."""

    def log_density(p):
        x = p["x"]
        return torch.where(x[0] > limit, torch.nan, -x.square().sum() / 2)

    return LogDensity(
        log_density=log_density, scale="sum", params={"x": torch.zeros(2).double()}
    )


def run(target, data=None, **options):
    given = {"num_chains": 4, "num_warmup": 0, "num_samples": 150, "step_size": 0.3}
    given |= {"init": {"x": np.zeros(2)}, "compile": False, "progress": False}
    return inference.sample(target, data, **(given | options))


# -- freezing ------------------------------------------------------------------------------


def find_incident(healthy):
    """A limit that only the most adventurous chain exceeds, that chain, and at which step."""
    first = healthy.draws["x"][..., 0]
    largest = np.sort(first.max(1))
    limit = (largest[-1] + largest[-2]) / 2
    chain = int((first > limit).any(1).argmax())
    step = int((first[chain] > limit).argmax())
    assert 10 < step < 140
    return limit, chain, step


@pytest.fixture(scope="module")
def incident():
    healthy = run(bounded(np.inf))
    return healthy, *find_incident(healthy)


@pytest.mark.parametrize(
    ("method", "chunk"), [*(("vectorized", n) for n in (1, 7, 64, 1000)), ("sequential", 7)]
)
def test_one_bad_chain_is_frozen_and_the_others_are_untouched(incident, method, chunk):
    healthy, limit, chain, step = incident
    with pytest.warns(InferenceWarning, match=rf"frozen .*\{{{chain}: {step}\}}") as caught:
        sick = run(bounded(limit), chunk_size=chunk, chain_method=method)
    assert len(caught) == 1
    others = [c for c in range(4) if c != chain]
    np.testing.assert_array_equal(sick.draws["x"][others], healthy.draws["x"][others])
    mine = sick.draws["x"][chain]
    np.testing.assert_array_equal(mine[:step], healthy.draws["x"][chain, :step])
    assert np.isnan(mine[step:]).all()
    frozen = sick.sample_stats["frozen"]
    assert frozen[chain].tolist() == [k >= step for k in range(150)]
    assert not frozen[others].any()
    for name, values in sick.sample_stats.items():
        if name != "frozen":
            assert np.isnan(values[chain, step:]).all(), name
            np.testing.assert_array_equal(values[others], healthy.sample_stats[name][others])
    assert sick.attrs["frozen_chains"] == {str(chain): step}
    np.testing.assert_array_equal(  # it rests where its last chunk began
        sick.state["position"][chain], healthy.draws["x"][chain, step // chunk * chunk]
    )


def test_a_frozen_chain_stays_frozen_when_momenta_are_redrawn():
    options = {"resample_every": 5, "chunk_size": 1, "seed": 1}
    healthy = run(bounded(np.inf), **options)
    limit, chain, step = find_incident(healthy)
    with pytest.warns(InferenceWarning, match="frozen"):
        sick = run(bounded(limit), **options)
    expected = healthy.draws["x"][:, -1].copy()
    np.testing.assert_array_equal(
        sick.state["position"][chain], healthy.draws["x"][chain, step]
    )
    expected[chain] = np.nan
    np.testing.assert_array_equal(sick.draws["x"][:, -1], expected)


def test_a_chain_lost_in_warmup_is_nan_throughout(incident):
    healthy, limit, chain, step = incident
    with pytest.warns(InferenceWarning, match=rf"\{{{chain}: {step}\}}"):
        sick = run(bounded(limit), num_warmup=145, num_samples=5)
    assert np.isnan(sick.draws["x"][chain]).all()
    others = [c for c in range(4) if c != chain]
    np.testing.assert_array_equal(sick.draws["x"][others], healthy.draws["x"][others, 145:])


@pytest.mark.parametrize("chunk", [1, 64])
def test_a_nan_gradient_of_a_finite_density_is_seen_one_step_later(chunk):
    """The draw where it happens is still good; the step from there leads nowhere."""

    def log_density(p):
        x = p["x"] * 1
        if x[0] > 1 and x.requires_grad:
            x.register_hook(lambda gradient: gradient * torch.nan)
        return -x.square().sum() / 2

    spec = LogDensity(
        log_density=log_density, scale="sum", params={"x": torch.zeros(2).double()}
    )
    with pytest.warns(InferenceWarning, match="frozen"):
        draws = run(spec, num_samples=12, chain_method="sequential", chunk_size=chunk)
    x, frozen = draws.draws["x"], draws.sample_stats["frozen"]
    beyond = [np.flatnonzero(x[chain, :, 0] > 1) for chain in range(4)]
    assert sum(len(steps) > 0 for steps in beyond) in {1, 2, 3}
    for chain, steps in enumerate(beyond):
        last_good = steps[0] if len(steps) else 12
        assert frozen[chain].tolist() == [k > last_good for k in range(12)]
        assert np.isfinite(x[chain, : last_good + 1]).all()


def test_all_chains_lost_is_an_error_with_advice():
    """A quadratic with h = ε²λ = 25 > 4: no step is stable."""
    spec = LogDensity(
        log_density=lambda p: -p["x"].square().sum() * 1250,
        scale="sum",
        params={"x": torch.zeros(2).double()},
    )
    message = r"step \d+.*`step_size` \(it is 0.1; try 0.025\)"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InferenceWarning)  # of one chain after another
        with pytest.raises(AllChainsDivergedError, match=message):
            run(spec, step_size=0.1, num_samples=1000, init={"x": np.ones(2)})


def test_check_finite_reports_chains_and_their_first_bad_step():
    monitor = Monitor(SGLD(), 3, 2, CPU)
    values, position = torch.zeros(4, 3), torch.zeros(3, 2)
    assert monitor.check_finite(values, position, 10) == []
    assert monitor.all_alive
    values[2:, 1] = torch.inf
    with pytest.warns(InferenceWarning, match=r"\{1: 22\}"):
        assert monitor.check_finite(values, position, 20) == [1]
    position[0, 1] = torch.nan
    with pytest.warns(InferenceWarning, match=r"\{0: 34\}"):  # of the step to come
        assert monitor.check_finite(values, position, 30) == [0]
    assert monitor.died_at == {1: 22, 0: 34}
    ones = SGHMCState(torch.ones(3, 2), torch.ones(3, 2))
    held = monitor.hold(ones, SGHMCState(0 * ones.position, 2 * ones.momentum))
    assert held.position[:, 0].tolist() == [0, 0, 1]
    assert held.momentum[:, 0].tolist() == [2, 2, 1]
    values[0, 2] = torch.nan
    with pytest.raises(AllChainsDivergedError, match="the last at step 40"):
        monitor.check_finite(values, position, 40)


def test_warnings_point_at_the_line_that_called_us(incident):
    with pytest.warns(InferenceWarning, match="frozen") as caught:
        run(bounded(incident[1]))
    assert {w.filename for w in caught} == {__file__}
