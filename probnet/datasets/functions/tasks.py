"""Batches of small regression tasks, and the streams that they come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Generator, Tensor

from inference._checks import check_choice, check_integer
from inference.rng import Stream, generator
from probnet._checks import check_shape

SPLITS = ("train", "valid", "test")
_TASKS_AT_ONCE = 1024
_SMALLEST_BUCKET = 16


class PackedTasks(NamedTuple):
    """A batch on one set axis without gaps between context and targets, for training.

    Attributes:
        x: inputs `(B, N, d_x)`; N is that of the largest task, or its bucket.
        y: outputs `(B, N, d_y)`.
        mask_c: which points are context, `(B, N)`; they come first.
        mask_t: which points are targets, `(B, N)`.
    """

    x: Tensor
    y: Tensor
    mask_c: Tensor
    mask_t: Tensor


@dataclass(frozen=True, eq=False)
class TaskBatch:
    """B regression tasks: some points of a function to learn it from, others to predict.

    Tasks of different sizes share one tensor; masks say which entries are points. What is in
    the other entries (here zeros) has no meaning and must not influence anything.

    Attributes:
        xc: context inputs `(B, n, d_x)`.
        yc: context outputs `(B, n, d_y)`.
        xt: target inputs `(B, m, d_x)`.
        yt: target outputs `(B, m, d_y)`.
        mask_c: which context entries are points, boolean `(B, n)`.
        mask_t: which target entries are points, boolean `(B, m)`.
        parameters: what the tasks were simulated with, such as `lengthscale`, each `(B,)`.

    Raises:
        ValueError: if the shapes contradict each other.
        TypeError: if a mask is not boolean.
    """

    xc: Tensor
    yc: Tensor
    xt: Tensor
    yt: Tensor
    mask_c: Tensor
    mask_t: Tensor
    parameters: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    def __post_init__(self) -> None:
        if self.xc.ndim != 3 or self.yc.ndim != 3:
            raise ValueError(
                f"`xc` and `yc` must have shapes (B, n, d_x) and (B, n, d_y), tasks first; got "
                f"{tuple(self.xc.shape)} and {tuple(self.yc.shape)}."
            )
        tasks, n, x_dim = self.xc.shape
        y_dim = self.yc.shape[-1]
        m = self.xt.shape[1] if self.xt.ndim == 3 else 0
        for name, shape in {
            "yc": (tasks, n, y_dim),
            "xt": (tasks, m, x_dim),
            "yt": (tasks, m, y_dim),
            "mask_c": (tasks, n),
            "mask_t": (tasks, m),
        }.items():
            check_shape(name, getattr(self, name).shape, shape, "to agree with `xc` and `yc`")
        for name in ("mask_c", "mask_t"):
            if getattr(self, name).dtype != torch.bool:
                raise TypeError(
                    f"`{name}` must be boolean; got {getattr(self, name).dtype}. Did you mean "
                    f"`{name}.bool()`?"
                )

    @classmethod
    def complete(cls, xc: Tensor, yc: Tensor, xt: Tensor, yt: Tensor) -> Self:
        """Tasks of equal sizes: every entry is a point."""
        mask_c, mask_t = (
            torch.ones(z.shape[:2], dtype=torch.bool, device=z.device) for z in (xc, xt)
        )
        return cls(xc, yc, xt, yt, mask_c, mask_t)

    @property
    def x(self) -> Tensor:
        """Inputs of context, then targets: `(B, n + m, d_x)`."""
        return torch.cat([self.xc, self.xt], dim=1)

    @property
    def y(self) -> Tensor:
        """Outputs of context, then targets: `(B, n + m, d_y)`."""
        return torch.cat([self.yc, self.yt], dim=1)

    @property
    def mask(self) -> Tensor:
        """Masks of context, then targets: `(B, n + m)`."""
        return torch.cat([self.mask_c, self.mask_t], dim=1)

    @property
    def num_tasks(self) -> int:
        """B."""
        return len(self.xc)

    def packed(self, *, bucketed: bool = False) -> PackedTasks:
        """All points of each task without gaps, context first: about half as many entries.

        Args:
            bucketed: pad to one of few sizes, for a compiled step.
        """
        order = torch.argsort((~self.mask).to(torch.uint8), dim=1, stable=True)
        size = int(self.mask.sum(1).max())
        if bucketed:
            size = min(bucket(size), order.shape[1])
        order = order[:, :size]

        def take(values: Tensor) -> Tensor:
            index = (
                order
                if values.ndim == 2
                else order[..., None].expand(*order.shape, values.shape[-1])
            )
            return values.gather(1, index)

        is_context = torch.cat([self.mask_c, torch.zeros_like(self.mask_t)], dim=1)
        is_target = torch.cat([torch.zeros_like(self.mask_c), self.mask_t], dim=1)
        return PackedTasks(take(self.x), take(self.y), take(is_context), take(is_target))

    def to(self, target: torch.device | torch.dtype | str) -> Self:
        """The batch on another device, or its numbers in another type."""
        if isinstance(target, torch.dtype) and not target.is_floating_point:
            raise TypeError(f"`target` must be a floating-point type; got {target}.")

        def converted(values: Tensor) -> Tensor:
            as_is = isinstance(target, torch.dtype) and values.dtype == torch.bool
            return values if as_is else values.to(target)

        names = ("xc", "yc", "xt", "yt", "mask_c", "mask_t")
        return replace(
            self,
            **{name: converted(getattr(self, name)) for name in names},
            parameters={name: converted(value) for name, value in self.parameters.items()},
        )

    def chunks(self, size: int) -> list[Self]:
        """The tasks in order, `size` at a time."""
        check_integer("size", size, 1)
        return [self._rows(slice(i, i + size)) for i in range(0, self.num_tasks, size)]

    @classmethod
    def joined(cls, batches: Sequence[Self]) -> Self:
        """All tasks of several batches in one, padded with zeros to the largest."""
        n = max(batch.xc.shape[1] for batch in batches)
        m = max(batch.xt.shape[1] for batch in batches)
        padded = {
            name: torch.cat(
                [_padded(getattr(b, name), n if name.endswith("c") else m) for b in batches]
            )
            for name in ("xc", "yc", "xt", "yt", "mask_c", "mask_t")
        }
        parameters = {
            name: torch.cat([b.parameters[name] for b in batches])
            for name in batches[0].parameters
        }
        return cls(**padded, parameters=parameters)

    def _rows(self, rows: slice) -> Self:
        names = ("xc", "yc", "xt", "yt", "mask_c", "mask_t")
        return replace(
            self,
            **{name: getattr(self, name)[rows] for name in names},
            parameters={name: value[rows] for name, value in self.parameters.items()},
        )


class TaskStream(ABC):
    """An endless, seeded supply of tasks, and fixed sets of them to validate and test on.

    A subclass defines `batch` and these attributes.

    Attributes:
        x_dim: d_x.
        y_dim: d_y.
        max_points: largest number of context points and targets of a task together.
        x_range: lowest and highest value of each input; `None` where nothing is known.
        seed: what `generator` and `split` derive their random numbers from.
    """

    x_dim: int
    y_dim: int
    max_points: int
    x_range: tuple[float, float] | None
    seed: int

    @abstractmethod
    def batch(self, batch_size: int, generator: Generator) -> TaskBatch:
        """New tasks to train on, on the generator's device; it is advanced in place."""

    def generator(self, name: str = "train", device: torch.device | None = None) -> Generator:
        """The start of the random numbers of one split; those of different splits differ."""
        split = SPLITS.index(check_choice("name", name, SPLITS))
        return generator(self.seed, Stream.BATCH, split, device)

    def split(self, name: str, num_tasks: int) -> TaskBatch:
        """A fixed set of tasks: equal arguments give equal tasks.

        Args:
            name: `"train"`, `"valid"` or `"test"`; no two of them share random numbers.
            num_tasks: how many.
        """
        check_integer("num_tasks", num_tasks, 1)
        rng = self.generator(name)
        sizes = [
            min(_TASKS_AT_ONCE, num_tasks - done)
            for done in range(0, num_tasks, _TASKS_AT_ONCE)
        ]
        return TaskBatch.joined([self._split_batch(name, size, rng) for size in sizes])

    def _split_batch(self, name: str, batch_size: int, rng: Generator) -> TaskBatch:
        """Tasks of one split; streams with a finite supply keep the splits apart here."""
        del name
        return self.batch(batch_size, rng)


