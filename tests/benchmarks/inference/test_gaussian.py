"""A correlated Gaussian: effective draws per CPU-second beside the package `posteriors`.

100 dimensions, covariance 0.9^|i−j| (condition number 361), dense precision, exact gradients,
16 chains, float32, one thread. The smallest ESS is over coordinates and eigen-directions; a
fifth of each run is burn-in, neither counted nor charged. Step sizes are set by hand: the same
for both BAOA; for the peer's SGHMC what keeps its bias near 10 %.
"""

import time
import warnings
from statistics import median

import numpy as np
import pytest
import torch

import inference

DIM, CHAINS = 100, 16
COVARIANCE = 0.9 ** np.abs(np.subtract.outer(np.arange(DIM), np.arange(DIM)))
EIGENVALUES, DIRECTIONS = np.linalg.eigh(COVARIANCE)
PRECISION = torch.tensor(np.linalg.inv(COVARIANCE), dtype=torch.float32)
BAOA = {"step_size": 0.3, "friction": 0.46}
EULER = {"step_size": 0.0048, "friction": 0.92}


def log_density(theta):
    return -0.5 * theta @ (PRECISION @ theta)


def starts():
    rng = np.random.default_rng(0)
    draws = rng.multivariate_normal(np.zeros(DIM), COVARIANCE, size=CHAINS)
    return torch.tensor(draws, dtype=torch.float32)


def run_ours(num_steps):
    """Draws (chain, draw, dim) after burn-in, and the CPU-seconds they took."""
    target = inference.LogDensity(
        log_density=lambda p: log_density(p["theta"]),
        scale="sum",
        params={"theta": torch.zeros(DIM)},
    )
    warmup = num_steps // 5
    clock = time.process_time()
    found = inference.sample(
        target,
        method="sghmc",
        num_chains=CHAINS,
        num_warmup=warmup,
        num_samples=num_steps - warmup,
        init={"theta": starts()},
        seed=0,
        progress=False,
        **BAOA,
    )
    share = 1 - warmup / num_steps
    return found.draws["theta"], share * (time.process_time() - clock)


def run_peer(name, num_steps):
    """The same by `posteriors` under `torch.vmap`, every state kept."""
    with warnings.catch_warnings():  # it warns of its own dependencies
        warnings.simplefilter("ignore")
        import posteriors

    settings = {"baoa": BAOA, "sghmc": EULER}[name]
    transform = getattr(posteriors.sgmcmc, name).build(
        lambda theta, batch: (log_density(theta), torch.empty(0)),
        lr=settings["step_size"],
        alpha=settings["friction"],
    )
    update = torch.vmap(transform.update, in_dims=(0, None), randomness="different")
    warmup = num_steps // 5
    kept = np.empty((CHAINS, num_steps - warmup, DIM), dtype=np.float32)
    clock = 0.0
    with torch.random.fork_rng(), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        state = torch.vmap(transform.init, randomness="different")(starts())
        for step in range(num_steps):
            if step == warmup:
                clock = time.process_time()
            state, _ = update(state, None)
            if step >= warmup:
                kept[:, step - warmup] = state.params.numpy()
    return kept, time.process_time() - clock


def score(draws, seconds):
    """Smallest ESS per CPU-second, and the excess variance of the ten stiffest directions."""
    rotated = draws.astype(np.float64) @ DIRECTIONS
    sizes = inference.diagnostics.ess(np.concatenate([draws.astype(np.float64), rotated], -1))
    excess = (rotated[..., :10] ** 2).mean((0, 1)) / EIGENVALUES[:10] - 1
    return sizes.min() / seconds, excess.mean(), sizes.min(), seconds


def report(name, figures, num_steps):
    rate, bias, size, seconds = figures
    step = 1e6 * seconds / (0.8 * num_steps * CHAINS)
    print(
        f"{name:28} {step:8.1f} µs per chain-step   min-ESS {size:8.0f}   "
        f"{rate:9.2f} per CPU-s   bias {bias:+.1%}"
    )
    return rate


@pytest.mark.benchmark
def test_baoa_against_the_peer():
    print()
    ratios = []
    for _ in range(3):
        ours = report("inference sghmc (BAOA)", score(*run_ours(5000)), 5000)
        peer = report("posteriors baoa, vmap", score(*run_peer("baoa", 5000)), 5000)
        ratios.append(ours / peer)
    print(f"ratio to posteriors baoa: {median(ratios):.2f}  {[round(r, 2) for r in ratios]}")
    assert median(ratios) >= 1.5


@pytest.mark.benchmark
def test_baoa_against_the_peers_sghmc():
    print()
    ours = report("inference sghmc (BAOA)", score(*run_ours(5000)), 5000)
    peer = report("posteriors sghmc, vmap", score(*run_peer("sghmc", 40_000)), 40_000)
    print(f"ratio to posteriors sghmc: {ours / peer:.0f}")
    assert ours / peer >= 50
