"""What further chains of a Pyro model cost: 64 of them, vectorised, against one."""

import time

import pyro
import pyro.distributions as dist
import pytest
import torch

import inference

ROWS, FEATURES, STEPS = 10_000, 50, 600


def model(x, y):
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([FEATURES]).to_event(1))
    noise_sd = pyro.sample("noise_sd", dist.HalfNormal(1.0))
    with pyro.plate("rows", ROWS, subsample_size=len(x)):
        pyro.sample("y", dist.Normal(x @ w, noise_sd), obs=y)


def seconds_per_step(num_chains, data):
    clock = time.process_time()
    inference.sample(
        model,
        data,
        num_chains=num_chains,
        num_warmup=STEPS - 1,
        num_samples=1,
        batch_size=256,
        step_size=1e-4,
        progress=False,
    )
    return (time.process_time() - clock) / STEPS


@pytest.mark.benchmark
def test_64_chains_against_one():
    noise = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, FEATURES, generator=noise)
    y = x @ torch.randn(FEATURES, generator=noise) + torch.randn(ROWS, generator=noise)
    one, many = (min(seconds_per_step(c, (x, y)) for _ in range(3)) for c in (1, 64))
    print(
        f"\none chain {1e3 * one:.2f} ms, 64 chains {1e3 * many:.2f} ms: {many / one:.2f} times"
    )
    assert many / one <= 4
