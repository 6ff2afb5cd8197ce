"""Where the future observations of predictive resampling are imagined."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Generator, Tensor


class Design(ABC):
    """A stream of inputs for all paths."""

    @abstractmethod
    def next(self) -> Tensor:
        """Inputs of the next step: `(P, 1, d)`, or `(1, 1, d)` if the paths share them."""


class Uniform(Design):
    """Independent uniform inputs on a box."""

    def __init__(self, low: Tensor, high: Tensor, paths: int, rng: Generator) -> None:
        self._low, self._width, self._paths, self._rng = low, high - low, paths, rng

    def next(self) -> Tensor:
        """See `Design.next`."""
        shape = (self._paths, 1, len(self._low))
        unit = torch.rand(shape, generator=self._rng, dtype=torch.float64)
        return self._low + self._width * unit.to(self._low.device)


class Sobol(Design):
    """One scrambled Sobol sequence on a box, the same for all paths."""

    def __init__(self, low: Tensor, high: Tensor, rng: Generator) -> None:
        self._low, self._width = low, high - low
        seed = int(torch.randint(1 << 31, (), generator=rng))
        self._engine = torch.quasirandom.SobolEngine(len(low), scramble=True, seed=seed)

    def next(self) -> Tensor:
        """See `Design.next`."""
        unit = self._engine.draw(1, dtype=torch.float64).to(self._low.device)
        return (self._low + self._width * unit)[None]


class Bootstrap(Design):
    """The Bayesian bootstrap: one Dirichlet(1, ..., 1) weighting of the context per path.

    Source: Fong, Holmes & Walker (JRSS B 2023).
    """

    def __init__(self, xc: Tensor, paths: int, rng: Generator) -> None:
        self._xc, self._rng = xc, rng
        uniform = torch.rand((paths, len(xc)), generator=rng, dtype=torch.float64)
        self._edges = (-torch.log1p(-uniform)).cumsum(1)

    def next(self) -> Tensor:
        """See `Design.next`."""
        shape = (len(self._edges), 1)
        places = torch.rand(shape, generator=self._rng, dtype=torch.float64)
        picked = torch.searchsorted(self._edges, places * self._edges[:, -1:])
        return self._xc[picked.clamp_max(len(self._xc) - 1)]


class NoInputs(Design):
    """Empty inputs, of a rule that uses none."""

    def __init__(self, xc: Tensor) -> None:
        self._x = xc.new_zeros((1, 1, xc.shape[1]))

    def next(self) -> Tensor:
        """See `Design.next`."""
        return self._x
