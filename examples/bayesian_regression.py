"""
A Bayesian neural network on real data
======================================

Disease progression of 442 diabetes patients from ten measurements: a network with one hidden
layer and learned noise, written as a Pyro model and sampled by SGHMC with eight chains at
once, beside a Bayesian linear regression sampled by NUTS. Both are scored on held-out patients.
"""

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import torch

import inference
from probnet import DrawsMixture, metrics
from probnet.datasets import load_regression
from probnet.networks import MLP

SMOKE = bool(os.environ.get("PROBNET_SMOKE"))  # the test suite takes fewer steps
LEVELS = [0.5, 0.8, 0.95]
torch.set_num_threads(1)  # on tensors this small, more threads only wait for each other
OUT = Path("out")
OUT.mkdir(exist_ok=True)

# %%
# The data, in standard units. The scaling is fitted on the 398 training patients alone.
table = load_regression("diabetes", split=0)
x, x_test = (table.x_standardizer.transform(v) for v in (table.x_train, table.x_test))
y = table.y_standardizer.transform(table.y_train)

# %%
# The network as a Pyro model. In the NTK parametrisation every weight is N(0, 1) a priori.
net = MLP(input_dim=10, hidden=[50], activation="tanh")


def network(x, y):
    weights = {
        name: pyro.sample(name, dist.Normal(0.0, 1.0).expand(shape).to_event(len(shape)))
        for name, shape in net.parameter_shapes.items()
    }
    noise_sd = pyro.sample("noise_sd", dist.HalfNormal(1.0))
    with pyro.plate("patient", len(x)):
        pyro.sample("y", dist.Normal(net(x, weights).squeeze(-1), noise_sd), obs=y)


def linear(x, y):
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([10]).to_event(1))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    noise_sd = pyro.sample("noise_sd", dist.HalfNormal(1.0))
    with pyro.plate("patient", len(x)):
        pyro.sample("y", dist.Normal(x @ w + b, noise_sd), obs=y)


# %%
# Posterior draws: 8 chains of SGHMC as one batched computation, and NUTS for the baseline.
network_draws = inference.sample(
    network,
    (x, y),
    method="sghmc",
    num_chains=8,
    num_warmup=200 if SMOKE else 1000,
    num_samples=40 if SMOKE else 250,
    thin=1 if SMOKE else 10,
    step_size=0.03,
    friction=1.0,
    init="prior",
    seed=0,
)
linear_draws = inference.sample(
    linear,
    (x, y),
    method="nuts",
    num_chains=2,
    num_warmup=50 if SMOKE else 200,
    num_samples=50 if SMOKE else 500,
    full_mass=True,  # the blood tests are strongly correlated
    seed=0,
)


# %%
# Predictions for the held-out patients, in the data's units: one normal law per draw, mixed.
def network_at_test(params):
    return net(x_test, {name: params[name] for name in net.parameter_shapes}).squeeze(-1)


network_mean = network_draws.predict(network_at_test)
linear_mean = linear_draws.predict(lambda p: x_test @ p["w"] + p["b"])


def forecast(mean, noise_sd):
    """The predictive law of every test patient: a mixture of one normal per draw."""
    scale = table.y_standardizer
    means = scale.inverse(torch.tensor(mean)).flatten(0, 1)
    sds = scale.inverse_sd(torch.tensor(noise_sd)).flatten()[:, None].expand_as(means)
    return DrawsMixture(dist.Normal(means, sds))


forecasts = {
    "network, SGHMC": forecast(network_mean, network_draws.draws["noise_sd"]),
    "linear, NUTS": forecast(linear_mean, linear_draws.draws["noise_sd"]),
}

# %%
# Scores on the test patients; lower is better, coverage should equal the level.
print(f"\n{'':16}{'RMSE':>8}{'NLL':>8}{'CRPS':>8}   coverage at 50 %, 80 %, 95 %")
for name, law in forecasts.items():
    rmse = metrics.rmse(table.y_test, law.mean)
    nll = -float(law.log_prob(table.y_test).mean())
    crps = metrics.crps_mixture(table.y_test, law.components.mean, law.components.stddev)
    coverage = metrics.interval_coverage(table.y_test, law, LEVELS)
    print(
        f"{name:16}{rmse:8.2f}{nll:8.3f}{crps:8.2f}   "
        + ", ".join(f"{c:.2f}" for c in coverage)
    )

