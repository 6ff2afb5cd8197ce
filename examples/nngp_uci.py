"""
Architectures by evidence
=========================

Infinitely wide networks of several depths and activations, with one learned scale per feature,
on a regression table: fitted by evidence in seconds, compared by it, mixed by it, and with
their hyper-parameters integrated out. No validation rows are needed.

The table is `diabetes`; any other in `PROBNET_DATA` by `PROBNET_TABLE=boston`.
"""

# %%
import os
import warnings
from pathlib import Path

import torch

from inference import InferenceWarning
from probnet import load, metrics
from probnet.datasets import load_regression
from probnet.kernels import NNGPKernel, mlp
from probnet.nngp import InverseGamma, ScaleMixtureGP, compare

SMOKE = bool(os.environ.get("PROBNET_SMOKE"))
NAME = os.environ.get("PROBNET_TABLE", "diabetes")
GRID = (
    [("relu", 1), ("erf", 1)] if SMOKE else [(a, d) for a in ("relu", "erf") for d in (1, 2, 4)]
)
torch.set_num_threads(1)
OUT = Path("out")
OUT.mkdir(exist_ok=True)

# %%
# The data in their own units; the model standardises on the training rows.
table = load_regression(NAME, split=0)
x, y = table.x_train, table.y_train
if SMOKE:
    x, y = x[:150], y[:150]


def model(activation, depth):
    kernel = NNGPKernel(mlp(depth, activation), ard_num_dims=x.shape[1])
    return ScaleMixtureGP(kernel, scale_prior=InverseGamma(2.0, 2.0), standardize=True)


# %%
# Every architecture by L-BFGS on the evidence, and the table of evidences.
fits = {
    f"{activation}, {depth}": model(activation, depth).fit(x, y) for activation, depth in GRID
}
mixture = compare(fits)
print(mixture.table())
best = next(iter(mixture.log_evidence))

# %%
# The best one with its hyper-parameters integrated: Laplace with Pareto-smoothed weights.
activation, depth = best.split(", ")
with warnings.catch_warnings():
    warnings.simplefilter("ignore", InferenceWarning)  # k-hat is printed below
    integrated = model(activation, int(depth)).fit(
        x, y, method="laplace", num_draws=60 if SMOKE else 400
    )
k = integrated.diagnostics["pareto_k"]
print(f"\nPareto k-hat of the integral over hyper-parameters: {k:.2f}")

# %%
# Test scores in the units of the data.
laws = {
    "best by evidence": mixture.best.predict(table.x_test),
    "evidence mixture": mixture.predict(table.x_test),
    "best, integrated": integrated.predict(table.x_test),
}
print(f"\n{'':18}{'RMSE':>8}{'NLL':>8}   90 % interval holds")
for name, law in laws.items():
    rmse = metrics.rmse(table.y_test, law.mean)
    nll = -float(law.log_prob(table.y_test).mean())
    inside = metrics.interval_coverage(table.y_test, law, [0.9])[0]
    print(f"{name:18}{rmse:8.2f}{nll:8.3f}   {inside:.2f}")

# %%
# Which features matter: their learned scales, largest first.
scales = mixture.best.kernel.input_scale.detach()[0]
for i in scales.argsort(descending=True)[:5].tolist():
    print(f"{table.feature_names[i]:>6}  {float(scales[i]):.3f}")

# %%
# A file of it, and back.
path = integrated.save(OUT / "nngp.posterior")
again = load(path)
nll_again = -float(again.predict(table.x_test).log_prob(table.y_test).mean())
nll_integrated = -float(laws["best, integrated"].log_prob(table.y_test).mean())
assert nll_again == nll_integrated
