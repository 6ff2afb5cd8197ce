"""What HMC learns in warm-up: step size, mass matrix, length of the trajectories.

All three are shared by the chains and learnt from all of them at once. The schedule of windows
and the constants are Stan's (Stan Reference Manual, "HMC algorithm parameters").
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from inference.errors import warn
from inference.hamiltonian import Metric, Transition

if TYPE_CHECKING:
    from inference.hmc import HMC

MAX_STEPS = 1024
"""Of a trajectory whose length is not given in steps; as a NUTS tree of depth 10."""

_INITIAL, _FINAL, _FIRST_SLOW = 75, 50, 25
_MAX_DOUBLINGS = 100
_FIRST_STEPS = 5.0
_QUARTER_PERIOD = math.pi / 2

Acceptance = Callable[["Adaptation", float], float]
"""Mean acceptance probability of one leapfrog step of a given size."""


def slow_windows(num_warmup: int) -> list[tuple[int, int]]:
    """Windows [start, end) of warm-up that estimate a mass matrix each, ever longer.

    A first and a last stretch adapt the step size alone; below 20 steps all of warm-up does.
    """
    if num_warmup < 20:
        return []
    start, final = _INITIAL, _FINAL
    if num_warmup < _INITIAL + _FIRST_SLOW + _FINAL:
        start, final = int(0.15 * num_warmup), int(0.1 * num_warmup)
        return [(start, num_warmup - final)]
    windows: list[tuple[int, int]] = []
    size, stop = _FIRST_SLOW, num_warmup - final
    while start < stop:
        end = start + size
        if end + 2 * size > stop:
            end = stop
        windows.append((start, end))
        start, size = end, 2 * size
    return windows


class DualAveraging:
    """Step size whose acceptance probability averages to a target.

    Source: Hoffman & Gelman (JMLR 2014), section 3.2.

    Args:
        target: wanted mean acceptance probability, in (0, 1).
        step_size: to start from.
    """

    def __init__(self, target: float, step_size: float) -> None:
        self._target = target
        self._centre = math.log(10 * step_size)
        self._count, self._shortfall = 0, 0.0
        self._log_average = math.log(step_size)

    def update(self, accept_prob: float) -> float:
        """Take note of an acceptance probability; the step size to try next."""
        self._count += 1
        weight = 1 / (self._count + 10)
        self._shortfall += weight * (self._target - accept_prob - self._shortfall)
        log_step = self._centre - math.sqrt(self._count) / 0.05 * self._shortfall
        self._log_average += self._count**-0.75 * (log_step - self._log_average)
        return math.exp(log_step)

    @property
    def average(self) -> float:
        """The step size to keep."""
        return math.exp(self._log_average)


class PooledCovariance:
    """Running mean and covariance of positions of all chains, shrunk to a small multiple of I.

    Args:
        dense: the whole matrix, or its diagonal.
        like: a position, shape (dim,).
    """

    def __init__(self, *, dense: bool, like: Tensor) -> None:
        self._dense, self._count = dense, 0
        dim = len(like)
        self.mean = like.new_zeros(dim)
        self._squares = like.new_zeros((dim, dim) if dense else dim)

    def update(self, positions: Tensor) -> None:
        """Add positions, shape (chains, dim)."""
        added = len(positions)
        total = self._count + added
        mean = positions.mean(0)
        centred, shift = positions - mean, mean - self.mean
        factor = self._count * added / total
        if self._dense:
            self._squares += centred.T @ centred + factor * torch.outer(shift, shift)
        else:
            self._squares += centred.square().sum(0) + factor * shift.square()
        self.mean = self.mean + added / total * shift
        self._count = total

    def estimate(self) -> Tensor:
        """n/(n+5) S + 10⁻³·5/(n+5) I, of n positions; its diagonal if not dense."""
        n = self._count
        unit = torch.eye(len(self.mean)).to(self._squares) if self._dense else 1.0
        return (n * self._squares / max(n - 1, 1) + 5e-3 * unit) / (n + 5)


class TrajectoryLength:
    """Mean length of trajectories, learnt by stochastic gradient ascent (ChEES).

    What is maximised is the expected square of the change of ‖x - μ‖² over a trajectory, μ the
    mean and the norm in units of the estimated spread. Adam follows its slope in the logarithm
    of the length, E[t Δ(x' - μ)ᵀp'], with t the time, Δ the change, x' and p' the end, chains
    weighted by their acceptance probability.

    Source: Hoffman, Radul & Sountsov (AISTATS 2021), sections 3 and 4.

    Args:
        length: to start from.
    """

    _LEARNING_RATE, _DECAY = 0.025, 0.95

    def __init__(self, length: float) -> None:
        self.restart(length)

    def restart(self, length: float) -> None:
        """Start anew from another length: the unit of time has changed."""
        self._log = self._log_average = math.log(length)
        self._count, self._square = 0, 0.0

    @property
    def current(self) -> float:
        """The length to try next."""
        return math.exp(self._log)

    @property
    def average(self) -> float:
        """The length to keep."""
        return math.exp(self._log_average)

    def update(self, done: Transition, metric: Metric, centre: Tensor) -> None:
        """Take note of a transition.

        Args:
            done: the transition.
            metric: that it was made with.
            centre: μ, shape (dim,).
        """
        before, after = done.start.position - centre, done.end.position - centre
        change = (metric.whiten(after).square() - metric.whiten(before).square()).sum(-1)
        time = done.step_size * done.num_steps
        slopes = time * change * (after * done.end.momentum).sum(-1)
        weights = done.accept_prob
        total = torch.where(weights > 0, weights * slopes, 0.0).sum()
        slope = float(total / weights.sum())
        if not math.isfinite(slope) or slope == 0:
            return
        self._count += 1
        self._square += (1 - self._DECAY) * (slope * slope - self._square)
        scale = math.sqrt(self._square / (1 - self._DECAY**self._count))
        shortest, longest = math.log(done.step_size), math.log(done.step_size * MAX_STEPS / 2)
        moved = self._log + self._LEARNING_RATE * slope / scale
        self._log = min(max(moved, shortest), longest)
        self._log_average += self._count**-0.5 * (self._log - self._log_average)


class Adaptation:
    """Everything that is learnt in warm-up, and what holds after it.

    Args:
        options: of the sampler.
        num_warmup: iterations of warm-up.
        like: starting points, shape (chains, dim).
    """

    def __init__(self, options: HMC, num_warmup: int, *, like: Tensor) -> None:
        self._options = options
        self._adapts_length = options.adapt_trajectory_length
        if self._adapts_length is None:
            self._adapts_length = (
                options.num_steps is None and options.trajectory_length is None
            )
        windows = slow_windows(num_warmup) if options.adapt_mass_matrix else []
        self._discard, self._ends = {a for a, _ in windows[:1]}, {b for _, b in windows}
        self._like, self._step = like, 0
        self.step_size = float(options.step_size)
        self.metric = Metric(like.new_ones(like.shape[1]))
        self._positions = self._new_covariance()
        self._averaging = DualAveraging(options.target_accept_prob, self.step_size)
        self._length = TrajectoryLength(options.trajectory_length or _QUARTER_PERIOD)

    @property
    def adapts(self) -> bool:
        """Whether anything is learnt."""
        return bool(self._options.adapt_step_size or self._ends or self._adapts_length)

    def num_steps(self, fraction: float) -> int:
        """Leapfrog steps: uniform on 1 to 2 L̄ - 1 for a fraction uniform on [0, 1)."""
        mean = self._options.num_steps or self._length.current / self.step_size
        if self._options.num_steps is None:
            mean = min(max(mean, 1.0), MAX_STEPS / 2)
        return 1 + int(fraction * (2 * mean - 1))

    def begin(self, acceptance: Acceptance) -> None:
        """Find a first step size.

        Args:
            acceptance: mean acceptance probability of one step of a given size.
        """
        self._restart_step_size(self.step_size, acceptance)
        if self._adapts_length and self._options.trajectory_length is None:
            self._length.restart(_FIRST_STEPS * self.step_size)

    def update(self, done: Transition, acceptance: Acceptance) -> None:
        """Learn from a transition of warm-up."""
        if self._options.adapt_step_size:
            self.step_size = self._averaging.update(float(done.accept_prob.mean()))
        self._positions.update(done.next.position)
        if self._adapts_length:
            self._length.update(done, self.metric, self._positions.mean)
        self._step += 1
        if self._step in self._discard:
            self._positions = self._new_covariance()
        if self._step in self._ends:
            self._renew_metric(acceptance)

    def finish(self) -> None:
        """End warm-up: from here on nothing changes."""
        if self._step == 0:
            return
        if self._options.adapt_step_size:
            self.step_size = self._averaging.average
        if self._adapts_length:
            self._length.restart(self._length.average)
        mean = self._length.current / self.step_size
        if self._options.num_steps is None and mean > MAX_STEPS / 2:
            warn(
                f"trajectories of mean length {self._length.current:.3g} would take {mean:.0f} "
                f"steps of the adapted size; they are cut to {MAX_STEPS // 2}. Shorten "
                "`trajectory_length`, or give `num_steps`."
            )

    def state(self) -> dict[str, Tensor]:
        """What was learnt: step size, mean length of a trajectory, inverse mass matrix."""
        steps = self._options.num_steps
        length = self._length.current if steps is None else steps * self.step_size
        return {
            "step_size": self._like.new_tensor(self.step_size),
            "trajectory_length": self._like.new_tensor(length),
            "inverse_mass_matrix": self.metric.covariance,
        }

    def _renew_metric(self, acceptance: Acceptance) -> None:
        """Take the window's covariance as inverse mass matrix."""
        self.metric = Metric(self._positions.estimate())
        self._positions = self._new_covariance()
        self._restart_step_size(self._averaging.average, acceptance)
        if self._adapts_length and self._step == min(self._ends):
            self._length.restart(_QUARTER_PERIOD)

    def _restart_step_size(self, step_size: float, acceptance: Acceptance) -> None:
        """Double or halve the step until its acceptance crosses the target, and average anew.

        Source: Hoffman & Gelman (JMLR 2014), algorithm 4.
        """
        if not self._options.adapt_step_size:
            return
        target = self._options.target_accept_prob
        grows = acceptance(self, step_size) > target
        for _ in range(_MAX_DOUBLINGS):
            step_size *= 2.0 if grows else 0.5
            if (acceptance(self, step_size) > target) != grows:
                break
        self.step_size = step_size
        self._averaging = DualAveraging(target, step_size)

    def _new_covariance(self) -> PooledCovariance:
        return PooledCovariance(dense=self._options.full_mass, like=self._like[0])
