"""How many context points and targets a task has."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from inference._checks import check_integer
from probnet.datasets.functions.tasks import bucket

Range = tuple[int, int | None]


@dataclass(frozen=True)
class TaskSizes:
    """n ~ U{a..b} context points, then m ~ U{c..d} targets, within `max_points` altogether.

    Args:
        num_context: (a, b); b = `None` is the largest that leaves room for c targets.
        num_target: (c, d); d = `None` is `max_points` - 1 - n, as in the published code.
        max_points: bound of n + m.
        shared: one n and one m for all tasks of a batch, hence no padding.
        bucketed: pad to one of few sizes, for a compiled step.

    Raises:
        ValueError: if a range is empty or the ranges do not fit into `max_points`.
    """

    num_context: Range
    num_target: Range
    max_points: int
    shared: bool = False
    bucketed: bool = True

    def __post_init__(self) -> None:
        check_integer("max_points", self.max_points, 2)
        low, high = _checked("num_context", self.num_context)
        fewest, most = _checked("num_target", self.num_target)
        if high is None:
            high = self.max_points - fewest - int(most is None)
        if high < low or high + fewest > self.max_points:
            raise ValueError(
                f"`num_context` {self.num_context} and `num_target` {self.num_target} do not "
                f"fit into `max_points` = {self.max_points} points per task."
            )
        object.__setattr__(self, "num_context", (low, high))

    def draw(self, batch_size: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Numbers of context points and targets, each `(B,)`, on the generator's device."""
        count = 1 if self.shared else check_integer("batch_size", batch_size, 1)
        n = _integers(*self._bounds(), count, generator)
        fewest, most = self.num_target
        room = self.max_points - n - int(most is None)
        m = _integers(fewest, room if most is None else room.clamp_max(most), count, generator)
        return n.expand(batch_size), m.expand(batch_size)

    def padded(self, n: Tensor, m: Tensor) -> tuple[int, int]:
        """Lengths of the context axis and the target axis of a batch."""
        most = int(n.max()), int(m.max())
        if not self.bucketed:
            return most
        return bucket(most[0], self.max_points), bucket(most[1], self.max_points)

    def _bounds(self) -> tuple[int, Tensor]:
        low, high = self.num_context
        return low, torch.tensor(high)


def _integers(low: int, high: Tensor, count: int, generator: Generator) -> Tensor:
    """Uniform on {low..high}, with a bound of its own for each."""
    device = generator.device
    uniform = torch.rand(count, generator=generator, dtype=torch.float64, device=device)
    high = high.to(device)
    return (low + (uniform * (high - low + 1)).floor().long()).minimum(high)


def _checked(name: str, bounds: Range) -> Range:
    low, high = bounds
    check_integer(f"{name}[0]", low, 1)
    if high is not None:
        check_integer(f"{name}[1]", high, low)
    return low, high
