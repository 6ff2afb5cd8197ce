"""What data each step sees, and the control variates that quieten its gradient."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from inference.data import BatchStream, Leaves, take_rows
from inference.gradients import LogDensityAndGradient
from inference.rng import Stream
from inference.targets import Target


class Anchor(NamedTuple):
    """A position near the bulk of the posterior, with the gradient of all the data there.

    Attributes:
        position: θ̂, shape (chains, dim).
        gradient: ∇ log p(θ̂), shape (chains, dim).
    """

    position: Tensor
    gradient: Tensor


class Minibatches:
    """The rows of a target, and the random choice of them for every step and chain.

    Args:
        target: whose rows.
        seed: the run's seed.
        chains: the chains' numbers.
        shared: every chain sees the same rows.
        purpose: which random stream.
        independent: rows are drawn with replacement, see `BatchStream`.

    Attributes:
        anchor: of the control variates; None for plain gradients.
    """

    def __init__(
        self,
        target: Target,
        seed: int,
        chains: range,
        *,
        shared: bool = False,
        purpose: Stream = Stream.BATCH,
        independent: bool = False,
    ) -> None:
        self._leaves = target.leaves
        self.anchor: Anchor | None = None
        self.stream: BatchStream | None = None
        if target.batch_size is not None and target.num_data is not None:
            self.stream = BatchStream(
                seed,
                chains,
                target.num_data,
                target.batch_size,
                shared=shared,
                device=target.device,
                purpose=purpose,
                independent=independent,
            )

    @property
    def leaves(self) -> Leaves:
        """All the data."""
        return self._leaves

    def choose(self, num_steps: int) -> Tensor | None:
        """Row numbers (steps, chains, n) of the next steps; None: all rows, always."""
        return None if self.stream is None else self.stream.take(num_steps)

    def take(self, rows: Tensor | None) -> Leaves | None:
        """The batch of row numbers (chains, n), the anchor appended if there is one."""
        if rows is None:
            return None
        return take_rows(self._leaves, rows) + tuple(self.anchor or ())


def controlled(evaluate: LogDensityAndGradient) -> LogDensityAndGradient:
    """The gradient with control variates: g(θ) − g(θ̂) + ∇ log p(θ̂), same rows in both g.

    Unbiased, and its variance is of order |θ − θ̂|². The log density is the minibatch's own.

    Source: Baker, Fearnhead, Fox & Nemeth (Statistics and Computing 2019).

    Args:
        evaluate: of positions and rows; the result takes the anchor after the rows.
    """

    def evaluation(positions: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        if batch is None:
            return evaluate(positions, None)
        *rows, anchor, full_gradient = batch
        value, gradient = evaluate(positions, tuple(rows))
        _, at_anchor = evaluate(anchor, tuple(rows))
        return value, gradient - at_anchor + full_gradient

    return evaluation
