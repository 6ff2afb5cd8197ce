"""Cost of a training step relative to that of the conditional model, on one thread.

Tasks are RBF draws in batches of 16, padded to 50 points; K = 5, M = 30, width 128. Every model
is timed in turn, several times over, so that a busy machine slows them all alike.
"""

import time

import pytest
import torch
from benchmarks.neural_process.plain_step import plain_terms

from probnet.datasets import GPTasks
from probnet.neural_process import CANP, CNP, MPANP, MPNP
from probnet.neural_process.base import TrainingTasks

POINTS, ROUNDS, STEPS = 50, 8, 2


def padded(tasks):
    """All sets with `POINTS` entries."""
    parts = []
    for part in tasks:
        missing = part.new_zeros(len(part), POINTS - part.shape[1], *part.shape[2:])
        parts.append(torch.cat([part, missing], dim=1))
    return TrainingTasks(*parts)


def step_of(model, terms=None):
    """A function that takes one step on fixed tasks: objective, gradient, AdamW."""
    model.initialise(0)
    tasks = GPTasks(kernel="rbf", seed=0)
    batch = padded(TrainingTasks.of(tasks.batch(16, tasks.generator())))
    stream = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step():
        noise = model.draw_noise(16, 5, batch.xc.shape[1], stream)
        found = model.terms(batch, noise) if terms is None else terms(model, batch, noise)
        optimizer.zero_grad(set_to_none=True)
        model.loss(found).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


@pytest.mark.benchmark
def test_step_cost():
    steps = {
        "CNP": step_of(CNP()),
        "MPNP": step_of(MPNP()),
        "MPNP, one pseudo-only function": step_of(MPNP(pseudo_functions=1)),
        "MPNP isab": step_of(MPNP(generator="isab")),
        "MPNP isab, plain": step_of(MPNP(generator="isab"), plain_terms),
        "CANP": step_of(CANP()),
        "MPANP": step_of(MPANP()),
        "MPANP, one pseudo-only function": step_of(MPANP(pseudo_functions=1)),
        "MPANP isab, plain": step_of(MPANP(generator="isab"), plain_terms),
    }
    seconds = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(ROUNDS):
        for name, step in steps.items():
            start = time.process_time()
            for _ in range(STEPS):
                step()
            seconds[name].append((time.process_time() - start) / STEPS)
    cost = {name: min(values) for name, values in seconds.items()}
    print()
    for name, value in cost.items():
        base = cost["CANP" if name.startswith(("CANP", "MPANP")) else "CNP"]
        print(f"{name:32} {1e3 * value:8.1f} CPU ms {value / base:6.2f} x")
    print(f"plain / restructured MPNP {cost['MPNP isab, plain'] / cost['MPNP']:.2f}")
    assert cost["MPNP"] <= 8 * cost["CNP"]
    assert cost["MPANP"] <= 6 * cost["CANP"]
    assert cost["MPNP isab, plain"] >= 1.8 * cost["MPNP"]
