"""
From simulated populations to the lynx and the hare
===================================================

A neural process is trained on simulated predators and prey only, and is then asked about the
pelts of lynx and hare that the Hudson's Bay Company bought from 1900 to 1920: some years are
given, the others predicted. No parameter of the dynamics is fitted to the real series.
"""

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch.distributions import Normal

from probnet.datasets import HareLynxTasks, PredatorPreyTasks
from probnet.neural_process import CANP

SMOKE = bool(os.environ.get("PROBNET_SMOKE"))  # the test suite takes fewer steps
torch.set_num_threads(1)
OUT = Path("out")
OUT.mkdir(exist_ok=True)

# %%
# Simulations of about two cycles, as the real series has. Times and populations are given to
# the network in units of each context's mean and standard deviation.
simulated = PredatorPreyTasks(
    num_simulations=60 if SMOKE else 2000,
    num_events=2500 if SMOKE else 4000,
    num_context=(7, 40),
    num_target=(7, None),
    max_points=60,
    seed=0,
)
network = CANP(y_dim=2, width=32 if SMOKE else 64, num_heads=4, likelihood="student_t")
trained = network.fit(
    simulated, num_steps=200 if SMOKE else 3000, batch_size=16, learning_rate=2e-3, seed=0
)

# %%
# Log densities of targets, each year and species by itself. The yardstick knows only the mean
# and the standard deviation of the given years.
real = HareLynxTasks(num_context=(7, 17), seed=0)


def score(batch):
    law = trained.condition(batch.xc, batch.yc, mask=batch.mask_c).predict(batch.xt)
    ours = law.log_prob(batch.yt.double())[batch.mask_t]
    plain = Normal(0.0, 1.0).log_prob(batch.yt).sum(-1)[batch.mask_t]
    return float(ours.mean()) / 2, float(plain.mean()) / 2


streams = {"simulated": simulated, "real": real}
scores = {name: score(stream.split("test", 64)) for name, stream in streams.items()}
for name, (ours, plain) in scores.items():
    print(f"{name}: log density per number {ours:.3f}, of N(0, 1) {plain:.3f}")

# %%
# One division of the real series, back in thousands of pelts.
batch = HareLynxTasks(num_context=(12, 12), seed=1).split("test", 1)
time, pelts = real.time[:, 0], real.populations
x_all, y_all = batch.x[0, batch.mask[0], 0].double(), batch.y[0, batch.mask[0]].double()
order = x_all.argsort()
x_unit = (time[-1] - time[0]) / (x_all.max() - x_all.min())
y_unit = pelts.std(0) / y_all.std(0)
y_shift = pelts.mean(0) - y_unit * y_all.mean(0)
grid = torch.linspace(float(x_all.min()), float(x_all.max()), 120).double()[None, :, None]
law = trained.condition(batch.xc, batch.yc, mask=batch.mask_c).predict(grid)
middle = y_shift + y_unit * law.mean[0]
low, high = (y_shift + y_unit * law.icdf(p)[0] for p in (0.05, 0.95))
years = time[0] + x_unit * (grid[0, :, 0] - x_all.min())
given = batch.xc[0, batch.mask_c[0], 0].double()
given_years = (time[0] + x_unit * (given - x_all.min())).round().long() - 1900
figure, axes = plt.subplots(2, 1, sharex=True, figsize=(6, 4.5))
years, low, high, middle, time, pelts, given_years = (
    t.numpy() for t in (years, low, high, middle, time, pelts, given_years)
)
for i, name in enumerate(("lynx", "hare")):
    axes[i].fill_between(years, low[:, i], high[:, i], alpha=0.25)
    axes[i].plot(years, middle[:, i])
    axes[i].plot(time, pelts[:, i], "o", mfc="none", color="black", label="to predict")
    axes[i].plot(time[given_years], pelts[given_years, i], "o", color="black", label="given")
    axes[i].set_ylabel(f"{name}, thousands")
axes[0].legend()
figure.tight_layout()
figure.savefig(OUT / "np_hare_lynx.png", dpi=120)

# %%
excess = {name: plain - ours for name, (ours, plain) in scores.items()}
excess_simulated, excess_real = excess["simulated"], excess["real"]
print(f"excess over N(0, 1) on the real series: {excess_real:.3f} nats per number")
