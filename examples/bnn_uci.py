"""
Matched priors on tables
========================

A network with one hidden layer on a regression table, with standard normal weights and with a
prior matched to a hierarchical Gaussian process, each with the noise fixed at the paper's 0.1
(of the standardised target's variance) and learned. The bundled diabetes table is used, or,
with the folder of UCI tables in `PROBNET_DATA`, that named by the variable `TABLE`.
"""

# %%
import os

import torch

from probnet import metrics
from probnet.bnn import BNN, BayesianMLP, HierarchicalGPTarget, MeasurementSet, match_prior
from probnet.datasets import load_regression

SMOKE = bool(os.environ.get("PROBNET_SMOKE"))  # the test suite takes fewer steps
torch.set_num_threads(1)
table = load_regression("diabetes" if SMOKE else os.environ.get("TABLE", "diabetes"), split=0)
input_dim = table.x_train.shape[1]

# %%
# Match: lengthscales and variance of the Gaussian process are random, too.
network = BayesianMLP(input_dim=input_dim, hidden=[20 if SMOKE else 100])
sets = MeasurementSet(table.x_train, size=40 if SMOKE else 100)
match = match_prior(network, HierarchicalGPTarget(input_dim), sets, seed=0)
print({name: round(std, 2) for name, std in match.prior.stds.items()})
print(f"W2²/M {match.report.w2_squared_per_point:.3f} in {match.report.seconds:.1f} CPU-s")

# %%
# Sample, with the paper's chain lengths but shorter strides.
options = {
    "num_chains": 4,
    "num_warmup": 300 if SMOKE else 2000,
    "num_samples": 10 if SMOKE else 30,
    "thin": 10 if SMOKE else 500,
    "seed": 1,
}
models = {
    "N(0, 1), noise 0.1": BNN(network, noise_var=0.1),
    "matched, noise 0.1": BNN(match.prior, noise_var=0.1),
    "matched, learned noise": BNN(match.prior),
}
rmse, nll = {}, {}
print(f"\n{'':24}{'RMSE':>8}{'NLL':>8}   90 % coverage")
for name, model in models.items():
    posterior = model.fit(table.x_train, table.y_train, **options)
    law = posterior.predict(table.x_test)
    rmse[name] = metrics.rmse(table.y_test, law.mean)
    nll[name] = -float(law.log_prob(table.y_test).mean())
    (coverage,) = metrics.interval_coverage(table.y_test, law, [0.9])
    print(f"{name:24}{rmse[name]:8.3f}{nll[name]:8.3f}   {coverage:.2f}")

# %%
# The numbers that the test suite bounds.
nll_learned = nll["matched, learned noise"]
excess_rmse = rmse["matched, learned noise"] - rmse["N(0, 1), noise 0.1"]
