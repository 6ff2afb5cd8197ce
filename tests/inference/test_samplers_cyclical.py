"""Cyclical runs: 25 separate modes are found, and only sampling steps are kept."""

import math

import numpy as np
import pytest
import torch

import inference
from inference import LogDensity
from inference.binding import bind
from inference.gradients import log_density_and_gradient

VARIANCE = 0.03
GRID = torch.tensor([-4.0, -2.0, 0.0, 2.0, 4.0], dtype=torch.float64)
START = {"x": torch.zeros(2, dtype=torch.float64)}
CHAINS = 8


def log_mixture(p):
    """25 equal Gaussians on GRID²: the mixture is a product over the two axes."""
    away = (p["x"][:, None] - GRID).square()
    return (-away / (2 * VARIANCE)).logsumexp(-1).sum()


def closed_form(positions, batch):
    """The same log density and gradient, of all chains, without a graph."""
    del batch
    logits = -(positions[..., None] - GRID).square() / (2 * VARIANCE)
    gradient = (torch.softmax(logits, -1) @ GRID - positions) / VARIANCE
    return logits.logsumexp(-1).sum(-1), gradient


TARGET = LogDensity(log_density=log_mixture, scale="sum", params=START)


@pytest.fixture
def exact_gradients(monkeypatch):
    """The closed form in place of the evaluation, once it is seen to give the same."""
    target = bind(TARGET, None, batch_size=None, dtype=None, device=None)
    points = 5 * torch.randn(20, 2, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(
        log_density_and_gradient(target, "vectorized")(points, None), closed_form(points, None)
    )
    monkeypatch.setattr(
        "inference.running.log_density_and_gradient", lambda target, method: closed_form
    )


def modes_hit(draws):
    """Per chain, the modes with a draw within three standard deviations on each axis."""
    x = draws.draws["x"]
    nearest = np.clip(np.round(x / 2), -2, 2)
    close = (np.abs(x - 2 * nearest) < 3 * math.sqrt(VARIANCE)).all(-1)
    names = 5 * nearest[..., 0] + nearest[..., 1]
    return [len(set(n[c])) for n, c in zip(names, close, strict=True)]


def cyclical_run(steps, exploration, thin=3):
    """30 cycles, `steps` gradient evaluations in all."""
    per_cycle = round(steps / 30 * (1 - exploration)) // thin
    draws = inference.sample(
        TARGET,
        method="csgld",
        step_size=0.09,
        num_cycles=30,
        exploration=exploration,
        num_samples=30 * per_cycle,
        thin=thin,
        num_chains=CHAINS,
        init=START,
        compile=False,
        progress=False,
    )
    assert draws.num_samples == 30 * per_cycle
    return draws


@pytest.mark.usefixtures("exact_gradients")
def test_cycles_find_the_modes_and_long_explorations_or_constant_steps_do_not():
    """A fifth of the published number of steps is enough, for each of eight chains.

    Of the controls β = 0.8 keeps too few large steps, and a constant step stays at its start.
    """
    draws = cyclical_run(18_000, exploration=0.25)
    assert min(modes_hit(draws)) >= 20
    assert np.median(modes_hit(cyclical_run(9_000, exploration=0.8))) < 20
    constant = inference.sample(
        TARGET,
        method="sgld",
        step_size=0.002,
        num_chains=CHAINS,
        num_warmup=0,
        num_samples=2000,
        init=START,
        compile=False,
        progress=False,
    )
    assert max(modes_hit(constant)) <= 2


@pytest.mark.paper
def test_published_number_of_steps():
    """Zhang et al. (2020): 10⁵ steps with M = 30 cycles, β = 0.25 and a first step of 0.09.

    Here with the gradients of the ordinary evaluation.
    """
    assert min(modes_hit(cyclical_run(100_000, exploration=0.25, thin=10))) >= 20


# -- what is kept --------------------------------------------------------------------------

GAUSSIAN = LogDensity(
    log_density=lambda p: -p["x"].square().sum() / 2, scale="sum", params=START
)


def short_run(method, **options):
    return inference.sample(
        GAUSSIAN,
        method=method,
        step_size=0.1,
        num_cycles=3,
        exploration=0.25,
        num_samples=9,
        thin=2,
        num_chains=2,
        progress=False,
        **options,
    )


@pytest.mark.parametrize(("method", "power"), [("csgld", 1.0), ("csghmc", 0.5)])
def test_statistics_tell_cycle_step_and_temperature(method, power):
    """Three cycles of 8 steps, 2 of them exploring; draws are steps 3, 5 and 7 of a cycle.

    The cosine scales the step in gradient units: ε of SGLD, ε² of SGHMC.
    """
    found = short_run(method, temperature=0.7).sample_stats
    assert found["cycle"].dtype.kind == "i"
    assert found["cycle"].tolist() == [[0, 0, 0, 1, 1, 1, 2, 2, 2]] * 2
    cosine = (np.cos(np.pi * np.array([3, 5, 7]) / 8) + 1) / 2
    np.testing.assert_allclose(found["step_size"], np.tile(0.1 * cosine**power, (2, 3)))
    assert (found["temperature"] == 0.7).all()


class Recorder:
    """Stands in for a sampler: notes what it is asked to do, and counts its steps in θ."""

    step_exponent, step_size, resample_every = 0.5, 0.1, None

    def __init__(self):
        self.steps, self.refreshed = [], []

    def init(self, position, noise, settings):
        del noise
        self.started = settings
        return inference.samplers.sghmc.SGHMCState(0 * position, position)

    estimates_noise = corrects_noise = False

    def coefficients(self, settings):
        return settings

    def step(self, evaluate, state, batch, noise, coefficients, *, warmup=False):
        del evaluate, batch, noise
        self.steps.append(coefficients)
        info = inference.samplers.Info(state.position.sum(-1), state.position)
        return state._replace(position=state.position + 1), info

    def refresh(self, state, noise, settings):
        del noise
        self.refreshed.append((len(self.steps), settings.temperature))
        return state

    def statistics(self, state, settings):
        del state, settings
        return {}

    def stationary_kinetic_temperature(self, settings):
        del settings


@pytest.fixture
def recorder(monkeypatch):
    found = Recorder()
    monkeypatch.setattr("inference.request.Request.sampler", lambda self, also: found)
    return found


def test_exploration_is_without_noise_and_without_draws(recorder):
    draws = short_run("csghmc", temperature=0.7)
    temperatures = [s.temperature for s in recorder.steps]
    assert temperatures == ([0.0] * 2 + [0.7] * 6) * 3
    assert not any(s.warmup for s in recorder.steps)
    kept = [8 * cycle + step for cycle in range(3) for step in (3, 5, 7)]
    assert draws.draws["x"][0, :, 0].tolist() == kept  # the state counts the steps


def test_momentum_is_redrawn_at_the_start_of_every_cycle(recorder):
    """The first cycle starts with a fresh momentum anyway."""
    short_run("csghmc")
    assert recorder.refreshed == [(8, 0.0), (16, 0.0)]


def test_warmup_comes_before_the_first_cycle(recorder):
    short_run("csghmc", num_warmup=5)
    assert [s.warmup for s in recorder.steps] == [True] * 5 + [False] * 24
    assert [s.step_size for s in recorder.steps[:6]] == [0.1] * 6
    assert recorder.started.warmup
    assert recorder.refreshed == [(5, 0.0), (13, 0.0), (21, 0.0)]


def test_cyclical_methods_bring_their_schedule():
    with pytest.raises(ValueError, match="leave `schedule` out"):
        short_run("csgld", schedule=inference.schedules.Constant())
