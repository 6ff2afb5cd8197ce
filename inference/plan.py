"""What a run is to do, where its draws go, and what it leaves behind."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from inference._checks import check_choice, check_integer, check_nonnegative
from inference.gradients import CHAIN_METHODS
from inference.schedules import Phase, Schedule

_WARMUP = Phase(1.0, explore=False, keep=False, restart=False, cycle=-1)


@dataclass(frozen=True)
class Plan:
    """How long to run and what to keep; `total = num_warmup + thin * num_samples` steps.

    Raises:
        ValueError: on a field out of range.
        TypeError: on a field of the wrong type.
    """

    num_chains: int
    num_warmup: int
    num_samples: int
    thin: int
    seed: int
    temperature: float
    schedule: Schedule
    chain_method: str
    share_batches: bool
    keep_warmup: bool
    chunk_size: int | None
    progress: bool

    def __post_init__(self) -> None:
        check_integer("num_chains", self.num_chains, 1)
        check_integer("num_warmup", self.num_warmup, 0)
        check_integer("num_samples", self.num_samples, 1)
        check_integer("thin", self.thin, 1)
        check_integer("seed", self.seed, 0)
        check_nonnegative("temperature", self.temperature)
        check_choice("chain_method", self.chain_method, CHAIN_METHODS)
        if self.chunk_size is not None:
            check_integer("chunk_size", self.chunk_size, 1)
        self.schedule.num_steps(self.num_samples, self.thin)

    @property
    def num_steps(self) -> int:
        """Steps in all."""
        return self.num_warmup + self.schedule.num_steps(self.num_samples, self.thin)

    def phase(self, step: int) -> Phase:
        """What a step does; in warm-up every `thin`-th position may be kept too."""
        if step >= self.num_warmup:
            return self.schedule.phase(step - self.num_warmup, self.num_samples, self.thin)
        return _WARMUP._replace(keep=self.keep_warmup and step % self.thin == self.thin - 1)


@dataclass
class Store:
    """Host arrays (chain, draw, ...), allocated once the first chunk shows their shapes."""

    size: int
    filled: int = 0
    arrays: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])

    def append(self, chunk: dict[str, np.ndarray]) -> None:
        """Add arrays (chain, draws of the chunk, ...)."""
        count = next(iter(chunk.values())).shape[1]
        for name, values in chunk.items():
            if name not in self.arrays:
                shape = (values.shape[0], self.size, *values.shape[2:])
                self.arrays[name] = np.empty(shape, dtype=values.dtype)
            self.arrays[name][:, self.filled : self.filled + count] = values
        self.filled += count

    def finished(self, count: int) -> dict[str, np.ndarray]:
        """The first `count` draws of every array."""
        return {name: array[:, :count] for name, array in self.arrays.items()}


@dataclass(frozen=True)
class Run:
    """What a run leaves behind."""

    draws: dict[str, np.ndarray]
    sample_stats: dict[str, np.ndarray]
    warmup: dict[str, np.ndarray]
    state: dict[str, Tensor]
    interrupted: bool
    died_at: dict[int, int]
    predicted_inflation: dict[str, float] | None = None
    notes: tuple[str, ...] = ()