def bucket(size: int, largest: int | None = None) -> int:
    """The least of 16, 32, 64, ... that is at least `size`, but at most `largest`.

    Padding to few sizes keeps the number of compiled versions of a step small.
    """
    fitting = _SMALLEST_BUCKET
    while fitting < size:
        fitting *= 2
    return fitting if largest is None else max(size, min(fitting, largest))


def deal(
    x: Tensor,
    y: Tensor,
    num_context: Tensor,
    num_target: Tensor,
    sizes: tuple[int, int],
    **fields: Any,
) -> TaskBatch:
    """Make a batch of exchangeable points: the first of each task are its context.

    Args:
        x: inputs `(B, N, d_x)`.
        y: outputs `(B, N, d_y)`.
        num_context: points of context per task, `(B,)`.
        num_target: targets per task, `(B,)`; the two add up to at most N.
        sizes: lengths to pad contexts and targets to.
        fields: further fields of the batch.
    """
    parts: list[Tensor] = []
    masks: list[Tensor] = []
    starts = (torch.zeros_like(num_context), num_context)
    for start, count, size in zip(starts, (num_context, num_target), sizes, strict=True):
        slots = torch.arange(size, device=x.device)
        mask = slots < count[:, None]
        index = (start[:, None] + slots).clamp_max(x.shape[1] - 1)
        for values in (x, y):
            taken = values.gather(1, index[..., None].expand(*index.shape, values.shape[-1]))
            parts.append(taken * mask[..., None])
        masks.append(mask)
    (xc, yc, xt, yt), (mask_c, mask_t) = parts, masks
    return TaskBatch(xc, yc, xt, yt, mask_c, mask_t, **fields)


def _padded(values: Tensor, size: int) -> Tensor:
    missing = size - values.shape[1]
    if not missing:
        return values
    zeros = values.new_zeros((values.shape[0], missing, *values.shape[2:]))
    return torch.cat([values, zeros], dim=1)
