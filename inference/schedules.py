"""Step sizes over a run, and which of its steps are kept."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from inference._checks import check_fraction, check_integer, check_positive


class Phase(NamedTuple):
    """What happens in one sampling step.

    Attributes:
        factor: multiplies the step size in gradient units, ε of SGLD and ε² of the others.
        explore: noise off, nothing kept.
        keep: the step's starting position is a draw.
        restart: the momentum is redrawn before the step.
        cycle: number of the cycle, -1 where there are none.
    """

    factor: float
    explore: bool
    keep: bool
    restart: bool
    cycle: int


class Schedule(Protocol):
    """Lays out the sampling phase; warm-up runs at factor 1."""

    def num_steps(self, num_samples: int, thin: int) -> int:
        """Length of the sampling phase that keeps `num_samples` draws."""
        ...

    def phase(self, step: int, num_samples: int, thin: int) -> Phase:
        """What step 0, 1, ... of the sampling phase does."""
        ...


@dataclass(frozen=True)
class Constant:
    """The same step throughout; every `thin`-th position is kept."""

    def num_steps(self, num_samples: int, thin: int) -> int:
        """See `Schedule`."""
        return num_samples * thin

    def phase(self, step: int, num_samples: int, thin: int) -> Phase:
        """See `Schedule`."""
        del num_samples
        return Phase(1.0, explore=False, keep=step % thin == thin - 1, restart=False, cycle=-1)


@dataclass(frozen=True)
class Polynomial:
    """Decreasing steps, factor (1 + t/offset)^(−power); averages must be weighted by the step.

    Source: Welling & Teh (ICML 2011), a(b + t)^(−γ) with a = step·b^γ.

    Args:
        offset: b > 0, the number of steps after which the decay sets in.
        power: γ in (0.5, 1].
    """

    offset: float = 1000.0
    power: float = 0.55

    def __post_init__(self) -> None:
        check_positive("offset", self.offset)
        if not 0.5 < self.power <= 1:
            raise ValueError(f"`power` must lie in (0.5, 1]; got {self.power}.")

    def num_steps(self, num_samples: int, thin: int) -> int:
        """See `Schedule`."""
        return num_samples * thin

    def phase(self, step: int, num_samples: int, thin: int) -> Phase:
        """See `Schedule`."""
        constant = Constant().phase(step, num_samples, thin)
        return constant._replace(factor=(1 + step / self.offset) ** -self.power)


@dataclass(frozen=True)
class Cyclical:
    """Cosine cycles: each explores without noise, then samples while the step shrinks.

    The factor is (cos(πr) + 1)/2 at the fraction r of a cycle. While r < β = `exploration`
    the noise is off and nothing is kept; afterwards every `thin`-th position is kept. The
    exploration comes on top: a run has about `thin · num_samples / (1 − β)` steps.

    Source: Zhang, Li, Zhang, Chen & Wilson (ICLR 2020).

    Args:
        num_cycles: M; `num_samples` must be a multiple of it.
        exploration: β in [0, 1); 0.8 suits networks, 0.25 low-dimensional mixtures.
    """

    num_cycles: int = 4
    exploration: float = 0.8

    def __post_init__(self) -> None:
        check_integer("num_cycles", self.num_cycles, 1)
        check_fraction("exploration", self.exploration)
        if self.exploration == 1:
            raise ValueError("`exploration` must be below 1, else nothing is sampled; got 1.")

    def num_steps(self, num_samples: int, thin: int) -> int:
        """See `Schedule`.

        Raises:
            ValueError: if `num_samples` is not a multiple of `num_cycles`.
        """
        if num_samples % self.num_cycles:
            raise ValueError(
                f"`num_samples` must be a multiple of the {self.num_cycles} cycles; got "
                f"{num_samples}."
            )
        return self.num_cycles * self._cycle_length(num_samples, thin)[1]

    def phase(self, step: int, num_samples: int, thin: int) -> Phase:
        """See `Schedule`."""
        explore, length = self._cycle_length(num_samples, thin)
        cycle, position = divmod(step, length)
        since = position - explore
        return Phase(
            factor=(math.cos(math.pi * position / length) + 1) / 2,
            explore=since < 0,
            keep=since >= 0 and since % thin == thin - 1,
            restart=position == 0,
            cycle=cycle,
        )

    def _cycle_length(self, num_samples: int, thin: int) -> tuple[int, int]:
        """Steps of exploration and of the whole cycle."""
        sampling = num_samples // self.num_cycles * thin
        length = math.ceil(sampling / (1 - self.exploration) * (1 - 1e-12))  # 100/0.2: 500
        return length - sampling, length
