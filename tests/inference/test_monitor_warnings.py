"""Warnings of chains that are too hot or too cold, and of noise that is clipped."""

import re

import numpy as np
import pytest
import torch

import inference
from inference import InferenceWarning, LogDensity
from inference.monitor import Monitor
from inference.samplers import SGHMC, Settings

CPU = torch.device("cpu")
GAUSSIAN = LogDensity(
    log_density=lambda p: -p["x"].square().sum() / 2,
    scale="sum",
    params={"x": torch.zeros(2).double()},
)


def run(target, data=None, **options):
    given = {"num_chains": 4, "num_warmup": 0, "num_samples": 150, "step_size": 0.3}
    given |= {"init": {"x": np.zeros(2)}, "progress": False}
    return inference.sample(target, data, **(given | options))


ROWS = torch.tensor(np.random.default_rng(0).normal(scale=1.0, size=(400, 2)))


def location():
    """y_i ~ N(x, 1), x ~ N(0, I), of which 20 of 400 rows give a noisy gradient."""
    return LogDensity(
        log_prior=lambda p: -p["x"].square().sum() / 2,
        log_lik=lambda p, y: (y * p["x"]).sum(-1) - p["x"].square().sum() / 2,
        params={"x": torch.zeros(2).double()},
    )


def noisy_run(step_size, **options):
    given = {"batch_size": 20, "step_size": step_size, "friction": 20.0, "num_samples": 200}
    return run(location(), ROWS, **(given | options))


def test_hot_chains_are_told_a_step_that_cools_them():
    """The step is cut in proportion to an excess of 10 %, for gradient noise heats by εV/(2a).

    At large aε it heats less, so the excess may stay somewhat higher: up to 30 % here.
    """
    with pytest.warns(InferenceWarning, match="kinetic temperature") as caught:
        draws = noisy_run(0.05)
    assert len(caught) == 1
    message = str(caught[0].message)
    ratio = float(re.search(r"is ([\d.e+]+) times", message)[1])
    suggested = float(re.search(r"to about ([\d.e-]+),", message)[1])
    assert ratio > 2
    assert suggested == pytest.approx(0.05 * 0.1 / (ratio - 1), rel=0.05)
    assert draws.sample_stats["kinetic_temperature"].mean() == pytest.approx(ratio, rel=0.5)
    cooler = noisy_run(suggested, num_warmup=150, num_chains=64)  # and no warning
    kinetic = cooler.sample_stats["kinetic_temperature"].mean(1)
    error = 4 * kinetic.std(ddof=1) / 8
    assert 1 - error < kinetic.mean() < 1.3 + error


def test_an_unstable_step_is_told_to_shrink_and_not_to_vanish():
    spec = LogDensity(
        log_density=lambda p: -p["x"].square().sum() * 50,
        scale="sum",
        params={"x": torch.zeros(2).double()},
    )
    with pytest.warns(InferenceWarning, match=r"Reduce `step_size` to about 0\.052,") as caught:
        run(spec, step_size=0.21, num_samples=300)  # h = 4.4
    assert all(len(str(w.message)) < 400 for w in caught)


def test_cold_chains_are_told_to_warm_up_longer():
    """Started at rest and hardly damped, the adaptive form takes 1/α steps to gain its heat."""
    with pytest.warns(InferenceWarning, match=r"too cold.*Warm up longer") as caught:
        run(
            GAUSSIAN, method="sghmc_adaptive", momentum_decay=1e-3, step_size=0.01,
            num_samples=200, num_chains=64,
        )  # fmt: skip
    assert len(caught) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"step_size": 0.3},
        {"step_size": 0.1, "integrator": "symplectic", "friction": 9.0},
        {"step_size": 0.1, "method": "sghmc_adaptive", "num_warmup": 300},
        {"step_size": 0.1, "method": "sgnht"},
        {"step_size": 0.1, "method": "sgld"},
        {"step_size": 0.3, "temperature": 0.1, "num_warmup": 100},
        {"step_size": 0.3, "temperature": 0.0},
        {"step_size": 0.1, "method": "csghmc", "num_samples": 120},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_healthy_runs_are_not_warned_of(options):
    """α = 0.9 of the second makes a momentum of 1.8 T, which is as it should be there."""
    run(GAUSSIAN, **({"num_samples": 200} | options))


