"""How much minibatches scatter the gradient, and what that does to the draws."""

from __future__ import annotations

import torch
from torch import Tensor

from inference.data import BatchStream, take_rows
from inference.gradients import LogDensityAndGradient
from inference.rng import Stream
from inference.targets import Target

EVALUATIONS = 32


def gradient_variance(
    target: Target, evaluate: LogDensityAndGradient, positions: Tensor, seed: int
) -> Tensor:
    """Variance of the minibatch gradient, per coordinate, shape (chains, dim).

    From 32 pairs of independent minibatches at the same positions: half the mean square of the
    difference. The batches come from streams of their own.

    Args:
        target: with a `batch_size`.
        evaluate: log density and gradient.
        positions: where, shape (chains, dim).
        seed: the run's seed.
    """
    if target.batch_size is None or target.num_data is None:
        return torch.zeros_like(positions)
    count = len(positions)
    streams = [
        BatchStream(
            seed,
            chains,
            target.num_data,
            target.batch_size,
            shared=False,
            device=target.device,
            purpose=Stream.GRADIENT_NOISE,
        )
        for chains in (range(count), range(count, 2 * count))
    ]
    total = torch.zeros_like(positions)
    for _ in range(EVALUATIONS):
        first, second = (
            evaluate(positions, take_rows(target.leaves, stream.next()))[1]
            for stream in streams
        )
        total += (first - second).square() / 2
    return total / EVALUATIONS
