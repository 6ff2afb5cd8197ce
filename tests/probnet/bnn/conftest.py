"""A small regression problem and a short posterior of it."""

import warnings

import pytest
import torch

from inference import InferenceWarning
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
    options = {"num_chains": 2, "num_samples": 20, "thin": 50, "num_warmup": 500, "seed": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InferenceWarning)  # of chains as short as these
        return BNN(BayesianMLP(2, [8])).fit(*table, progress=False, **options)
