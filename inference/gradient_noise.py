"""How much minibatches scatter the gradient, and what that does to the draws."""

from __future__ import annotations

import torch
from torch import Tensor

from inference.gradients import LogDensityAndGradient
from inference.minibatches import Anchor, Minibatches
from inference.rng import Stream
from inference.targets import Target

EVALUATIONS = 32
_STRIDE = 1 << 64  # seeds of the calls are far apart


def gradient_variance(
    target: Target,
    evaluate: LogDensityAndGradient,
    positions: Tensor,
    seed: int,
    *,
    chains: range | None = None,
    anchor: Anchor | None = None,
    pairs: int = EVALUATIONS,
    offset: int = 0,
    independent: bool = False,
) -> Tensor:
    """Variance of the minibatch gradient, per coordinate, shape (chains, dim).

    From pairs of independent minibatches at the same positions: half the mean square of the
    difference. The batches come from streams of their own.

    Args:
        target: with a `batch_size`.
        evaluate: log density and gradient.
        positions: where, shape (chains, dim).
        seed: the run's seed.
        chains: the chains' numbers; by default from 0.
        anchor: of control variates, which `evaluate` then takes.
        pairs: how many.
        offset: numbers the call, so that another one sees other batches.
        independent: of minibatches whose rows are drawn with replacement.
    """
    if target.batch_size is None or target.num_data is None:
        return torch.zeros_like(positions)
    numbers = range(len(positions)) if chains is None else chains
    one, other = (
        Minibatches(
            target,
            seed + _STRIDE * offset,
            numbers,
            purpose=purpose,
            independent=independent,
        )
        for purpose in (Stream.GRADIENT_NOISE, Stream.GRADIENT_NOISE_PAIR)
    )
    one.anchor = other.anchor = anchor
    total = torch.zeros_like(positions)
    for _ in range(pairs):
        first, second = (
            evaluate(positions, m.take(rows[0] if rows is not None else None))[1]
            for m, rows in ((one, one.choose(1)), (other, other.choose(1)))
        )
        total += (first - second).square() / 2
    return total / pairs
