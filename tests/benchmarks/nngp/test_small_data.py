"""Few rows of the UCI tables, scale integrated or at its best value; needs PROBNET_DATA."""

import os

import numpy as np
import pytest
import torch

from probnet.datasets import load_regression
from probnet.kernels import NNGPKernel, mlp
from probnet.nngp import InverseGamma, PointMass
from probnet.nngp.laws import marginal_law, scale_weights
from probnet.nngp.quadrature import DataSummary
from probnet.nngp.solutions import DenseSolution

pytestmark = [
    pytest.mark.benchmark,
    pytest.mark.skipif("PROBNET_DATA" not in os.environ, reason="PROBNET_DATA is not set"),
]
RATIOS = torch.tensor([1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0], dtype=torch.float64)
ONE = torch.ones(1, dtype=torch.float64)


def test_small_data():
    kernel = NNGPKernel(mlp(2), w_var=2.0, b_var=0.1, last_w_var=2.0)
    print("\ntable      n   Student-t minus GP, NLL (60 repetitions)")
    cells = {}
    for name in ("yacht", "boston", "energy", "concrete"):
        table = load_regression(name, 0)
        x, y = (
            torch.cat(v) for v in ((table.x_train, table.x_test), (table.y_train, table.y_test))
        )
        x, y = ((v - v.mean(0)) / v.std(0, correction=0) for v in (x, y))
        rng = np.random.default_rng(0)
        for n in (10, 20, 50):
            found = []
            for _ in range(60):
                order = rng.permutation(len(y))
                found.append(difference(kernel, x[order], y[order, None], n))
            mean, error = np.mean(found), np.std(found) / 60**0.5
            cells[name, n] = mean, error
            print(f"{name:9}{n:3}   {mean:+.3f} ± {error:.3f}", flush=True)
    assert all(mean < 0 for mean, _ in cells.values())
    assert sum(m < -2 * e for (_, n), (m, e) in cells.items() if n == 20) >= 3


def difference(kernel, x, y, n):
    """NLL of the Student-t process minus that of the GP at its best scale, ε by evidence."""
    fits = [DenseSolution.solve(kernel, x[:n], y[:n], r) for r in RATIOS]
    profiled = [float(f.summary.log_det + n * f.summary.quadratic.log()) for f in fits]
    fit = fits[int(np.argmin(profiled))]
    mean, variance = fit.marginals(x[n:])
    variance = (variance + fit.noise_ratio)[None, None]
    summary = DataSummary(n, fit.summary.quadratic[None], fit.summary.log_det[None])
    scores = []
    for prior in (InverseGamma(1.0, 1.0), PointMass(float(fit.summary.quadratic) / n)):
        law = marginal_law(scale_weights(prior, summary, ONE), mean, variance)
        scores.append(-float(law.log_prob(y[n:, 0]).mean()))
    return scores[0] - scores[1]
