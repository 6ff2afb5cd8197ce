"""Chains of the exact posterior, screened by the solver on coarser meshes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from probnet.neural_operator.delayed_acceptance import (
    DelayedAcceptance,
    Kernel,
    Level,
    LogLikelihood,
    State,
)
from probnet.neural_operator.observations import Observations
from probnet.neural_operator.problem import Problem

_MAX_SCREENS = 2
_FEWEST_NODES = 12  # along an axis; there a solve costs no more than all else in a step
_STEPS: dict[int, tuple[int, ...]] = {0: (1,), 1: (1, 5), 2: (1, 5, 3)}
_LEARN_AT = (8, 4, 2)  # warm-up divided by these
_STATES = 32  # to learn from
_LEAST_CURVATURE = 0.3  # of directions told to the kernel: their sd is 0.88 of the prior's


class SolverLikelihood:
    """ℓ(x) = -|y - H G(a(x)) - b|²/2σ² by a solver; the shift b is 0 unless it is set.

    Args:
        problem: G.
        observations: y, H and σ.
        decode: positions (chains, dim) to inputs a `(chains, *grid)`.

    Attributes:
        shift: b, shape (num_sensors,).
    """

    def __init__(
        self, problem: Problem, observations: Observations, decode: Callable[[Tensor], Tensor]
    ) -> None:
        self._problem, self._observations, self._decode = problem, observations, decode
        self._observe = problem.observation_operator(observations.sensors)
        self.shift = torch.zeros_like(observations.y)

    def __call__(self, positions: Tensor) -> Tensor:
        """Log likelihoods (chains,)."""
        return self.of_solutions(self.solve(positions))

    def of_solutions(self, solutions: Tensor) -> Tensor:
        """Log likelihoods (chains,) of solutions (chains, *solution_shape)."""
        return self._observations.log_likelihood(self._observe(solutions) + self.shift)

    def predict(self, positions: Tensor) -> Tensor:
        """H G(a(x)), shape (chains, num_sensors)."""
        return self._observe(self.solve(positions))

    @torch.no_grad()  # a network that decodes has parameters; chains ask for values alone
    def solve(self, positions: Tensor) -> Tensor:
        """G(a(x)) at the nodes, (chains, *solution_shape)."""
        return self._problem.solve(self._problem.coefficients(self._decode(positions)))


class ExactChains:
    """Chains whose law is the posterior by the exact solver, screened by coarser meshes.

    Meshes of a quarter and half the resolution screen: every fifth step is tested on the
    second and every fifteenth on the finest; with two meshes every fifth on the finest. Rarer
    tests would let a chain walk to where the screen is wrong, and stay there.

    After an eighth, a quarter and half of warm-up the chains learn from the states of the
    second half of the time so far: each screen is shifted by the mean of its error, and the
    kernel is told the directions that the data determine, the leading eigenvectors of the mean
    of JᵀJ with J the derivative of the predictions over σ. After warm-up nothing is adapted.

    Source: Cui, Fox & O'Sullivan (Water Resour. Res. 47, 2011) for shifted approximations; Cui,
    Law & Marzouk (J. Comput. Phys. 304, 2016) for likelihood-informed directions.

    Args:
        problem: on the finest mesh.
        observations: y, H and σ.
        decode: positions (chains, dim) to inputs a `(chains, *grid)`.
        kernel: of the cheapest level.
        position: where the chains start, shape (chains, dim).
        num_warmup: steps of the kernel after which nothing is adapted.
        replicas: where those of a tempered kernel start, shape (chains, hot, dim).
        tilt: a function of positions that is added to ℓ of every level.
        sensitivity: J at a position (dim,), shape (num_sensors, dim), perhaps approximate, by
            two solves a row on the coarsest mesh; without it, or without rows, every direction
            is the same to the kernel.
        screen: `False`: the finest mesh decides at every step.
        seed: of everything random.

    Attributes:
        num_warmup: the same in steps of the exact level.
    """

    def __init__(
        self,
        problem: Problem,
        observations: Observations,
        decode: Callable[[Tensor], Tensor],
        kernel: Kernel,
        position: Tensor,
        *,
        num_warmup: int,
        replicas: Tensor | None = None,
        tilt: Callable[[Tensor], Tensor] | None = None,
        sensitivity: Callable[[Tensor], Tensor] | None = None,
        screen: bool = True,
        seed: int,
    ) -> None:
        coarse = coarser(problem)
        problems = [*(coarse if screen else []), problem]
        self._likelihoods = [SolverLikelihood(p, observations, decode) for p in problems]
        levels = [
            Level(each if tilt is None else _tilted(each, tilt), steps)
            for each, steps in zip(self._likelihoods, _STEPS[len(problems) - 1], strict=True)
        ]
        self._chains = DelayedAcceptance(levels, kernel, position, replicas=replicas, seed=seed)
        self._kernel, self._sensitivity = kernel, sensitivity
        self.num_warmup = num_warmup // self._chains.steps_per_test
        self._num_done, self._shift_solves, self._sensitivity_solves = 0, 0, 0
        self._has_coarser = bool(coarse)
        self._seen: list[Tensor] = []
        if not self.num_warmup:
            self._chains.freeze()

    @property
    def exact(self) -> SolverLikelihood:
        """ℓ on the finest mesh."""
        return self._likelihoods[-1]

    @property
    def steps_per_test(self) -> int:
        """Steps of the kernel in one step of the exact level."""
        return self._chains.steps_per_test

    @property
    def accept_rate(self) -> Tensor:
        """Share of proposals that the exact level accepted after warm-up, by chain."""
        return self._chains.accept_rate

    @property
    def num_solves(self) -> tuple[int, int]:
        """Solves so far, of the finest mesh and of all others."""
        *screens, exact = self._chains.num_evaluations
        exact += self._shift_solves
        coarse = sum(screens) + len(screens) * self._shift_solves
        if self._has_coarser:
            return exact, coarse + self._sensitivity_solves
        return exact + self._sensitivity_solves, coarse

    @property
    def state(self) -> State:
        """Where the chains are."""
        return self._chains.state

    def step(self) -> State:
        """Advance every chain by one step of the exact level."""
        state = self._chains.step()
        self._num_done += 1
        if self._num_done <= self.num_warmup:
            self._warm_up(state.position)
        return self.state

    def _warm_up(self, position: Tensor) -> None:
        """Take note of the chains' positions, and learn when it is time."""
        if self._num_done % max(1, self.num_warmup // 256) == 0:
            self._seen.append(position)
        if self._num_done in {self.num_warmup // part for part in _LEARN_AT} and self._seen:
            seen = torch.cat(self._seen[len(self._seen) // 2 :])
            some = seen[torch.linspace(0, len(seen) - 1, _STATES).long().unique()]
            if len(self._likelihoods) > 1:
                self._shift(some)
            if self._sensitivity is not None:
                self._inform(some, self._sensitivity)
        if self._num_done == self.num_warmup:
            self._chains.freeze()
            self._seen.clear()

    def _shift(self, positions: Tensor) -> None:
        """Shift the screens by the mean of their errors at positions (n, dim)."""
        self._shift_solves += len(positions)
        exact = self.exact.predict(positions)
        for each in self._likelihoods[:-1]:
            each.shift = (exact - each.predict(positions)).mean(0)
        self._chains.refresh()

    def _inform(self, positions: Tensor, sensitivity: Callable[[Tensor], Tensor]) -> None:
        """Tell the kernel the directions that the data determine, on average over positions."""
        rows = torch.cat([sensitivity(x) for x in positions]) / len(positions) ** 0.5
        self._sensitivity_solves += 2 * len(rows)
        tall = len(rows) > rows.shape[1]
        curvature, vectors = torch.linalg.eigh(rows.T @ rows if tall else rows @ rows.T)
        informed = curvature > _LEAST_CURVATURE
        curvature, vectors = curvature[informed], vectors[:, informed]
        basis = vectors if tall else rows.T @ vectors / curvature.sqrt()
        self._kernel.inform(basis.contiguous(), curvature)


def coarser(problem: Problem) -> list[Problem]:
    """The problem on meshes of a quarter and of half the resolution, as far as there are."""
    found: list[Problem] = []
    while len(found) < _MAX_SCREENS:
        halved: Callable[[], Problem] | None = getattr(problem, "halved", None)
        if halved is None:
            break
        try:
            problem = halved()
        except ValueError:
            break
        if min(problem.solution_shape) < _FEWEST_NODES:
            break
        found.insert(0, problem)
    return found


def _tilted(likelihood: LogLikelihood, tilt: LogLikelihood) -> LogLikelihood:
    return lambda positions: likelihood(positions) + tilt(positions)
