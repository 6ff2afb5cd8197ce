"""Runs on minibatches: the posterior is the full one, as wide as the theory of noise says."""

import math

import numpy as np
import pytest
import torch

import inference
from inference import LogDensity
from inference.samplers import SGHMC

ROWS, BATCH = 200, 20


def regression(wrong_scale=False):
    """y = xw + N(0, 1), w ~ N(0, I): spec, data, posterior mean and precision."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(ROWS, 3))
    y = x @ np.array([1.0, -2.0, 0.5]) + rng.normal(size=ROWS)

    def log_lik(p, data):
        rows, targets = data
        values = -(targets - rows @ p["w"]).square() / 2
        return values * len(rows) / ROWS if wrong_scale else values

    spec = LogDensity(
        log_prior=lambda p: -p["w"].square().sum() / 2,
        log_lik=log_lik,
        params={"w": torch.zeros(3).double()},
        num_data=ROWS,
    )
    precision = np.eye(3) + x.T @ x
    return (
        spec,
        (torch.tensor(x), torch.tensor(y)),
        np.linalg.solve(precision, x.T @ y),
        precision,
    )


def run_regression(spec, data, **options):
    given = {"step_size": 0.002, "friction": 40.0, "num_warmup": 600, "num_samples": 40}
    given |= {"thin": 20, "batch_size": BATCH, "num_chains": 128, "progress": False, "seed": 1}
    return inference.sample(data=data, target=spec, **(given | options))


def predicted_inflation(data, mean, epsilon=0.002, friction=40.0):
    """ηV(1+μ)/(4(1−μ)), V = (N²/n)(1 − n/N)·s² of the rows' gradients at the mean, largest one.

    It is an upper bound here: within an epoch the batches' errors sum to zero.
    """
    x, y = (t.numpy() for t in data)
    rows = x * (x @ mean - y)[:, None]
    covariance = ROWS**2 / BATCH * (1 - BATCH / ROWS) * np.cov(rows.T)
    mu = math.exp(-epsilon * friction)
    return epsilon**2 * np.linalg.eigvalsh(covariance)[-1] * (1 + mu) / (4 * (1 - mu))


def test_minibatches_give_the_conjugate_posterior(assert_mean, chain_mean):
    """Var ratio within [1, 1 + predicted inflation] and its error bars, along three axes."""
    spec, data, mean, precision = regression()
    draws = run_regression(spec, data)
    assert set(draws.sample_stats) >= {"lp_estimate"}
    inflation = predicted_inflation(data, mean)
    assert inflation < 0.1
    along = (draws.draws["w"] - mean) @ np.linalg.cholesky(precision)
    assert_mean(along, 0)
    ratio, error = chain_mean(along**2)
    assert (ratio > 1 - error).all()
    assert (ratio < 1 + inflation + error).all()

    # negative control: without N/n the likelihood counts a tenth, the posterior is far too wide
    wrong, *_ = regression(wrong_scale=True)
    draws = run_regression(wrong, data, num_samples=10)
    along = (draws.draws["w"] - mean) @ np.linalg.cholesky(precision)
    assert ((along**2).mean((0, 1)) > 5).all()


def test_independent_minibatches_inflate_as_the_lyapunov_equation_says(
    linear_step, assert_mean
):
    """With n > N/2 every epoch is one batch, so errors are independent from step to step.

    Here they do not depend on the position either: V = (N²/n)(1 − n/N)s², the factor of the
    design rule 1 + ηV(1+μ)/(4(1−μ)) is 1.7, and the exact one is that of the linear step.
    """
    rows, size, epsilon, friction = 12, 7, 0.1, 2.0
    y = torch.tensor(np.random.default_rng(0).normal(scale=2.4, size=(rows, 1)))
    spec = LogDensity(  # y_i ~ N(m, 1), m ~ N(0, 1)
        log_prior=lambda p: -p["m"].square().sum() / 2,
        log_lik=lambda p, data: (data * p["m"]).sum(-1) - p["m"].square().sum() / 2,
        params={"m": torch.zeros(1).double()},
    )
    draws = inference.sample(
        spec, y, batch_size=size, step_size=epsilon, friction=friction, num_warmup=100,
        num_samples=40, thin=10, num_chains=256, seed=0, progress=False,
    )  # fmt: skip
    precision = 1.0 + rows
    variance = rows**2 / size * (1 - size / rows) * y.numpy().var(ddof=1)
    law = linear_step(SGHMC(epsilon, friction), precision).stationary(variance)["position"]
    mu = math.exp(-epsilon * friction)
    rule = 1 + epsilon**2 * variance * (1 + mu) / (4 * (1 - mu))
    assert precision * law.item() == pytest.approx(rule, rel=0.05)
    assert rule > 1.5
    away = draws.draws["m"] - y.numpy().sum() / precision
    assert_mean(away, 0)
    assert_mean(away**2, law.item())


def test_temperature_zero_is_deterministic_given_the_batches(monkeypatch):
    """The same batches with other noise, or none at all: the same path."""
    spec, data, _, _ = regression()
    options = {"temperature": 0.0, "num_chains": 2, "num_warmup": 0, "num_samples": 40}
    options |= {"thin": 1}
    first = run_regression(spec, data, **options).draws["w"]
    monkeypatch.setattr("inference.rng.NormalStream.take", lambda self, count: torch.full(
        (count, len(self._generators), self._dim), 7.0, dtype=torch.float64
    ))  # fmt: skip
    second = run_regression(spec, data, **options).draws["w"]
    np.testing.assert_array_equal(first, second)
    monkeypatch.undo()
    third = run_regression(spec, data, **options, seed=2).draws["w"]
    assert not np.allclose(first, third)
