"""
The speed of a flow from sparse noisy readings
==============================================

β ∂u/∂x + ∂u/∂t = 0 on a ring, a known start, an unknown speed β, and 25 readings of u with
noise. The speed gets a prior and is sampled by NUTS; every evaluation solves the equation, and
the gradient costs one more solve with the same factorisation.
"""

# %%
import math
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.distributions import LogNormal

from probnet.gp_pde import SpectralGPSolver
from probnet.pde import PDE, Initial, Observations, Periodic, Unknown

SMOKE = bool(os.environ.get("PROBNET_SMOKE"))
GRID, NUM_WARMUP, NUM_SAMPLES = (16, 60, 100) if SMOKE else (32, 200, 500)
NUM_READINGS, NOISE_SD, BETA = 25, 0.1, 0.8
torch.set_num_threads(1)
OUT = Path("out")
OUT.mkdir(exist_ok=True)


def start(x, t):
    wave = torch.sin(2 * math.pi * x)
    return wave if SMOKE else wave + 0.5 * torch.sin(6 * math.pi * x)


# %%
# The readings, at random places and times.
generator = torch.Generator().manual_seed(0)
where = torch.rand(NUM_READINGS, 2, generator=generator, dtype=torch.float64)
truth = start(where[:, 0] - BETA * where[:, 1], 0)
noise = torch.randn(NUM_READINGS, generator=generator, dtype=torch.float64)
readings = Observations(where, truth + NOISE_SD * noise, noise_sd=NOISE_SD)

# %%
# The equation with its unknown.
pde = PDE.linear(
    [(0, 1), (0, 1)],
    terms={(1, 0): Unknown("beta", LogNormal(0.0, 0.5)), (0, 1): 1.0},
    source=0.0,
    axis_names=("x", "t"),
)
posterior = SpectralGPSolver(grid=GRID).fit(
    pde,
    [Periodic("x"), Initial(start)],
    observations=readings,
    method="nuts",
    num_chains=1 if SMOKE else 2,
    num_warmup=NUM_WARMUP,
    num_samples=NUM_SAMPLES,
    seed=0,
)
beta = posterior.draws.draws["beta"].reshape(-1)
low, high = np.quantile(beta, [0.05, 0.95])
print(f"true speed {BETA}; posterior {beta.mean():.4f} ± {beta.std():.4f}")
print(f"90 % interval [{low:.4f}, {high:.4f}]")
print(f"solver's error over noise: {posterior.diagnostics['solver_sd_over_noise']:.1e}")

# %%
# The speed, and the field that goes with it.
axis = torch.linspace(0, 1, 81, dtype=torch.float64)
field = posterior.mean(torch.cartesian_prod(axis, axis)).reshape(81, 81)
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
left.hist(beta, bins=30, density=True)
left.axvline(BETA, color="k")
left.set(xlabel="speed", ylabel="density")
image = right.imshow(field, origin="lower", extent=(0, 1, 0, 1), aspect="auto")
right.scatter(where[:, 1], where[:, 0], c=readings.y, edgecolors="k", s=25)
right.set(xlabel="t", ylabel="x", title="posterior mean and readings")
figure.colorbar(image, ax=right)
figure.savefig(OUT / "advection_inverse.png", dpi=120)

# %%
# The numbers that the test suite bounds.
deviations = abs(beta.mean() - BETA) / beta.std()
relative_width = (high - low) / BETA
