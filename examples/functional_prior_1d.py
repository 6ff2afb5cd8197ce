"""
A network whose prior is a function you chose
=============================================

Standard normal weights make a tanh network draw functions that nobody asked for. Here the prior
of the weights is matched to a Gaussian process of known smoothness, and both networks are then
fitted to the same 64 points with a gap. The matched one is uncertain where it should be.

After Tran, Rossi, Milios and Filippone (JMLR 2022), first experiment.
"""

# %%
import os
from pathlib import Path

import gpytorch
import matplotlib.pyplot as plt
import torch

from probnet.bnn import BNN, BayesianMLP, GPTarget, Grid, match_prior

SMOKE = bool(os.environ.get("PROBNET_SMOKE"))  # the test suite takes fewer steps
torch.set_num_threads(1)
OUT = Path("out")
OUT.mkdir(exist_ok=True)

# %%
# The wanted functions: a Gaussian process of lengthscale 0.6 and variance 1 in units of the
# standardised input.
kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())
kernel.base_kernel.lengthscale, kernel.outputscale = 0.6, 1.0
target = GPTarget(kernel)

# %%
# A network of random cosine features represents it exactly; nothing is optimised.
network = BayesianMLP(input_dim=1, hidden=[100], family="rff")
match = match_prior(network, target, Grid(-3, 3, 60), seed=0)
print(f"covariance error after matching: {match.report.cov_frobenius:.3f}")
baseline = BayesianMLP(input_dim=1, hidden=[50, 50])

# %%
# The data: 64 points of a smooth function on [-10, 10], none in the middle.
noise = torch.Generator().manual_seed(1)
x = 20 * torch.rand(64, 1, generator=noise, dtype=torch.float64) - 10
x = torch.where(x.abs() < 3, x.sign() * 6 + x, x)
truth = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())
truth.base_kernel.lengthscale, truth.outputscale = 1.8, 1.6**2
x_test = torch.linspace(-15, 15, 100, dtype=torch.float64)[:, None]
f = GPTarget(truth).sample(torch.cat([x, x_test]), 1, seed=1)[0]
y = f[:64] + 0.1**0.5 * torch.randn(64, generator=noise, dtype=torch.float64)

# %%
# Both posteriors: four chains of scale-adapted SGHMC, with learned noise.
options = {
    "num_chains": 4,
    "num_warmup": 1500 if SMOKE else 2000,
    "num_samples": 10 if SMOKE else 40,
    "thin": 50 if SMOKE else 500,
    "seed": 0,
}
posteriors = {
    "N(0, 1) weights": BNN(baseline).fit(x, y, **options),
    "matched prior": BNN(match.prior).fit(x, y, **options),
}

# %%
# Prior draws above, posterior bands below.
figure, axes = plt.subplots(2, 2, figsize=(10, 6), layout="constrained", sharex="row")
for column, (name, posterior) in enumerate(posteriors.items()):
    draws = posterior.sample_prior(8, x_test, seed=0)
    axes[0, column].plot(x_test[:, 0], draws.T, lw=1)
    axes[0, column].set(title=name, ylabel="prior draws")
    law = posterior.predict(x_test)
    lower, upper = (law.icdf(torch.tensor(q)) for q in (0.05, 0.95))
    ax = axes[1, column]
    ax.fill_between(x_test[:, 0], lower, upper, color="tab:blue", alpha=0.2, label="90 %")
    ax.plot(x_test[:, 0], law.mean, color="tab:blue", label="mean")
    ax.plot(x_test[:, 0], f[64:], color="0.4", lw=1, ls="--", label="truth")
    ax.plot(x[:, 0], y, "k.", ms=4)
    ax.set(ylabel="posterior", xlabel="x")
axes[1, 0].legend(frameon=False)
figure.savefig(OUT / "functional_prior_1d.png", dpi=110)

# %%
# The numbers that the test suite bounds: NLL at new points within the range of the data.
inside = x_test[:, 0].abs() < 10
y_test = f[64:] + 0.1**0.5 * torch.randn(100, generator=noise, dtype=torch.float64)
nll = {
    name: -float(p.predict(x_test).log_prob(y_test)[inside].mean())
    for name, p in posteriors.items()
}
print(", ".join(f"{name}: NLL {value:.3f}" for name, value in nll.items()))
covariance_error, nll_matched = match.report.cov_frobenius, nll["matched prior"]
