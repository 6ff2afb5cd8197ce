"""
A Student-t process on little data
==================================

Eight readings of a sensor whose scale is anybody's guess, for many sensors: a Gaussian process
with its scale at the best value, beside scale mixtures, which integrate it. All have the same
kernel, that of an infinitely wide ReLU network, and the same means; the mixtures have heavier
tails.
"""

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from probnet import metrics
from probnet.kernels import NNGPKernel, mlp
from probnet.nngp import HalfCauchy, InverseGamma, PointMass, ScaleMixtureGP

SMOKE = bool(os.environ.get("PROBNET_SMOKE"))
NUM_SENSORS = 30 if SMOKE else 300
NUM_READINGS, NUM_NEW, NOISE_RATIO = 8, 40, 0.01
torch.set_num_threads(1)
OUT = Path("out")
OUT.mkdir(exist_ok=True)

# %%
# Every sensor is a function of time with a scale of its own; the scales are log-normal over two
# orders of magnitude, which is none of the priors below.
rng = np.random.default_rng(0)
kernel = NNGPKernel(mlp(depth=2, activation="relu"), w_var=2.0, b_var=0.5, last_w_var=1.0)
time = torch.from_numpy(rng.uniform(-3, 3, (NUM_SENSORS, NUM_READINGS + NUM_NEW, 1)))
noise = NOISE_RATIO * torch.eye(NUM_READINGS + NUM_NEW, dtype=torch.float64)
root = torch.linalg.cholesky(kernel(time).to_dense().detach() + noise)
scale = torch.from_numpy(np.exp(rng.normal(0, 1, NUM_SENSORS)))
white = torch.from_numpy(rng.normal(size=(NUM_SENSORS, NUM_READINGS + NUM_NEW, 1)))
reading = scale[:, None] * (root @ white)[..., 0]


def fit(prior, x, y):
    model = ScaleMixtureGP(kernel, scale_prior=prior, noise_ratio=NOISE_RATIO)
    return model.fit(x, y, optimize=False)


def gaussian_process(x, y):
    """The scale of largest likelihood, q/n."""
    quadratic = fit(PointMass(1.0), x, y).solution.summary.quadratic
    return fit(PointMass(float(quadratic) / len(y)), x, y)


# %%
# The scores of new readings.
scores = {"GP, best scale": [], "Student-t process": [], "half-Cauchy mixture": []}
inside = {name: [] for name in scores}
for x, y in zip(time, reading, strict=True):
    old, new = slice(NUM_READINGS), slice(NUM_READINGS, None)
    posteriors = [
        gaussian_process(x[old], y[old]),
        fit(InverseGamma(1.0, 1.0), x[old], y[old]),
        fit(HalfCauchy(1.0), x[old], y[old]),
    ]
    for name, posterior in zip(scores, posteriors, strict=True):
        law = posterior.predict(x[new])
        scores[name].append(-float(law.log_prob(y[new]).mean()))
        inside[name].append(metrics.interval_coverage(y[new], law, [0.9])[0])
print(f"{'':20}{'NLL':>8}   90 % interval holds")
for name, values in scores.items():
    print(f"{name:20}{np.mean(values):8.3f}   {np.mean(inside[name]):.3f}")
difference = np.subtract(scores["Student-t process"], scores["GP, best scale"])
error = difference.std() / NUM_SENSORS**0.5
print(f"\nStudent-t process minus GP: {difference.mean():+.3f} ± {error:.3f} nats per reading")

# %%
# What is known of one sensor's σ² after its readings.
x, y = time[0, :NUM_READINGS], reading[0, :NUM_READINGS]
print(f"\ntrue σ² {float(scale[0] ** 2):.2f}")
for prior in (InverseGamma(1.0, 1.0), HalfCauchy(1.0)):
    law = fit(prior, x, y).scale_posterior
    low, high = (float(law.icdf(torch.tensor(p, dtype=torch.float64))) for p in (0.05, 0.95))
    print(f"{prior!s:42} mean {float(law.mean):.2f}, 90 % in [{low:.2f}, {high:.2f}]")

# %%
# The intervals of both.
grid = torch.linspace(-4, 4, 200, dtype=torch.float64)[:, None]
figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), sharey=True, layout="constrained")
shown = {
    "GP, best scale": gaussian_process(x, y),
    "Student-t process": fit(InverseGamma(1.0, 1.0), x, y),
}
for ax, (name, posterior) in zip(axes, shown.items(), strict=True):
    law = posterior.predict(grid)
    for level, alpha in ((0.95, 0.15), (0.5, 0.35)):
        lower, upper = metrics.central_interval(law, level)
        ax.fill_between(grid[:, 0], lower, upper, color="tab:blue", alpha=alpha, lw=0)
    ax.plot(grid[:, 0], law.mean, color="tab:blue", lw=1)
    ax.plot(x[:, 0], y, "k.")
    ax.set(title=name, xlabel="time")
axes[0].set(ylabel="reading")
figure.savefig(OUT / "student_t_process.png", dpi=120)

# %%
# The number that the test suite bounds.
excess_nll = float(difference.mean())
