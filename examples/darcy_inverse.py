"""
A two-phase medium from a hundred noisy pressures
=================================================

The pressure of Darcy flow is measured at random places with noise; which parts of the medium
are permeable? A generative operator turns the question into one about a latent vector, whose
posterior Hamiltonian Monte Carlo explores within seconds. The error of the network is part of
the likelihood, so that the intervals cover the truth as often as they claim.
"""

# %%
import os
import time
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from inference import InferenceWarning
from probnet.datasets.fields import LevelSetGRF
from probnet.neural_operator import Darcy2D, DGenNO, TwoPhase, invert, load_pretrained

SMOKE = bool(os.environ.get("PROBNET_SMOKE"))
torch.set_num_threads(1)
OUT = Path("out")
OUT.mkdir(exist_ok=True)

# %%
# An operator that was trained on media alone; a small one where this script is only tried.
if SMOKE:
    media = LevelSetGRF(tau=3.0, num_nodes=15)
    small = DGenNO(
        Darcy2D(source=10.0, mesh=(14, 14)), media.grid, TwoPhase(5.0, 10.0), latent_dim=16
    )
    trained = small.fit(media, num_steps=300, batch_size=64, num_validation=64, seed=0)
else:
    media = LevelSetGRF(tau=3.0)
    trained = load_pretrained("darcy_two_phase")
pde = trained.problem
print(f"relative error of the network: {trained.diagnostics['validation_relative_l2']:.4f}")

# %%
# The hidden medium, its flow, a hundred sensors, and noise 25 dB below the signal.
generator = torch.Generator().manual_seed(7)
truth = media.draw(1, generator)
solution = pde.solve(pde.coefficients(truth))
sensors = torch.rand(100, 2, generator=generator, dtype=torch.float64)
signal = pde.interpolate(solution, sensors)[0]
noise_sd = float(signal.square().mean().sqrt()) * 10 ** (-25 / 20)
y = signal + noise_sd * torch.randn(100, generator=generator, dtype=torch.float64)

# %%
# The posterior. `exact_correction="psis"` asks the exact solver whether importance weights
# could remove what is left of the network's error; the warning says when they cannot.
clock = time.process_time()
with warnings.catch_warnings():
    warnings.simplefilter("ignore", InferenceWarning)
    posterior = invert(
        trained,
        y,
        sensors,
        noise_sd=noise_sd,
        method="hmc",
        num_samples=100 if SMOKE else 500,
        seed=0,
    )
found = posterior.diagnostics
print(f"{time.process_time() - clock:.0f} CPU seconds; the draws are of the {found['law']}")
print(f"R-hat {found['rhat_z_max']:.3f}, k-hat of the exact solver {found['pareto_k']:.2f}")

# %%
# Truth and sensors, posterior mean, probability of the permeable phase, width of the interval
# of the pressure.
probability = posterior.probability_above(7.5)
lower, upper = posterior.interval("u", 0.9)
panels = {
    "medium and sensors": truth[0],
    "posterior mean": posterior.input_mean,
    "P(a = high)": probability,
    "width of the 90 % interval of u": (upper - lower).reshape(pde.solution_shape),
}
figure, axes = plt.subplots(1, 4, figsize=(13, 2.9), layout="constrained")
for axis, (title, values) in zip(axes, panels.items(), strict=True):
    image = axis.imshow(values.T.numpy(), origin="lower", extent=(0, 1, 0, 1))
    figure.colorbar(image, ax=axis, shrink=0.8)
    axis.set(title=title, xticks=[], yticks=[])
axes[0].plot(*sensors.T.numpy(), ".", color="white", markersize=3)
figure.savefig(OUT / "darcy_inverse.png", dpi=120)

# %%
# The numbers that the test suite bounds: pixels given to the wrong phase, of which a guess has
# a half, and the share of the pressure's 90 % intervals that miss the truth.
wrong_pixels = float(((probability > 0.5) != (truth[0] > 7.5)).double().mean())
inside = (solution.flatten() >= lower) & (solution.flatten() <= upper)
inner = pde.mollifier(pde.nodes) > 0
missed = 1 - float(inside[inner].double().mean())
print(f"wrong pixels {wrong_pixels:.3f}, intervals that miss {missed:.3f}")
