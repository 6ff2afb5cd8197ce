"""
Digits, and digits that were never seen
=======================================

A residual convolutional network on scikit-learn's 8x8 digits with one matched prior per layer,
beside a deep ensemble and Monte Carlo dropout. All are asked about noisy and about rotated
digits, too: a good posterior is less sure of them.
"""

# %%
import os

import gpytorch
import numpy as np
import torch
from sklearn.datasets import load_digits

from probnet import metrics
from probnet.bnn import BNN, BayesianConvNet, GPTarget, MeasurementSet, match_prior
from probnet.likelihoods import Categorical

SMOKE = bool(os.environ.get("PROBNET_SMOKE"))  # the test suite takes fewer steps
torch.set_num_threads(1)
digits = load_digits()
images = torch.from_numpy(digits.data / 16 - 0.5)
labels = torch.from_numpy(digits.target)
order = torch.from_numpy(np.random.default_rng(0).permutation(len(images)))
train, test = order[: 200 if SMOKE else 1000], order[-400:]
generator = torch.Generator().manual_seed(0)
x_test, y_test = images[test], labels[test]
shifted = {
    "test digits": x_test,
    "with noise": x_test + 0.4 * torch.randn(x_test.shape, generator=generator),
    "rotated by 90 degrees": x_test.reshape(-1, 8, 8).rot90(dims=(1, 2)).reshape(-1, 64),
}

# %%
# One logit is to behave like a Gaussian process on pixels, of standard deviation 3.
network = BayesianConvNet(
    (1, 8, 8), num_channels=4 if SMOKE else 8, num_blocks=1, output_dim=10
)
kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())
kernel.base_kernel.lengthscale, kernel.outputscale = 4.0, 9.0
sets = MeasurementSet(
    images[train], size=20 if SMOKE else 60, data_fraction=1.0, standardize=False
)
match = match_prior(network, GPTarget(kernel), sets, seed=0)
print({name: round(std, 2) for name, std in match.prior.stds.items()})

# %%
posterior = BNN(match.prior, Categorical(10), standardize=False).fit(
    images[train],
    labels[train],
    num_chains=2 if SMOKE else 4,
    num_warmup=300 if SMOKE else 1500,
    num_samples=5 if SMOKE else 20,
    thin=10 if SMOKE else 100,
    step_size=0.02,
    seed=0,
)


# %%
# The baselines: five networks by Adam, and one with dropout that stays on.
def trained(dropout=0.0):
    net = torch.nn.Sequential(
        torch.nn.Unflatten(1, (1, 8, 8)),
        torch.nn.Conv2d(1, 8, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 8, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Dropout(dropout),
        torch.nn.Linear(512, 10),
    )
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3, weight_decay=1e-4)
    for _ in range(40 if SMOKE else 300):
        rows = train[torch.randint(len(train), (64,))]
        loss = torch.nn.functional.cross_entropy(net(images[rows].float()), labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net


def averaged(nets):
    return lambda x: torch.stack([net(x.float()).softmax(-1) for net in nets]).mean(0).double()


with torch.random.fork_rng():
    torch.manual_seed(0)
    ensemble = averaged([trained() for _ in range(5)])
    dropout = averaged([trained(dropout=0.3)] * 20)
    methods = {
        "matched BNN": lambda x: posterior.predict(x).probs,
        "deep ensemble": ensemble,
        "MC dropout": dropout,
    }
    with torch.no_grad():
        probabilities = {m: {n: f(x) for n, x in shifted.items()} for m, f in methods.items()}

# %%
# Accuracy and NLL on test digits; mean predictive entropy on all three.
print(f"\n{'':16}{'acc':>7}{'NLL':>7}{'ECE':>7}   entropy: {', '.join(shifted)}")
for method, found in probabilities.items():
    p = found["test digits"]
    entropies = [float(-torch.xlogy(q, q).sum(-1).mean()) for q in found.values()]
    print(
        f"{method:16}{metrics.accuracy(y_test, p):7.3f}"
        f"{metrics.nll_categorical(y_test, p):7.3f}"
        f"{metrics.expected_calibration_error(y_test, p):7.3f}   "
        + ", ".join(f"{e:.2f}" for e in entropies)
    )

# %%
# The numbers that the test suite bounds.
matched = probabilities["matched BNN"]
error = 1 - metrics.accuracy(y_test, matched["test digits"])
nll = metrics.nll_categorical(y_test, matched["test digits"])
