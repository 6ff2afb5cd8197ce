"""
The Allen-Cahn equation in two dimensions
=========================================

Δu + u(u² - 1) = f on the unit square, with a solution of three scales per axis. Newton's
iteration takes two or three linear solves on the whole grid; each is one Sylvester solve, or a
few iterations of GMRES preconditioned by it.
"""

# %%
import os
import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from probnet.gp_pde import SpectralGPSolver
from probnet.pde import PDE, Dirichlet, manufactured

NODES = 120 if os.environ.get("PROBNET_SMOKE") else 300
torch.set_num_threads(1)
OUT = Path("out")
OUT.mkdir(exist_ok=True)


def scales(s):
    return torch.sin(s) + 0.1 * torch.sin(20 * s) + torch.cos(100 * s)


def solution(x, y):
    return scales(x) * scales(y)


# %%
# The solver is given operator, source and boundary values; derivatives of u(u² - 1) are by
# automatic differentiation.
pde = PDE.semilinear(
    [(0, 1), (0, 1)],
    terms={(2, 0): 1.0, (0, 2): 1.0},
    nonlinearity=lambda u: u**3 - u,
    source=0.0,
)
pde = manufactured(pde, solution)
clock = time.process_time()
posterior = SpectralGPSolver(grid=NODES).fit(pde, Dirichlet(solution), seed=0)
seconds = time.process_time() - clock
found = posterior.diagnostics
print(f"{NODES} x {NODES} nodes, {seconds:.1f} s of CPU")
print(f"{found['newton_steps']} Newton steps, {found['gmres_iterations']} GMRES iterations")
print(f"relative residual {found['newton_residual']:.1e}")

# %%
# Error on a test grid of its own, and error bars.
axis = torch.linspace(0, 1, 201, dtype=torch.float64)
x = torch.cartesian_prod(axis, axis)
mean, truth = posterior.mean(x), solution(*x.unbind(1))
error = mean - truth
relative_error = float(torch.linalg.norm(error) / torch.linalg.norm(truth))
sd = posterior.sd(x)
print(f"relative L2 error {relative_error:.1e}, largest standard deviation {sd.max():.1e}")

# %%
# Solution, error and standard deviation.
figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
fields = {"u": mean, "log₁₀ |error|": error.abs().log10(), "log₁₀ sd": sd.log10()}
for panel, (name, field) in zip(axes, fields.items(), strict=True):
    image = panel.imshow(field.reshape(201, 201).mT, origin="lower", extent=(0, 1, 0, 1))
    panel.set(title=name, xlabel="x", ylabel="y")
    figure.colorbar(image, ax=panel, shrink=0.8)
figure.savefig(OUT / "allen_cahn_2d.png", dpi=120)

# %%
# The numbers that the test suite bounds.
newton_steps = found["newton_steps"]
