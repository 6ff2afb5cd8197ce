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
# orders of magnitude. The priors below are not that, but as wide: IG(1, 1), with nearly all its
# mass above 0.2, would be worse here than the best scale.
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
        fit(InverseGamma(0.5, 0.1), x[old], y[old]),
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
for prior in (InverseGamma(0.5, 0.1), HalfCauchy(1.0)):
    law = fit(prior, x, y).scale_posterior
    low, high = (float(law.icdf(torch.tensor(p, dtype=torch.float64))) for p in (0.05, 0.95))
    print(f"{prior!s:42} mean {float(law.mean):.2f}, 90 % in [{low:.2f}, {high:.2f}]")

# %%
# Both for that sensor: intervals of 90 %, and the density of one new reading, whose tails
# differ by orders of magnitude.
grid = torch.linspace(-4, 4, 200, dtype=torch.float64)[:, None]
readings = torch.linspace(-2, 3, 200, dtype=torch.float64)
shown = {
    "GP, best scale": gaussian_process(x, y),
    "Student-t process": fit(InverseGamma(0.5, 0.1), x, y),
}
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
for (name, posterior), color in zip(shown.items(), ("tab:orange", "tab:blue"), strict=True):
    interval = metrics.central_interval(posterior.predict(grid), 0.9)
    left.plot(grid, np.transpose(interval), color)
    one = posterior.predict(grid[-1:])
    right.semilogy(readings, one.log_prob(readings[:, None]).exp(), color=color, label=name)
left.plot(grid[:, 0], shown["Student-t process"].predict(grid).mean, "k", lw=1)
left.plot(x[:, 0], y, "k.")
left.set(xlabel="time", ylabel="reading")
right.set(xlabel="new reading at time 4", ylabel="density")
right.legend()
figure.savefig(OUT / "student_t_process.png", dpi=120)

# %%
# The number that the test suite bounds.
excess_nll = float(difference.mean())
