"""
Two-phase flow, learned without solving it
==========================================

The pressure of Darcy flow in media of two permeabilities, as a function of the medium: a
generative operator is trained on media alone, fresh ones at every step. The energy of the flow,
exact on the mesh, takes the place of solved examples. A projection on the network's own
solutions then gives a decoder whose error is certified.
"""

# %%
import os
import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from probnet import metrics
from probnet.datasets.fields import LevelSetGRF
from probnet.neural_operator import Darcy2D, DGenNO, TwoPhase

SMOKE = bool(os.environ.get("PROBNET_SMOKE"))
NUM_STEPS = 120 if SMOKE else 1000
MESH, NODES = ((14, 14), 15) if SMOKE else ((56, 56), 29)
NUM_TEST = 20 if SMOKE else 200
torch.set_num_threads(1)
OUT = Path("out")
OUT.mkdir(exist_ok=True)

# %%
# The equation -∇·(a∇u) = 10 on the unit square, u = 0 on its boundary; a is 5 or 10.
pde = Darcy2D(source=10.0, mesh=MESH)
media = LevelSetGRF(tau=3.0, num_nodes=NODES)
clock = time.process_time()
model = DGenNO(pde, media.grid, TwoPhase(5.0, 10.0), latent_dim=64)
trained = model.fit(media, num_steps=NUM_STEPS, batch_size=64, num_validation=32, seed=0)
print(f"{NUM_STEPS} steps: {time.process_time() - clock:.0f} CPU seconds")

# %%
# Errors on media that were never seen, and on media whose phases change three times as fast.
truths, predictions = {}, {}
for name, tau in (("same law", 3.0), ("finer media", 9.0)):
    a = LevelSetGRF(tau=tau, num_nodes=NODES).sample(NUM_TEST, seed=1)
    truths[name] = pde.solve(pde.coefficients(a)).flatten(1)
    predictions[name] = trained.predict(a).mean
    error = metrics.relative_l2(truths[name], predictions[name], case_axis=0)
    ratio = float(predictions[name].sum() / truths[name].sum())
    print(f"{name:12} relative L2 error {error:.4f}, mean prediction / mean truth {ratio:.4f}")

# %%
# The hybrid decoder: the network's solutions, none of them exact, span a space in which the
# equation is solved. The residual bounds its error without knowing the solution.
basis = trained.galerkin(media.sample(4 * NUM_TEST, seed=2), num_modes=20 if SMOKE else 100)
a = media.sample(NUM_TEST, seed=1)
projected = basis.solve(pde.coefficients(a))
projection_error = metrics.relative_l2(
    truths["same law"], projected.values.flatten(1), case_axis=0
)
print(f"projection on {basis.num_modes} modes: relative L2 error {projection_error:.4f}")

# %%
# A medium, its flow, the prediction's error, and the standard deviation claimed for it.
law = trained.predict(a[:1])
shape = pde.solution_shape
truth = truths["same law"][0].reshape(shape)
panels = {
    "medium a": a[0],
    "solution u": truth,
    "prediction - u": law.mean[0].reshape(shape) - truth,
    "claimed sd": law.stddev[0].reshape(shape),
}
figure, axes = plt.subplots(1, 4, figsize=(12, 2.8), layout="constrained")
for axis, (title, values) in zip(axes, panels.items(), strict=True):
    image = axis.imshow(values.T.numpy(), origin="lower", extent=(0, 1, 0, 1))
    figure.colorbar(image, ax=axis, shrink=0.8)
    axis.set(title=title, xticks=[], yticks=[])
figure.savefig(OUT / "darcy_forward.png", dpi=120)

# %%
# The numbers that the test suite bounds. The mean of the solutions, which needs solutions,
# is the prediction to beat.
mean = truths["same law"].mean(0).expand_as(truths["same law"])
control = metrics.relative_l2(truths["same law"], mean, case_axis=0)
error = metrics.relative_l2(truths["same law"], predictions["same law"], case_axis=0)
relative_to_mean = error / control
