"""Random streams: the only place that turns a seed into random numbers.

A stream is identified by (seed, purpose, chain) and nothing else: adding chains, changing
the number of steps handled at once or switching the progress bar leaves it bit-equal. The
global generators of torch, NumPy and Python are never advanced; Pyro, which knows no other,
is run inside `scoped_seed`.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

_BLOCK_VALUES = 1 << 14


class Stream(IntEnum):
    """What a stream of random numbers is used for."""

    INIT = 0
    MOMENTUM = 1
    NOISE = 2
    BATCH = 3
    PYRO = 4
    PREDICTIVE = 5
    GRADIENT_NOISE = 6
    GRADIENT_NOISE_PAIR = 7
    ACCEPT = 20
    TRAJECTORY = 21
    TUNING = 22
    BIAS = 23
    BIAS_BATCH = 24
    BIAS_BATCH_HALF = 25
    BIAS_SLOPE = 26


def stream_seed(seed: int, purpose: Stream, chain: int = 0) -> int:
    """A 63-bit seed, a hash of `seed`, the purpose and the chain's number."""
    sequence = np.random.SeedSequence(entropy=seed, spawn_key=(int(purpose), chain))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(
    seed: int, purpose: Stream, chain: int = 0, device: torch.device | None = None
) -> torch.Generator:
    """A torch generator at the start of the stream (seed, purpose, chain)."""
    return torch.Generator(device or "cpu").manual_seed(stream_seed(seed, purpose, chain))


@contextmanager
def scoped_seed(seed: int) -> Generator[None]:
    """Seed every global generator inside the block and put each back as it was afterwards."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002 - Pyro seeds it
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    try:
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - Pyro seeds it
        random.seed(seed)
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002 - Pyro seeds it
        random.setstate(states[2])
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


class NormalStream:
    """Standard normal vectors, one per chain and step, made in blocks of steps.

    The number of steps in a block depends on the dimension alone. That is what keeps the
    numbers bit-equal: torch fills a tensor of normals in an order that depends on its size.

    Args:
        seed: the run's seed.
        purpose: which stream.
        chains: the chains' numbers.
        dim: length of one vector.
        dtype: of the numbers.
        device: where they are made.
    """

    def __init__(
        self,
        seed: int,
        purpose: Stream,
        chains: Sequence[int],
        dim: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._generators = [generator(seed, purpose, chain, device) for chain in chains]
        self._dtype, self._device = dtype, device
        self._dim = dim
        self._block_steps = max(1, min(64, _BLOCK_VALUES // max(dim, 1)))
        self._used = self._block_steps
        self._block = torch.empty(0)
        self._before = generator_states(self._generators)

    def take(self, count: int) -> Tensor:
        """The numbers of the next `count` steps, shape (count, chains, dim)."""
        pieces: list[Tensor] = []
        while count:
            if self._used == self._block_steps:
                self._fill()
            some = min(count, self._block_steps - self._used)
            pieces.append(self._block[self._used : self._used + some])
            self._used += some
            count -= some
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def next(self) -> Tensor:
        """The numbers of the next step, shape (chains, dim)."""
        return self.take(1)[0]

    def state(self) -> dict[str, Tensor]:
        """Where the stream stands, for `restore`."""
        done = self._used == self._block_steps
        now = generator_states(self._generators) if done else self._before
        return {"generators": now, "used": torch.tensor(self._used)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go where another stream of the same arguments stood."""
        set_generator_states(self._generators, state["generators"])
        self._used = int(state["used"])
        if self._used < self._block_steps:
            used, self._used = self._used, self._block_steps
            self._fill()
            self._used = used

    def _fill(self) -> None:
        """Make the next block, shape (steps, chains, dim)."""
        self._before = generator_states(self._generators)
        shape = (self._block_steps, self._dim)
        rows = [
            torch.randn(shape, generator=g, dtype=self._dtype, device=self._device)
            for g in self._generators
        ]
        self._block, self._used = torch.stack(rows, dim=1), 0


def generator_states(generators: Sequence[torch.Generator]) -> Tensor:
    """States of all generators as bytes, one row each."""
    return torch.stack([g.get_state() for g in generators])


def set_generator_states(generators: Sequence[torch.Generator], states: Tensor) -> None:
    """Put every generator into its saved state."""
    for g, state in zip(generators, states, strict=True):
        g.set_state(state.clone())
