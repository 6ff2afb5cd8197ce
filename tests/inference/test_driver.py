"""The loop over steps: what it keeps, in which order, and what an interruption leaves."""

import numpy as np
import pytest
import torch

import inference
from inference import LogDensity, schedules
from inference.plan import Store
from inference.samplers import Info
from inference.samplers.sghmc import SGHMCState


def gaussian(dtype=torch.float64):
    return LogDensity(
        log_prior=lambda p: -p["net"]["w"].square().sum() / 2 - (p["b"] - 1).square() / 2,
        params={
            "net": {"w": torch.zeros(3, 2, dtype=dtype)},
            "b": torch.zeros((), dtype=dtype),
        },
    )


START = {"net": {"w": np.zeros((3, 2))}, "b": 1.0}


def run(target=None, data=None, **options):
    given = {"num_chains": 2, "num_warmup": 0, "num_samples": 24, "init": START}
    given |= {"step_size": 0.3, "progress": False}
    return inference.sample(target or gaussian(), data, **(given | options))


# -- draws ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_have_the_parameters_names_shapes_and_dtype(dtype):
    draws = run(gaussian(dtype))
    assert {n: a.shape for n, a in draws.draws.items()} == {
        "net.w": (2, 24, 3, 2),
        "b": (2, 24),
    }
    assert {a.dtype for a in draws.draws.values()} == {np.dtype(str(dtype)[6:])}
    assert draws.state["position"].dtype == dtype


def test_the_first_draw_is_the_start_and_the_state_is_the_draw_to_come():
    short, long = run(num_samples=10), run(num_samples=11)
    assert (short.draws["b"][:, 0] == 1).all()
    assert not short.draws["net.w"][:, 0].any()
    np.testing.assert_array_equal(short.draws["net.w"], long.draws["net.w"][:, :10])
    np.testing.assert_array_equal(
        short.state["position"][:, :6], long.draws["net.w"][:, 10].reshape(2, 6)
    )


def test_thinning_keeps_every_kth_position():
    np.testing.assert_array_equal(
        run(num_samples=8, thin=3).draws["net.w"], run().draws["net.w"][:, 2::3]
    )


def test_warmup_is_dropped_unless_asked_for():
    whole = run().draws["b"]
    dropped = run(num_warmup=15, num_samples=9)
    assert not dropped.warmup
    np.testing.assert_array_equal(dropped.draws["b"], whole[:, 15:])
    kept = run(num_warmup=15, num_samples=3, thin=3, keep_warmup=True)
    np.testing.assert_array_equal(kept.warmup["b"], whole[:, 2:15:3])
    np.testing.assert_array_equal(kept.draws["b"], whole[:, 17::3])


def test_polynomial_schedule_shrinks_the_step():
    """ε² is what decays in SGHMC, ε in SGLD; warm-up is at the full step."""
    schedule = schedules.Polynomial(offset=5.0, power=0.6)
    factors = (1 + np.arange(24) / 5) ** -0.6
    for method, power in (("sghmc", 0.5), ("sgld", 1.0)):
        found = run(method=method, schedule=schedule, num_warmup=4).sample_stats["step_size"]
        np.testing.assert_allclose(found, np.tile(0.3 * factors**power, (2, 1)))


# -- statistics ----------------------------------------------------------------------------


def test_statistics_are_those_of_the_draw_itself():
    draws = run(temperature=0.5)
    w, b = draws.draws["net.w"], draws.draws["b"]
    square = (w**2).sum((-1, -2)) + (b - 1) ** 2
    stats = draws.sample_stats
    np.testing.assert_allclose(stats["lp"], -square / 2, atol=1e-12)
    np.testing.assert_allclose(stats["grad_norm"], np.sqrt(square), atol=1e-12)
    assert (stats["step_size"] == 0.3).all()
    assert (stats["temperature"] == 0.5).all()
    assert not stats["frozen"].any()
    assert stats["frozen"].dtype == bool
    assert all(a.shape == (2, 24) for a in stats.values())


@pytest.mark.parametrize(
    ("method", "names"),
    [
        ("sgld", {"noise_clip_fraction"}),
        ("sghmc", {"noise_clip_fraction", "kinetic_temperature"}),
        ("sghmc_adaptive", {"noise_clip_fraction", "kinetic_temperature"}),
        ("sgnht", {"noise_clip_fraction", "kinetic_temperature", "thermostat"}),
    ],
)
def test_every_sampler_adds_its_own_statistics(method, names):
    common = {"lp", "grad_norm", "step_size", "temperature", "frozen"}
    found = run(method=method, num_samples=3, step_size=0.01).sample_stats
    assert set(found) == common | names


def test_the_value_of_a_minibatch_is_called_an_estimate():
    y = torch.arange(10.0).double()
    seen = []

    def log_prior(p):
        return -p["m"].square() / 2

    def log_lik(p, rows):
        if len(rows) == 4:
            m = p["m"].detach()
            seen.append((-m.square() / 2 - 10 / 4 * (rows - m).square().sum() / 2).item())
        return -(rows - p["m"]).square() / 2

    spec = LogDensity(log_prior, log_lik, params={"m": torch.zeros(()).double()})
    options = {"init": {"m": 0.0}, "num_samples": 5, "num_chains": 1, "step_size": 0.01}
    draws = run(spec, y, batch_size=4, chain_method="sequential", **options)
    assert "lp" not in draws.sample_stats
    np.testing.assert_allclose(draws.sample_stats["lp_estimate"], [seen[1:6]])
    full = run(spec, y, batch_size=10, **options)  # all the rows: no estimate
    assert "lp" in full.sample_stats


