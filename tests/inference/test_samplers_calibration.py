"""Calibration of every stochastic-gradient sampler on 600 data sets of a conjugate model."""

import numpy as np
import pytest
import torch

from inference import LogDensity
from inference.calibration import sbc

ROWS = 8
TARGET = LogDensity(  # m ~ N(0, 1), eight y ~ N(m, 0.8²)
    log_prior=lambda p: -p["m"].square() / 2,
    log_lik=lambda p, y: -(y - p["m"]).square() / (2 * 0.64),
    params={"m": torch.zeros(()).double()},
)


def observe(params):
    return params["m"][:, None] + 0.8 * torch.randn(len(params["m"]), ROWS).double()


RUNS = {
    "baoa": {"method": "sghmc", "step_size": 0.12, "friction": 4.0, "thin": 20},
    "symplectic": {
        "method": "sghmc",
        "integrator": "symplectic",
        "step_size": 0.03,
        "friction": 6.0,
        "thin": 60,
    },
    "adaptive": {
        "method": "sghmc_adaptive",
        "integrator": "baoa",
        "step_size": 0.3,
        "momentum_decay": 0.3,
        "thin": 20,
    },
    "langevin": {"method": "sgld", "step_size": 0.003, "thin": 80},
}


def calibrate(way, **options):
    return sbc(
        TARGET,
        prior_sample=lambda num: {"m": torch.randn(num).double()},
        simulate=observe,
        num_replications=600,
        num_chains=11,
        num_warmup=5 * RUNS[way]["thin"],
        seed=1,
        progress=False,
        **RUNS[way],
        **options,
    )


@pytest.mark.parametrize("way", RUNS)
def test_ranks_are_uniform_and_intervals_cover(way):
    """Coverage within ±3√(p(1−p)/600) at 50, 80, 90 and 95 %. Talts et al. (2018)."""
    found = calibrate(way)
    assert found.passed
    assert np.abs(found.coverage_z()["m"]).max() < 3


@pytest.mark.parametrize("temperature", [2.0, 0.5])
def test_a_wrong_noise_variance_is_caught(temperature):
    """Negative control: doubled, or halved, noise."""
    found = calibrate("baoa", temperature=temperature)
    assert found.p_values["m"].min() < 1e-6
    assert np.abs(found.coverage_z()["m"]).max() > 3
