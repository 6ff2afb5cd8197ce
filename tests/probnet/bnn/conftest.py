"""A small regression problem and a short posterior of it."""

import pytest
import torch

from probnet.bnn import BNN, BayesianMLP


@pytest.fixture(scope="session")
def table():
    """Forty rows in units far from standard."""
    generator = torch.Generator().manual_seed(0)
    x = 300 + 50 * torch.randn(40, 2, generator=generator, dtype=torch.float64)
    noise = 2 * torch.randn(40, generator=generator, dtype=torch.float64)
    return x, 1000 + 0.2 * x[:, 0] - 0.1 * x[:, 1] + noise


@pytest.fixture(scope="session")
def posterior(table):
    """A nonlinear network with learned noise, by two short chains."""
    return BNN(BayesianMLP(2, [8])).fit(
        *table, num_chains=2, num_samples=20, thin=20, num_warmup=300, seed=0, progress=False
    )