# -- order of events -----------------------------------------------------------------------


class Recorder:
    """Stands in for a sampler and notes what it is asked to do."""

    step_exponent, step_size = 1.0, 0.1

    def __init__(self, resample_every=None):
        self.resample_every = resample_every
        self.events = []

    def init(self, position, noise, settings):
        self.events.append(("init", settings.warmup))
        return SGHMCState(position, noise)

    estimates_noise = corrects_noise = False

    def coefficients(self, settings):
        return settings

    def step(self, evaluate, state, batch, noise, coefficients, *, warmup=False):
        value, gradient = evaluate(state.position, batch)
        self.events.append(("step", warmup))
        return state._replace(position=noise), Info(value, gradient)

    def refresh(self, state, noise, settings):
        self.events.append(("refresh", settings.warmup))
        return state._replace(momentum=noise)

    def statistics(self, state, settings):
        del settings
        return {"first_momentum": state.momentum[:, 0]}

    def stationary_kinetic_temperature(self, settings):
        del settings


def test_momentum_is_redrawn_every_so_many_steps_warmup_included(monkeypatch):
    recorder = Recorder(resample_every=3)
    monkeypatch.setattr("inference.request.Request.sampler", lambda self, also: recorder)
    draws = run(num_warmup=4, num_samples=5)
    warm, cold = ("step", True), ("step", False)
    assert recorder.events == [
        ("init", True), warm, warm, warm, ("refresh", True), warm,
        cold, cold, ("refresh", False), cold, cold, cold,
    ]  # fmt: skip
    momentum = draws.sample_stats["first_momentum"]
    assert (momentum[:, 0] == momentum[:, 1]).all()
    assert (momentum[:, 1] != momentum[:, 2]).all()
    assert (momentum[:, 2] == momentum[:, 4]).all()


# -- interruption --------------------------------------------------------------------------


def interrupting(at_call):
    """A log density at whose n-th evaluation somebody presses Ctrl-C."""
    calls = []

    def log_density(p):
        calls.append(1)
        if len(calls) == at_call:
            raise KeyboardInterrupt
        return -p["x"].square().sum() / 2

    return LogDensity(
        log_density=log_density, scale="sum", params={"x": torch.zeros(2).double()}
    )


def test_ctrl_c_keeps_the_draws_so_far():
    """Call 1 checks the target, call 2 the start; call 2 + k is the k-th step."""
    options = {"init": {"x": np.zeros(2)}, "num_chains": 1, "chain_method": "sequential"}
    options |= {"num_warmup": 5, "chunk_size": 4, "num_samples": 50}
    whole = run(interrupting(at_call=None), **options)
    assert whole.attrs["interrupted"] is False
    stopped = run(interrupting(at_call=2 + 20), **options)
    assert stopped.attrs["interrupted"] is True
    count = stopped.num_samples
    assert 10 <= count <= 14  # 19 steps were complete; at most a chunk of them is lost
    np.testing.assert_array_equal(stopped.draws["x"], whole.draws["x"][:, :count])
    for name, values in stopped.sample_stats.items():
        np.testing.assert_array_equal(values, whole.sample_stats[name][:, :count])
    assert len(stopped.to_datatree()["posterior"]["draw"]) == count
    assert "frozen" in stopped.sample_stats


def test_ctrl_c_before_the_first_draw_is_passed_on():
    options = {"init": {"x": np.zeros(2)}, "num_chains": 1, "chain_method": "sequential"}
    with pytest.raises(KeyboardInterrupt):
        run(interrupting(at_call=2 + 10), **options, num_warmup=30, chunk_size=4)


# -- storage -------------------------------------------------------------------------------


def test_store_fills_from_the_left_and_is_cut_at_the_end():
    store = Store(5)
    store.append({"a": np.ones((2, 2, 3)), "b": np.zeros((2, 2), dtype=int)})
    store.append({"a": 2 * np.ones((2, 1, 3)), "b": np.ones((2, 1), dtype=int)})
    found = store.finished(store.filled)
    assert found["a"].shape == (2, 3, 3)
    assert found["a"][:, :, 0].tolist() == [[1, 1, 2]] * 2
    assert found["b"].tolist() == [[0, 0, 1]] * 2
    assert found["b"].dtype == np.dtype(int)
    assert store.arrays["a"].shape == (2, 5, 3)  # allocated once


def test_total_number_of_steps_is_warmup_plus_thin_times_samples():
    """The API's definition, counted at the target: one gradient a step, two calls before."""
    calls = []

    def log_density(p):
        calls.append(1)
        return -p["x"].square().sum() / 2

    spec = LogDensity(
        log_density=log_density, scale="sum", params={"x": torch.zeros(2).double()}
    )
    run(
        spec,
        init={"x": np.zeros(2)},
        num_chains=1,
        chain_method="sequential",
        num_warmup=7,
        num_samples=5,
        thin=4,
    )
    assert len(calls) == 2 + 7 + 5 * 4
