"""
High frequencies in one dimension
=================================

Poisson problems whose solutions oscillate fast, or at several scales at once, where networks
trained on the residual fail. The solver sees the equation, the source and two boundary values.
The published method (`method="adam"`) is run beside it for a few steps.
"""

# %%
import math
import os
import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from probnet.gp_pde import SpectralGPSolver
from probnet.pde import PDE, Dirichlet, manufactured

SMOKE = bool(os.environ.get("PROBNET_SMOKE"))
NUM_STEPS = 20 if SMOKE else 500  # of the published method
torch.set_num_threads(1)
OUT = Path("out")
OUT.mkdir(exist_ok=True)
TURN = 2 * math.pi

# %%
# Solutions, domains and nodes; the sources are manufactured from them.
CASES = {
    "sin 100x": (lambda x: torch.sin(100 * x), TURN, 400),
    "sin 6x cos 100x": (lambda x: torch.sin(6 * x) * torch.cos(100 * x), TURN, 400),
    "three scales": (
        lambda x: torch.sin(x) + 0.1 * torch.sin(20 * x) + 0.05 * torch.sin(100 * x),
        1.0,
        300,
    ),
    "sin 500x - 2(x - 1/2)²": (
        lambda x: torch.sin(500 * x) - 2 * (x - 0.5) ** 2,
        1.0,
        400,
    ),
}


def problem(u, length):
    return manufactured(PDE.linear([(0, length)], {(2,): 1.0}, source=0.0), u)


def relative_error(mean, truth):
    return float(torch.linalg.norm(mean - truth) / torch.linalg.norm(truth))


# %%
# Default settings throughout. `sd` is the largest reported standard deviation.
errors = {}
print(f"{'solution':24}{'rel. L2':>10}{'sd':>10}{'seconds':>9}")
for name, (u, length, nodes) in CASES.items():
    x = torch.linspace(0, length, 300, dtype=torch.float64)[:, None]
    clock = time.process_time()
    posterior = SpectralGPSolver(grid=nodes).fit(problem(u, length), Dirichlet(u), seed=0)
    seconds = time.process_time() - clock
    errors[name] = relative_error(posterior.mean(x), u(x[:, 0]))
    largest = float(posterior.sd(x).max())
    print(f"{name:24}{errors[name]:10.1e}{largest:10.1e}{seconds:9.1f}")

# %%
# The published objective and optimiser on the first of them.
u, length, nodes = CASES["sin 100x"]
x = torch.linspace(0, length, 300, dtype=torch.float64)[:, None]
clock = time.process_time()
published = SpectralGPSolver(grid=nodes).fit(
    problem(u, length), Dirichlet(u), method="adam", num_steps=NUM_STEPS
)
seconds = time.process_time() - clock
error = relative_error(published.mean(x), u(x[:, 0]))
print(f"{f'sin 100x, {NUM_STEPS} steps of Adam':34}{error:.1e} {seconds:14.1f}")

# %%
# A coarse grid, where there is something to be uncertain of: solution, error beside two
# standard deviations, and the learned spectrum.
u = CASES["three scales"][0]
posterior = SpectralGPSolver(grid=48).fit(problem(u, 1.0), Dirichlet(u), seed=0)
x = torch.linspace(0, 1, 600, dtype=torch.float64)[:, None]
mean, sd, truth = posterior.mean(x), posterior.sd(x), u(x[:, 0])
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
left.plot(x, mean, lw=1)
left.set(xlabel="x", ylabel="u", title="solution, 48 nodes")
middle.fill_between(x[:, 0], -2 * sd, 2 * sd, color="tab:blue", alpha=0.3, lw=0)
middle.plot(x, mean - truth, "k", lw=1)
middle.set(xlabel="x", title="error, and two standard deviations")
prior = posterior.spectrum()[0]
right.vlines(prior.frequency, 0, prior.weight.sqrt())
right.set(xlabel="cycles per unit", ylabel="amplitude", title="spectrum", yscale="log")
figure.savefig(OUT / "high_frequency_poisson.png", dpi=120)

# %%
# The numbers that the test suite bounds.
largest_error = max(errors.values())
rms_z = float(((mean - truth) / sd).square().mean().sqrt())
