"""Large data: the sparse bound at n = 50 000 within 8 GiB, and preconditioned CG."""

import os
import resource
import time

import pytest
import torch

from probnet.datasets import load_regression
from probnet.kernels import NNGPKernel, mlp
from probnet.nngp import InverseGamma
from probnet.nngp.conjugate_gradients import solve_by_cg
from probnet.nngp.hyperparameters import HyperParameters
from probnet.nngp.objective import Objective
from probnet.nngp.solutions import gram
from probnet.nngp.sparse import choose_inducing

pytestmark = pytest.mark.benchmark


def test_fifty_thousand_rows_within_eight_gibibytes():
    noise = torch.Generator().manual_seed(0)
    x = torch.randn(50_000, 8, generator=noise, dtype=torch.float64)
    y = torch.sin(x[:, :1]) + 0.1 * torch.randn(50_000, 1, generator=noise, dtype=torch.float64)
    hyper = HyperParameters(NNGPKernel(mlp(2)), 0.01)
    clock = time.process_time()
    inducing = choose_inducing(hyper.kernel, x, 500)
    chosen = time.process_time() - clock
    objective = Objective(hyper, x, y, InverseGamma(2.0, 2.0), inducing)
    clock = time.process_time()
    value, gradient = objective.value_and_gradient(hyper.vector().numpy(), profile=False)
    spent = time.process_time() - clock
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"\nbound {value:.1f}, gradient {gradient.round(1)}: {spent:.1f} CPU-s, choice of "
        f"inducing points {chosen:.1f} CPU-s, peak {peak:.2f} GiB"
    )
    assert peak < 8


@pytest.mark.skipif("PROBNET_DATA" not in os.environ, reason="PROBNET_DATA is not set")
def test_preconditioned_conjugate_gradients():
    table = load_regression("power", 0)
    x = torch.cat([table.x_train, table.x_test])
    y = torch.cat([table.y_train, table.y_test])[:, None]
    x, y = ((v - v.mean(0)) / v.std(0) for v in (x, y))
    kernel, ratio = NNGPKernel(mlp(1, "erf"), w_var=2.0), torch.tensor(0.005).double()
    c = gram(kernel, x).detach()
    c.diagonal().add_(ratio)
    clock = time.process_time()
    exact = torch.cholesky_solve(y, torch.linalg.cholesky(c))
    cholesky = time.process_time() - clock
    plain = solve_by_cg(kernel, x, y, ratio, rank=0)
    clock = time.process_time()
    fast = solve_by_cg(kernel, x, y, ratio, rank=500)
    spent = time.process_time() - clock
    quadratic = float((y * exact).sum())
    error = abs(float(fast.quadratic) - quadratic) / quadratic
    print(
        f"\nn = {len(y)}: {plain.num_iterations} iterations, {fast.num_iterations} at M = 500 "
        f"({spent:.1f} CPU-s with the kernel; Cholesky {cholesky:.1f}); relative error of "
        f"q {error:.1e}, largest of C⁻¹y {float((fast.weights - exact).abs().max()):.1e}"
    )
    assert plain.num_iterations >= 4 * fast.num_iterations
    assert error < 1e-6
