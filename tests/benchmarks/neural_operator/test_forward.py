"""Label-free forward maps against independent solvers; error against CPU time.

`PROBNET_FORWARD_STEPS` (default "1000,2500") and `PROBNET_FORWARD_SEEDS` ("0,1,2") are for
two-phase Darcy flow, `PROBNET_FORWARD_SECONDS` ("60,240,900"), CPU seconds of training, for the
curves. One problem at a time: `-k two_phase`, `-k smooth`, `-k burgers`, `-k stokes`.
"""

import os
import time

import pytest
import torch

from probnet import metrics
from probnet.datasets.fields import InflowProfile, LevelSetGRF, SineField, SineSeries
from probnet.neural_operator import (
    Burgers,
    Darcy2D,
    DenseEncoder,
    DGenNO,
    GaussianInput,
    Stokes,
    TwoPhase,
)

STEPS = [int(n) for n in os.environ.get("PROBNET_FORWARD_STEPS", "1000,2500").split(",")]
SEEDS = [int(n) for n in os.environ.get("PROBNET_FORWARD_SEEDS", "0,1,2").split(",")]
SECONDS = [float(n) for n in os.environ.get("PROBNET_FORWARD_SECONDS", "60,240,900").split(",")]
TIMING_STEPS = 20
SQUARE = torch.cartesian_prod(*[torch.linspace(0, 1, 29, dtype=torch.float64)] * 2)
# Of the brief: the published figure, the level of supervised networks, out of distribution.
LIMITS = {1000: (0.0241, None), 2500: (0.0175, 0.030)}


@pytest.mark.benchmark
@pytest.mark.parametrize("num_steps", STEPS)
@pytest.mark.parametrize("seed", SEEDS)
def test_two_phase(num_steps, seed):
    pde = Darcy2D(source=10.0, mesh=(56, 56))
    model = DGenNO(pde, (29, 29), TwoPhase(5.0, 10.0), latent_dim=64)
    clock = time.process_time()
    trained = model.fit(
        LevelSetGRF(tau=3.0), num_steps=num_steps, batch_size=64, seed=seed, progress=False
    )
    seconds = time.process_time() - clock
    errors, ratios = {}, {}
    for name, tau, count in (("test", 3.0, 200), ("ood", 9.0, 100)):
        media = LevelSetGRF(tau=tau).sample(count, seed=10_000)
        exact = pde.interpolate(pde.solve(pde.coefficients(media)), SQUARE)
        predicted = trained.predict(media, SQUARE).mean
        errors[name] = metrics.relative_l2(exact, predicted, case_axis=0)
        ratios[name] = float(predicted.sum() / exact.sum())
    before = trained.diagnostics["uncalibrated_ratio"]
    print(
        f"\nseed {seed}, {num_steps} steps, {seconds:.0f} CPU s: test {errors['test']:.4f}, "
        f"ood {errors['ood']:.4f}, ratio {ratios['test']:.4f} (validation, before the scale: "
        f"{before:.4f})"
    )
    test_limit, ood_limit = LIMITS.get(num_steps, (1.0, None))
    assert errors["test"] <= test_limit
    assert ood_limit is None or errors["ood"] <= ood_limit
    assert abs(ratios["test"] - 1) <= 0.004


def _error(exact, predicted):
    """Mean relative error of a scalar solution, or of the two velocities."""
    if exact.ndim == 2:
        return metrics.relative_l2(exact, predicted, case_axis=0)
    parts = [
        metrics.relative_l2(exact[..., i], predicted[..., i], case_axis=0) for i in range(2)
    ]
    return sum(parts) / 2


def _curve(name, model, sampler, reference, points, limit, batch_size=64):
    """Errors on 100 unseen inputs of trainings of several lengths; the last has the limit."""
    inputs = sampler.sample(100, seed=10_000)
    exact = reference(inputs)
    options = {"batch_size": batch_size, "num_validation": 32, "progress": False}
    clock = time.process_time()
    model.fit(sampler, num_steps=TIMING_STEPS, **options)
    per_step = (time.process_time() - clock) / TIMING_STEPS
    print(f"\n{name}\n{'CPU s':>8}{'steps':>8}{'rel. L2':>10}")
    error = 1.0
    for budget in SECONDS:
        num_steps = max(1, int(budget / per_step))
        clock = time.process_time()
        trained = model.fit(sampler, num_steps=num_steps, **options)
        seconds = time.process_time() - clock
        predicted = trained.predict(inputs, points).mean
        error = _error(exact, predicted)
        print(f"{seconds:8.0f}{num_steps:8d}{error:10.4f}")
    assert error <= limit


@pytest.mark.benchmark
def test_smooth_darcy():
    """Against the solver on a mesh twice as fine."""
    pde, fine = Darcy2D(source=10.0, mesh=(56, 56)), Darcy2D(source=10.0, mesh=(112, 112))
    sampler = SineField(num_nodes=29)
    model = DGenNO(
        pde, sampler.grid, GaussianInput(0.02, positive=True), latent_dim=32, encoder="gaussian"
    )

    def reference(inputs):
        # The same cell-wise constant field: each cell is divided into four.
        cells = pde.coefficients(inputs).repeat_interleave(2, -1).repeat_interleave(2, -2)
        return fine.interpolate(fine.solve(cells), SQUARE)

    _curve("smooth Darcy", model, sampler, reference, SQUARE, 0.01)


@pytest.mark.benchmark
def test_burgers():
    """Against Cole and Hopf's exact solution, at 128 x 101 points."""
    pde, sampler = Burgers(mesh=(64, 32)), SineSeries(num_nodes=129)
    model = DGenNO(
        pde,
        sampler.grid,
        GaussianInput(0.01, zero_at_ends=True),
        latent_dim=16,
        encoder=DenseEncoder(hidden=(128, 128)),
    )
    points = torch.cartesian_prod(
        torch.linspace(-1, 1, 128, dtype=torch.float64),
        torch.linspace(0, 1, 101, dtype=torch.float64),
    )
    _curve("Burgers", model, sampler, lambda a: pde.reference(a, points), points, 0.02)


@pytest.mark.benchmark
def test_stokes():
    """Mean of the errors of u and v, against the solver with edges half as long."""
    pde, sampler = Stokes(), InflowProfile()
    fine, points = pde.refined(), pde.nodes
    model = DGenNO(
        pde,
        sampler.grid,
        GaussianInput(0.05, zero_at_ends=True),
        latent_dim=16,
        encoder=DenseEncoder(hidden=(128, 128)),
    )

    def reference(inputs):
        return fine.interpolate(fine.solve(fine.coefficients(inputs)), points)

    _curve("Stokes", model, sampler, reference, points, 0.05)
