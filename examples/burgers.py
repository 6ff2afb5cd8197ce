"""
Burgers' equation from its residual
===================================

Solutions of u_t + u u_x = ν u_xx as a function of their initial values: trained on random
initial values and the equation's residual in the dual norm. Cole and Hopf's exact solution is
the judge, and is never seen.
"""

# %%
import math
import os
import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from probnet import metrics
from probnet.datasets.fields import SineSeries
from probnet.neural_operator import Burgers, DenseEncoder, DGenNO, GaussianInput

SMOKE = bool(os.environ.get("PROBNET_SMOKE"))
NUM_STEPS = 60 if SMOKE else 1500
MESH, NODES = ((24, 12), 33) if SMOKE else ((64, 32), 129)
torch.set_num_threads(1)
OUT = Path("out")
OUT.mkdir(exist_ok=True)

# %%
# Odd sine series of 8 modes with rms 0.25; they are zero at both ends, and so is what the
# model generates. Initial values are exact in its solutions: the heat equation continues them.
pde = Burgers(viscosity=0.1 / math.pi, mesh=MESH)
fields = SineSeries(num_modes=8, rms=0.25, num_nodes=NODES)
model = DGenNO(
    pde,
    fields.grid,
    GaussianInput(noise_sd=0.01, zero_at_ends=True),
    latent_dim=16,
    encoder=DenseEncoder(hidden=(128, 128)),
)
clock = time.process_time()
trained = model.fit(fields, num_steps=NUM_STEPS, batch_size=64, num_validation=32, seed=0)
print(f"{NUM_STEPS} steps: {time.process_time() - clock:.0f} CPU seconds")

# %%
# 100 unseen initial values against the exact solution; no convection (the heat equation, which
# the ansatz knows) is the prediction to beat.
start = fields.sample(100, seed=1)
exact = pde.reference(start).flatten(1)
predicted = trained.predict(start).mean
heat = pde.ansatz(pde.nodes)(torch.zeros_like(exact), pde.coefficients(start))
error = metrics.relative_l2(exact, predicted, case_axis=0)
heat_error = metrics.relative_l2(exact, heat, case_axis=0)
print(f"relative L2 error {error:.4f}; without convection {heat_error:.4f}")

# %%
# One of them in space and time, and at the last time.
x, t = (torch.linspace(low, 1, n + 1) for low, n in zip((-1, 0), MESH, strict=True))
shape = pde.solution_shape
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3), layout="constrained")
for axis, values, title in (
    (left, exact[0], "exact"),
    (middle, predicted[0] - exact[0], "prediction - exact"),
):
    image = axis.pcolormesh(t.numpy(), x.numpy(), values.reshape(shape).numpy())
    figure.colorbar(image, ax=axis)
    axis.set(xlabel="t", ylabel="x", title=title)
right.plot(x, exact[0].reshape(shape)[:, 0])
right.plot(x, exact[0].reshape(shape)[:, -1], "k")
right.plot(x, predicted[0].reshape(shape)[:, -1], "--")
right.set(xlabel="x", title="t = 0, t = 1 exact, t = 1 predicted")
figure.savefig(OUT / "burgers.png", dpi=120)

# %%
# The numbers that the test suite bounds.
relative_to_heat = error / heat_error
