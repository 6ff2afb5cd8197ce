"""
Bayesian optimisation by a neural process
=========================================

A network that has learned what functions look like replaces the Gaussian process of Bayesian
optimisation: no hyper-parameters are fitted, and all functions are optimised at once. Expected
improvement uses the best value observed so far, never the true minimum, and skips points that
have been evaluated.
"""

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from probnet.datasets import GPTasks
from probnet.neural_process import CANP, oracle

SMOKE = bool(os.environ.get("PROBNET_SMOKE"))  # the test suite takes fewer steps
torch.set_num_threads(1)
NUM_FUNCTIONS, NUM_GRID = (24, 50) if SMOKE else (100, 100)
NUM_EVALUATIONS = 10 if SMOKE else 30
OUT = Path("out")
OUT.mkdir(exist_ok=True)

# %%
# The network learns from tasks with as little as one observation.
tasks = GPTasks("rbf", num_context=(1, 46), seed=0)
network = CANP(width=32 if SMOKE else 64, num_heads=4)
trained = network.fit(
    tasks, num_steps=300 if SMOKE else 3000, batch_size=16, learning_rate=2e-3, seed=0
)

# %%
# New functions on a grid: draws of Gaussian processes with hyper-parameters of their own.
rng = torch.Generator().manual_seed(1)
grid = torch.linspace(-2, 2, NUM_GRID, dtype=torch.float64)[:, None]
hyper = tasks.split("test", NUM_FUNCTIONS).parameters
lengthscale, amplitude = (hyper[name].double() for name in ("lengthscale", "amplitude"))
gram = amplitude[:, None, None] ** 2 * torch.exp(
    -0.5 * ((grid - grid.T) / lengthscale[:, None, None]) ** 2
)
root = torch.linalg.cholesky(gram + 1e-8 * torch.eye(NUM_GRID))
white = torch.randn((NUM_FUNCTIONS, NUM_GRID, 1), generator=rng, dtype=torch.float64)
functions = (root @ white)[..., 0]
first = torch.randint(NUM_GRID, (NUM_FUNCTIONS, 1), generator=rng)


# %%
# One loop for all functions; `predict` gives means and standard deviations on the grid.
def expected_improvement(mean, sd, best):
    """E[max(best - y, 0)] for y ~ N(mean, sd²): the smaller, the better."""
    z = (best - mean) / sd
    return sd * (z * torch.special.ndtr(z) + torch.exp(-0.5 * z**2) / (2 * torch.pi) ** 0.5)


def optimise(predict):
    """Numbers of the evaluated grid points, one row per function."""
    seen = first
    for _ in range(NUM_EVALUATIONS):
        y = functions.gather(1, seen)
        mean, sd = predict(grid[seen], y[..., None])
        gain = expected_improvement(mean, sd, y.amin(1, keepdim=True))
        gain.scatter_(1, seen, -torch.inf)  # evaluated before
        seen = torch.cat([seen, gain.argmax(1, keepdim=True)], 1)
    return seen


every_grid = grid.expand(NUM_FUNCTIONS, NUM_GRID, 1)


def by_network(xc, yc):
    law = trained.condition(xc, yc).predict(every_grid)
    return law.mean[..., 0], law.stddev[..., 0]


def by_oracle(xc, yc):
    exact = oracle("rbf", lengthscale=lengthscale, amplitude=amplitude, noise_sd=0.02)
    law = exact.condition(xc, yc).predict(every_grid)
    return law.mean[..., 0], law.stddev[..., 0]


def at_random(xc, yc):
    """An improvement that nobody expects: equal means, random scales."""
    return yc.mean(1), torch.rand((NUM_FUNCTIONS, NUM_GRID), generator=rng).double()


# %%
# Simple regret, 1 for the first point and 0 for the minimum.
def regret(seen):
    lowest = functions.amin(1, keepdim=True)
    best = functions.gather(1, seen).cummin(1).values
    start = best[:, :1] - lowest
    hard = start[:, 0] > 1e-4  # the first point is not the minimum
    return ((best - lowest) / start)[hard].mean(0)


curves = {
    "neural process": regret(optimise(by_network)),
    "Gaussian process, true kernel": regret(optimise(by_oracle)),
    "random": regret(optimise(at_random)),
}
figure, axes = plt.subplots(figsize=(5, 3.2))
for name, curve in curves.items():
    axes.semilogy(curve.clamp_min(1e-4), label=name)
axes.set(xlabel="evaluations", ylabel="mean normalised regret")
axes.legend()
figure.tight_layout()
figure.savefig(OUT / "np_bayesian_optimisation.png", dpi=120)

# %%
for name, curve in curves.items():
    print(f"{name}: regret after {NUM_EVALUATIONS} evaluations {curve[-1]:.4f}")
cumulative = {name: float(curve.mean()) for name, curve in curves.items()}
excess_regret = cumulative["neural process"] - cumulative["random"]
print(f"mean regret, neural process minus random search: {excess_regret:.3f}")
