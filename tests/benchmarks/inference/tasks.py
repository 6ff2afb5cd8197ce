"""The two tasks of the benchmarks, and how a run is scored."""

import time
from dataclasses import dataclass

import numpy as np
import torch

import inference

DIM, CHAINS = 100, 16
COVARIANCE = 0.9 ** np.abs(np.subtract.outer(np.arange(DIM), np.arange(DIM)))
EIGENVALUES, DIRECTIONS = np.linalg.eigh(COVARIANCE)
PRECISION = np.linalg.inv(COVARIANCE)

ROWS, FEATURES, BATCH = 10_000, 50, 256
# Standard deviations are to be right to 5 %: 10 % of a variance, less what theory leaves out.
BUDGET = {"bias": 0.08, "bias_of": "parameters"}


@dataclass(frozen=True)
class Score:
    """A run's smallest ESS, over coordinates and eigen-directions, its CPU-seconds and errors.

    Attributes:
        name: of the row.
        step: microseconds per chain and step.
        size: smallest ESS.
        seconds: CPU time, warm-up and tuning included, compilation not.
        errors: what the draws get wrong, as text.
    """

    name: str
    step: float
    size: float
    seconds: float
    errors: str

    @property
    def rate(self):
        return self.size / self.seconds

    @property
    def row(self):
        size = f"{self.size:.0f}"
        return [self.name, f"{self.step:.1f}", size, f"{self.rate:.1f}", self.errors]


HEADER = ["sampler", "µs per chain-step", "min-ESS", "min-ESS per CPU-s", "error"]


def smallest_ess(draws, directions):
    draws = draws.astype(np.float64)
    return float(
        inference.diagnostics.ess(np.concatenate([draws, draws @ directions], -1)).min()
    )


def gaussian(dtype=torch.float32):
    """Task A: 100 dimensions, covariance 0.9^|i−j|, condition number 361, dense precision."""
    precision = torch.tensor(PRECISION, dtype=dtype)
    return inference.LogDensity(
        log_density=lambda p: -0.5 * p["theta"] @ (precision @ p["theta"]),
        scale="sum",
        params={"theta": torch.zeros(DIM, dtype=dtype)},
    )


def gaussian_starts(chains=CHAINS):
    rng = np.random.default_rng(0)
    return rng.multivariate_normal(np.zeros(DIM), COVARIANCE, size=chains)


def gaussian_error(draws):
    """Excess variance along the ten stiffest, middle and softest directions."""
    excess = ((draws.astype(np.float64) @ DIRECTIONS) ** 2).mean((0, 1)) / EIGENVALUES - 1
    parts = [excess[some].mean() for some in (slice(10), slice(45, 55), slice(-10, None))]
    return "variance " + " / ".join(f"{part:+.1%}" for part in parts), parts


def logistic_data():
    """Task B: 10 000 rows, 50 features of correlation 0.5^|i−j|, coefficients N(0, 0.3²)."""
    rng = np.random.default_rng(0)
    lags = np.abs(np.subtract.outer(np.arange(FEATURES), np.arange(FEATURES)))
    x = rng.multivariate_normal(np.zeros(FEATURES), 0.5**lags, size=ROWS)
    truth = 0.3 * rng.normal(size=FEATURES)
    y = rng.random(ROWS) < 1 / (1 + np.exp(-x @ truth))
    return x.astype(np.float32), y.astype(np.float32)


def logistic():
    def log_lik(p, data):
        x, y = data
        logits = x @ p["w"]
        return y * logits - torch.nn.functional.softplus(logits)

    return inference.LogDensity(
        log_prior=lambda p: -p["w"].square().sum() / 2,
        log_lik=log_lik,
        params={"w": torch.zeros(FEATURES)},
    )


def laplace(x, y):
    """Mode, standard deviations and eigenvectors of the Laplace law of task B."""
    x, w = x.astype(np.float64), np.zeros(FEATURES)
    for _ in range(30):
        p = 1 / (1 + np.exp(-x @ w))
        precision = (x.T * (p * (1 - p))) @ x + np.eye(FEATURES)
        w += np.linalg.solve(precision, x.T @ (y - p) - w)
    covariance = np.linalg.inv(precision)
    return w, np.sqrt(np.diag(covariance)), np.linalg.eigh(precision)[1]


def logistic_error(draws, law):
    mode, sd, _ = law
    draws = draws.astype(np.float64)
    ratio = (draws.std((0, 1)) / sd).mean()
    off = np.abs((draws.mean((0, 1)) - mode) / sd).max()
    return f"sd ratio {ratio:.3f}, mean off {off:.2f} sd", ratio, off


def timed(run, long, short):
    """A long run's result, and CPU-seconds: those of the steps a short one does not take.

    What both do once, compiling above all, drops out; the short run's steps are charged at the
    rate of the others.

    Args:
        run: of a number of steps.
        long: that number.
        short: of the other run.
    """
    run(short)
    seconds = []
    for steps in (short, long):
        clock = time.process_time()
        found = run(steps)
        seconds.append(time.process_time() - clock)
    return found, (seconds[1] - seconds[0]) * long / (long - short)


def suggest(target, data=None, **options):
    """A suggestion, and the CPU-seconds it took."""
    clock = time.process_time()
    found = inference.suggest_step_size(target, data, **options)
    return found, time.process_time() - clock
