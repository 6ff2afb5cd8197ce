"""What a run is to do, where its draws go, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from inference._checks import check_choice, check_integer, check_nonnegative
from inference.data import BatchStream
from inference.gradients import CHAIN_METHODS
from inference.schedules import Phase, Schedule
from inference.stopping import Until

CONTROL_VARIATES = ("mode", "epoch")

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
    until: Until | None = None
    control_variates: str | None = None
    first_chain: int = 0
    is_group: bool = False  # of a larger run, which goes on if all its chains are lost

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
        if self.control_variates is not None:
            check_choice("control_variates", self.control_variates, CONTROL_VARIATES)
        self.schedule.num_steps(self.num_samples, self.thin)

    @property
    def chains(self) -> range:
        """The chains' numbers."""
        return range(self.first_chain, self.first_chain + self.num_chains)

    def anchor_every(self, stream: BatchStream | None) -> int | None:
        """Steps after which the control variates' anchor moves; None: never."""
        if stream is None or self.control_variates != "epoch":
            return None
        return stream.steps_per_epoch

    @property
    def num_steps(self) -> int:
        """Steps in all."""
        return self.num_warmup + self.schedule.num_steps(self.num_samples, self.thin)

    def phase(self, step: int) -> Phase:
        """What a step does; in warm-up every `thin`-th position may be kept too."""
        if step >= self.num_warmup:
            return self.schedule.phase(step - self.num_warmup, self.num_samples, self.thin)
        return _WARMUP._replace(keep=self.keep_warmup and step % self.thin == self.thin - 1)


_ALLOCATION = 1 << 32


@dataclass
class Store:
    """Host arrays (chain, draw, ...) of at most `size` draws, allocated as they come."""

    size: int
    filled: int = 0
    arrays: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])

    def append(self, chunk: dict[str, np.ndarray]) -> None:
        """Add arrays (chain, draws of the chunk, ...)."""
        count = next(iter(chunk.values())).shape[1]
        for name, values in chunk.items():
            room = self._room(name, values, self.filled + count)
            room[:, self.filled : self.filled + count] = values
        self.filled += count

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Start from arrays (chain, draw, ...) stored before."""
        if arrays:
            self.append(dict(arrays))

    def _room(self, name: str, like: np.ndarray, wanted: int) -> np.ndarray:
        """The array of that name, with room for `wanted` draws."""
        have = self.arrays.get(name)
        if have is not None and have.shape[1] >= wanted:
            return have
        bytes_per_draw = like.nbytes // like.shape[1]
        most = _ALLOCATION // max(1, bytes_per_draw)  # untouched pages cost nothing
        length = min(self.size, max(2 * wanted, most))
        room = np.empty((like.shape[0], length, *like.shape[2:]), dtype=like.dtype)
        if have is not None:
            room[:, : self.filled] = have[:, : self.filled]
        self.arrays[name] = room
        return room

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
    reached: bool | None = None
    compiled: bool = False
    notes: tuple[str, ...] = ()