# %%
# The ArviZ summary. Weights of a network have no meaning one by one (hidden units may be
# swapped), so convergence is judged on the noise and on predictions.
rhat = inference.diagnostics.rhat(network_mean)
ess = inference.diagnostics.ess(network_mean)
print(f"\npredictions of {rhat.size} patients: largest R-hat {rhat.max():.3f}, ", end="")
print(f"smallest ESS {ess.min():.0f} of {network_mean[..., 0].size} draws\n")
print(network_draws.summary(var_names=["noise_sd"]).to_string())
saved = network_draws.save(OUT / "posterior.nc", groups={"predictions": {"mean": network_mean}})
print(f"\nposterior written to {saved}")

# %%
# Figures: are the intervals right, what do they look like, and do the chains agree?
COLOURS = dict(zip(forecasts, ["tab:blue", "tab:orange"], strict=True))


def plot_calibration(ax):
    levels = np.linspace(0.05, 0.95, 19)
    spread = 1.96 * np.sqrt(levels * (1 - levels) / len(table.y_test))
    ax.fill_between(levels, levels - spread, levels + spread, color="0.9", label="95 % chance")
    for name, law in forecasts.items():
        shares = metrics.interval_coverage(table.y_test, law, levels)
        ax.plot(levels, shares, marker="o", ms=3, color=COLOURS[name], label=name)
    ax.plot([0, 1], [0, 1], color="0.4", lw=0.8)
    ax.set(xlabel="nominal level of the interval", ylabel="share of test patients inside")
    ax.set(xlim=(0, 1), ylim=(0, 1), title="Calibration")
    ax.legend(frameon=False, loc="upper left")


def plot_intervals(ax):
    law = forecasts["network, SGHMC"]
    order = torch.argsort(law.mean)
    position = np.arange(len(order))
    for level, alpha in ((0.95, 0.15), (0.5, 0.35)):
        lower, upper = metrics.central_interval(law, level)
        label = f"{level:.0%} interval"
        ends = lower[order], upper[order]
        ax.fill_between(position, *ends, color="tab:blue", alpha=alpha, lw=0, label=label)
    ax.plot(position, law.mean[order], color="tab:blue", lw=1, label="mean")
    ax.plot(position, table.y_test[order], "k.", ms=5, label="observed")
    ax.set(xlabel="test patient, by predicted mean", ylabel="disease progression")
    ax.set(title="Predictions of the network")
    ax.legend(frameon=False, loc="upper left", ncols=2)


def plot_ranks(ax):
    noise_sd = network_draws.draws["noise_sd"]
    ranks = noise_sd.ravel().argsort().argsort().reshape(noise_sd.shape)
    bins = np.linspace(0, noise_sd.size, 11)
    for chain, values in enumerate(ranks):
        counts, _ = np.histogram(values, bins)
        ax.stairs(
            chain + 0.8 * counts / (2 * values.size / 10), bins, baseline=chain, fill=True
        )
        ax.axhline(chain + 0.4, color="k", lw=0.5, ls=":")
    ax.set(xlabel="rank among all draws", ylabel="chain", yticks=range(len(ranks)))
    ax.set(title="Ranks of noise_sd (dotted: uniform)")


panels = {"calibration": plot_calibration, "intervals": plot_intervals, "ranks": plot_ranks}
for name, plot in panels.items():
    figure, ax = plt.subplots(figsize=(5, 4), layout="constrained")
    plot(ax)
    figure.savefig(OUT / f"{name}.png", dpi=150)
    plt.close(figure)
figure, axes = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
for ax, plot in zip(axes, panels.values(), strict=True):
    plot(ax)
figure.savefig(OUT / "bayesian_regression.png", dpi=110)

# %%
# The numbers that the test suite bounds.
nll_network, nll_linear = (-float(f.log_prob(table.y_test).mean()) for f in forecasts.values())
excess_nll = nll_network - nll_linear
