"""What sharing points and differentiating the trunk alone saves, in one process."""

import statistics
import time

import pytest
import torch

from probnet.neural_operator import MultiONet

BATCH, CENTRES, QUADRATURE = 25, 100, 25


def _shared(net, points, latents):
    values, gradient = net.value_and_gradient(points, latents)
    return values.square().sum() + gradient.square().sum()


def _repeated(net, points, latents):
    repeated = points.expand(len(latents), *points.shape).clone().requires_grad_()
    values = net(repeated, latents)
    (gradient,) = torch.autograd.grad(values.sum(), repeated, create_graph=True)
    return values.square().sum() + gradient.square().sum()


def _cpu_seconds(step, repetitions):
    step()
    taken = []
    for _ in range(repetitions):
        start = time.process_time()
        step()
        taken.append(time.process_time() - start)
    return statistics.median(taken)


@pytest.mark.benchmark
def test_shared_derivatives_cost_a_sixth_of_reverse_mode():
    net = MultiONet(num_dims=2, latent_dim=128, width=100, initial_weight=1.0)
    rng = torch.Generator().manual_seed(0)
    points = torch.rand(CENTRES * QUADRATURE, 2, generator=rng)
    latents = torch.randn(BATCH, 128, generator=rng)

    def step(loss):
        net.zero_grad()
        loss(net, points, latents).backward()

    shared = _cpu_seconds(lambda: step(_shared), 11)
    repeated = _cpu_seconds(lambda: step(_repeated), 3)
    print(f"\nCPU s per step: shared {shared:.3f}, repeated {repeated:.3f}")
    print(f"ratio 1/{repeated / shared:.1f}")
    assert shared <= repeated / 6
