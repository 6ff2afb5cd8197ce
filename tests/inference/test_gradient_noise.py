"""The inflation a minibatch run is said to have, against exact laws."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import inference
from inference import LogDensity
from inference.binding import bind
from inference.gradient_noise import gradient_variance
from inference.gradients import log_density_and_gradient
from inference.samplers import SGHMC, SGLD, AdaptiveSGHMC, Settings

CURVATURE, EPSILON = 1.0, 0.05  # h = 0.0025: the rule is one of small steps


def predict(sampler, variance, *, temperature=1.0, frozen=None):
    """The sampler's own figure for one coordinate."""
    settings = Settings(sampler.step_size, temperature, warmup=False)
    zeros = torch.zeros(1, 1, dtype=torch.float64)
    state = sampler.init(zeros, zeros, settings)
    if frozen is not None:
        state = state._replace(**{name: zeros + value for name, value in frozen.items()})
    return sampler.variance_inflation(zeros + variance, state, settings).item()


SAMPLERS = [
    (SGHMC(EPSILON, 2.0), None),
    (SGHMC(EPSILON, 2.0, "symplectic"), None),
    (SGHMC(EPSILON, 2.0, "symplectic", gradient_variance=10.0), None),
    (SGHMC(EPSILON, 2.0, gradient_variance=10.0), None),
    (AdaptiveSGHMC(EPSILON, 0.1), {"gradient_square": 2.0}),
    (AdaptiveSGHMC(EPSILON, 0.1, noise_correction=0.5), {"gradient_square": 16.0}),
    (AdaptiveSGHMC(EPSILON, 0.1, integrator="baoa"), {"gradient_square": 2.0}),
    (AdaptiveSGHMC(EPSILON, 0.1, reference=True), {"gradient_square": 16.0}),
    (SGLD(EPSILON / 20), None),
    (SGLD(EPSILON / 20, gradient_variance=10.0), None),
]
PLAIN = {"gradient_variance": None, "noise_correction": 0.0, "reference": False}


@pytest.mark.parametrize("temperature", [0.5, 1.0])
@pytest.mark.parametrize(("sampler", "frozen"), SAMPLERS, ids=lambda x: repr(x)[:40])
def test_predicted_inflation_is_that_of_the_stationary_law(
    linear_step, sampler, frozen, temperature
):
    """With noise of variance V in the gradient and without, any discretisation bias apart.

    ε²V(1+μ)/(4(1−μ)T) leaves out terms of order 1 − μ, at most 10 % here, and of order h.
    """
    fields = ("position",) if isinstance(sampler, SGLD) else ("position", "momentum")
    plain = replace(sampler, **{n: v for n, v in PLAIN.items() if hasattr(sampler, n)})
    step, base = (
        linear_step(s, CURVATURE, temperature=temperature, fields=fields, frozen=frozen)
        for s in (sampler, plain)
    )
    base = base.stationary()["position"]
    for variance in (0.0, 10.0, 60.0):
        found = step.stationary(variance)["position"].item() / base.item() - 1
        predicted = predict(sampler, variance, temperature=temperature, frozen=frozen)
        assert found == pytest.approx(predicted, rel=0.1, abs=2e-3)


ROWS, BATCH = 60, 6
X = torch.tensor(np.random.default_rng(0).normal(size=(ROWS, 2)) * [1.0, 3.0])


def location():
    return LogDensity(
        log_prior=lambda p: -p["m"].square().sum() / 2,
        log_lik=lambda p, x: -(x - p["m"]).square().sum(-1) / 2,
        params={"m": torch.zeros(2).double()},
    )


def test_variance_of_the_gradient_is_that_of_sampling_without_replacement():
    """V = (N²/n)(1 − n/N)s²; the mean of 32 squares over 50 chains is good to √(2/1600)."""
    target = bind(location(), X, batch_size=BATCH, dtype=None, device=None)
    evaluate = log_density_and_gradient(target, "vectorized")
    found = gradient_variance(target, evaluate, torch.zeros(50, 2).double(), seed=0)
    expected = ROWS**2 / BATCH * (1 - BATCH / ROWS) * X.var(0).numpy()
    assert found.shape == (50, 2)
    np.testing.assert_allclose(found.mean(0), expected, rtol=4 * math.sqrt(2 / 1600))


def test_a_run_reports_the_inflation_and_full_batches_have_none():
    options = {"step_size": 0.004, "friction": 20.0, "num_warmup": 10, "num_samples": 10}
    options |= {"num_chains": 16, "init": "params", "progress": False}
    found = inference.sample(location(), X, batch_size=BATCH, **options).attrs
    variance = ROWS**2 / BATCH * (1 - BATCH / ROWS) * X.var(0).numpy()
    mu = math.exp(-0.08)
    rule = 0.004**2 * variance * (1 + mu) / (4 * (1 - mu))
    reported = found["predicted_variance_inflation"]
    assert reported["mean"] == pytest.approx(rule.mean(), rel=4 * math.sqrt(2 / 512))
    assert reported["max"] == pytest.approx(rule.max(), rel=4 * math.sqrt(2 / 512))
    assert (
        "predicted_variance_inflation" not in inference.sample(location(), X, **options).attrs
    )
