"""What a training step costs: the published form, shared points, and the energy on a mesh."""

import statistics
import time

import pytest
import torch

from probnet.datasets.fields import LevelSetGRF
from probnet.neural_operator import (
    Darcy2D,
    MultiONet,
    WendlandTests,
    mixed_loss,
    mixed_residuals,
)

BATCH, CENTRES, QUADRATURE = 25, 100, 25


def _net(seed):
    return MultiONet(num_dims=2, latent_dim=128, width=100, initial_weight=1.0, seed=seed)


def _shared(net, points, latents):
    return net.value_and_gradient(points, latents)


def _repeated(net, points, latents):
    """Points repeated for every latent vector, and reverse mode: the reference code's way."""
    repeated = points.expand(len(latents), *points.shape).clone().requires_grad_()
    values = net(repeated, latents)
    (gradient,) = torch.autograd.grad(values.sum(), repeated, create_graph=True)
    return values, gradient.movedim(-1, 0)


def _cpu_seconds(step, repetitions):
    step()
    taken = []
    for _ in range(repetitions):
        start = time.process_time()
        step()
        taken.append(time.process_time() - start)
    return statistics.median(taken)


def _latents(rng):
    return torch.randn(BATCH, 128, generator=rng)


@pytest.mark.benchmark
def test_shared_derivatives_cost_a_sixth_of_reverse_mode():
    net, rng = _net(0), torch.Generator().manual_seed(0)
    points = torch.rand(CENTRES * QUADRATURE, 2, generator=rng)
    latents = _latents(rng)

    def step(evaluate):
        net.zero_grad()
        values, gradient = evaluate(net, points, latents)
        (values.square().sum() + gradient.square().sum()).backward()

    shared = _cpu_seconds(lambda: step(_shared), 11)
    repeated = _cpu_seconds(lambda: step(_repeated), 3)
    print(f"\nCPU s per step: shared {shared:.3f}, repeated {repeated:.3f}")
    print(f"ratio 1/{repeated / shared:.1f}")
    assert shared <= repeated / 6


@pytest.mark.benchmark
def test_steps_of_the_published_loss_and_of_the_energy():
    """Three networks and the mixed loss as published; with shared points; the energy."""
    pde, rng = Darcy2D(source=10.0, mesh=(56, 56)), torch.Generator().manual_seed(0)
    nets, latents = [_net(seed) for seed in range(3)], _latents(rng)
    cells = pde.coefficients(LevelSetGRF().sample(BATCH, seed=0)).float()
    tests = WendlandTests(num_centres=CENTRES, radius=1e-4, quadrature="grid", grid_size=7)
    nodes = pde.nodes.float()
    candidate = pde.ansatz(nodes)

    def mixed(evaluate):
        centres = tests.draw_centres(pde.lower, pde.upper, rng)
        points = tests.points(centres)
        flat = points.flatten(0, 1)
        _, gradient = evaluate(nets[0], flat, latents)
        if evaluate is _repeated:
            flat = flat.expand(BATCH, *flat.shape)
        flux = torch.stack([net(flat, latents) for net in nets[1:]])
        mismatch, residuals = mixed_residuals(pde, tests, points, flux, gradient, cells)
        return mixed_loss(mismatch, residuals).mean()

    def energy():
        return pde.loss(candidate(nets[0](nodes, latents), cells), cells).mean()

    def seconds(loss, repetitions):
        def step():
            for net in nets:
                net.zero_grad()
            loss().backward()

        return _cpu_seconds(step, repetitions)

    published = seconds(lambda: mixed(_repeated), 3)
    shared = seconds(lambda: mixed(_shared), 7)
    functional = seconds(energy, 11)
    print(f"\n{'step, B = 25':28}{'CPU s':>8}{'relative':>10}")
    for name, value in (
        ("mixed loss, points repeated", published),
        ("mixed loss, points shared", shared),
        ("energy on 57 x 57 nodes", functional),
    ):
        print(f"{name:28}{value:8.3f}{value / published:10.3f}")
    assert shared < published / 4
    assert functional < shared