def fed(ratio, *, chains=4, dim=50, steps=200, expected=1.0):
    """A monitor that saw a constant kinetic temperature."""
    monitor = Monitor(SGHMC(), chains, dim, CPU)
    seen = torch.full((steps, chains), ratio * expected)
    monitor.record({"kinetic_temperature": seen})
    return monitor


def test_kinetic_warnings_wait_for_a_hundred_steps_and_come_once():
    settings = Settings(0.01, 1.0, warmup=False)
    fed(5.0, steps=99).check_kinetic(settings, 1)
    monitor = fed(5.0, steps=50)
    with pytest.warns(InferenceWarning, match="5 times"):
        monitor.check_kinetic(settings, 2)
    monitor.check_kinetic(settings, 2)
    fed(1.9).check_kinetic(settings, 1)
    fed(0.55).check_kinetic(settings, 1)
    with pytest.warns(InferenceWarning, match="too cold"):
        fed(0.45).check_kinetic(settings, 1)


def test_a_chance_excess_is_not_warned_of():
    """One coordinate of one chain over 200 steps: 2 independent values, 5·√(2/2) = 5."""
    settings = Settings(0.01, 1.0, warmup=False)
    fed(5.9, chains=1, dim=1).check_kinetic(settings, 1)
    fed(0.0, chains=1, dim=1).check_kinetic(settings, 1)
    with pytest.warns(InferenceWarning, match="6.1 times"):
        fed(6.1, chains=1, dim=1).check_kinetic(settings, 1)


def test_frozen_chains_do_not_count():
    monitor = Monitor(SGHMC(), 2, 50, CPU)
    values = torch.zeros(1, 2)
    values[0, 1] = torch.nan
    with pytest.warns(InferenceWarning, match="frozen"):
        monitor.check_finite(values, torch.zeros(2, 50), 0)
    hot = torch.tensor([[1.0, 1e9]]).expand(200, 2)
    monitor.record({"kinetic_temperature": hot, "noise_clip_fraction": hot - 1})
    monitor.check_kinetic(Settings(0.01, 1.0, warmup=False), 1)
    monitor.check_clipping()


# -- clipped noise, and where warnings point -----------------------------------------------


def test_clipped_noise_is_warned_of_above_one_per_cent():
    """V̂ beyond 4(1−μ)/((1+μ)ε²) in one of two coordinates; the draws collapse there."""
    options = {"step_size": 0.1, "friction": 1.0, "num_samples": 20}
    variance = torch.tensor([0.0, 100.0], dtype=torch.float64)
    with pytest.warns(InferenceWarning, match=r"50\.0% of the coordinates") as caught:
        draws = run(GAUSSIAN, gradient_variance=variance, **options)
    assert len(caught) == 1
    assert (draws.sample_stats["noise_clip_fraction"] == 0.5).all()
    run(GAUSSIAN, gradient_variance=variance / 100, **options)

    monitor = Monitor(SGHMC(), 1, 1000, CPU)
    monitor.record({"noise_clip_fraction": torch.full((10, 1), 0.0099)})
    monitor.check_clipping()
    monitor.record({"noise_clip_fraction": torch.full((10, 1), 0.0111)})
    with pytest.warns(InferenceWarning, match=r"1\.\d% of the coordinates"):
        monitor.check_clipping()
    monitor.check_clipping()


def test_warnings_point_at_the_line_that_called_us():
    with pytest.warns(InferenceWarning, match="kinetic") as caught:
        noisy_run(0.05)
    assert {w.filename for w in caught} == {__file__}
