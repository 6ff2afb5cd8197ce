"""A small regression problem, and kernels for it."""

import pytest
import torch
from gpytorch.kernels import MaternKernel, RBFKernel, ScaleKernel

from probnet.kernels import NNGPKernel, mlp


@pytest.fixture
def table():
    """Inputs and targets `(25, 2)`, `(25,)`, and 6 new rows."""
    noise = torch.Generator().manual_seed(0)
    x = torch.randn(31, 2, generator=noise, dtype=torch.float64)
    y = torch.sin(2 * x[:, 0]) + 0.1 * torch.randn(31, generator=noise, dtype=torch.float64)
    return x[:25], y[:25], x[25:], y[25:]


@pytest.fixture
def kernel():
    return NNGPKernel(mlp(2, "relu"), w_var=2.0, b_var=0.1, last_w_var=2.0)


@pytest.fixture
def foreign():
    """A kernel of GPyTorch's own, in float32 as it makes them."""
    return ScaleKernel(MaternKernel(nu=2.5, ard_num_dims=2)) + RBFKernel()
