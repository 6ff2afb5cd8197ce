"""Markov chains with the exact solver, run until they agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inference import diagnostics
from inference._checks import check_integer
from inference.progress import progress_bar
from inference.rng import Stream, generator
from probnet.datasets.fields import LevelSetGRF
from probnet.neural_operator.exact import ExactChains, coarser
from probnet.neural_operator.kernels import CrankNicolson, Tempered
from probnet.neural_operator.observations import Observations
from probnet.neural_operator.problem import Problem

RHAT_LIMIT, BETWEEN_LIMIT = 1.01, 0.05
FIRST_LENGTH = 12_000
"""Steps of the kernel in the first run; doubled until the chains agree."""

_BURN_IN = 0.25
_WARMUP = 0.5  # of the first run, before it
_INTERFACE = 0.2  # sds of the field over which derivatives take the jump of a to happen
_TEMPERATURES = (1.8, 1.8**2, 1.8**3)


class NotConvergedError(RuntimeError):
    """The chains of a reference posterior still disagree at the longest run allowed."""


@dataclass(frozen=True, eq=False)
class Chains:
    """What the chains of a reference posterior left behind.

    Attributes:
        inputs: media at the prior's nodes, shape (chain, draw, n, n).
        solutions: at the nodes of the mesh, shape (chain, draw, num_nodes), float32.
        misfit: |y - Hu|²/2σ², shape (chain, draw).
        accept_rate: of the exact test, shape (chain,).
        diagnostics: JSON-able figures of convergence and cost.
    """

    inputs: Tensor
    solutions: Tensor
    misfit: Tensor
    accept_rate: Tensor
    diagnostics: dict[str, Any]


def run_chains(
    problem: Problem,
    observations: Observations,
    prior: LevelSetGRF,
    *,
    num_samples: int = 500,
    num_chains: int = 4,
    seed: int = 0,
    max_length: int = 64 * FIRST_LENGTH,
    first_length: int = FIRST_LENGTH,
    screen: bool = True,
    temper: bool = True,
    progress: bool = True,
) -> Chains:
    """Run until R-hat of the misfit and of mean(a) and the difference between chains are small.

    Preconditioned Crank-Nicolson in the cosine modes of the level-set prior, with smaller steps
    in directions that the data determine, and with parallel tempering. The problem on coarser
    meshes screens proposals, see `probnet.neural_operator.exact.ExactChains`. Half as many
    steps as in the first run come before it, to adapt the sampler; then nothing changes, and
    the first quarter of every run is dropped.

    Args:
        problem: with `solve`, and `halved` where there is a coarser mesh; without a gradient of
            `solve` steps are the same in all directions.
        observations: y, sensors and noise.
        prior: of the medium.
        num_samples: draws kept per chain, evenly spaced.
        num_chains: at least 2, started from independent draws of the prior.
        seed: of everything random.
        max_length: steps of the kernel, per chain, before giving up.
        first_length: steps of the kernel in the first run.
        screen: let coarser meshes screen; `False`: an exact solve at every step.
        temper: run hotter replicas, whose states the chains exchange.
        progress: show a bar on a terminal.

    Raises:
        ValueError: on an argument out of range.
        NotConvergedError: if the limits are not met within `max_length` steps.
    """
    check_integer("num_samples", num_samples, 4)
    check_integer("num_chains", num_chains, 2)
    first_length = check_integer("first_length", first_length, 1)
    max_length = check_integer("max_length", max_length, first_length)
    sampler = _sampler(
        problem,
        observations,
        prior,
        num_chains,
        seed,
        num_warmup=int(_WARMUP * first_length),
        screen=screen,
        temper=temper,
    )
    least = int(num_samples / (1 - _BURN_IN)) + 1
    record = _Record(capacity=least)
    with progress_bar(sampler.num_warmup, 0, progress) as bar:
        for _ in range(sampler.num_warmup):
            sampler.step()
            bar.advance(1, dict[str, str], warmup=True)
    steps = max(-(-first_length // sampler.steps_per_test), least)
    longest = max_length // sampler.steps_per_test
    found, first_kept = _run_until_agreed(sampler, prior, record, steps, longest, progress)
    inputs, misfit = record.kept(first_kept, num_samples)
    solutions = problem.solve(problem.coefficients(inputs.double().flatten(0, 1))).float()
    exact_solves, coarse_solves = sampler.num_solves
    diagnosed: dict[str, Any] = {
        **found,
        "num_steps_per_chain": record.num_steps * sampler.steps_per_test,
        "n_exact_solves": exact_solves + num_chains * num_samples,
        "n_coarse_solves": coarse_solves,
        "exact_solves_per_effective_sample": exact_solves / found["ess_mean_a"],
        "exact_accept_rate": float(sampler.accept_rate.mean()),
    }
    solutions = solutions.reshape(num_chains, num_samples, -1)
    return Chains(inputs, solutions, misfit, sampler.accept_rate, diagnosed)


def _run_until_agreed(
    sampler: ExactChains,
    prior: LevelSetGRF,
    record: _Record,
    steps: int,
    longest: int,
    progress: bool,
) -> tuple[dict[str, float], int]:
    """Double the number of exact steps until the chains agree; how well, and from what step."""
    while True:
        with progress_bar(steps, record.num_steps, progress) as bar:
            while record.num_steps < steps:
                state = sampler.step()
                record.add(prior.decode_modes(state.position), -state.values[-1])
                bar.advance(1, dict[str, str], warmup=False)
        first_kept = int(_BURN_IN * steps)
        found = record.agreement(first_kept)
        if _converged(found):
            return found, first_kept
        if 2 * steps > longest:
            raise NotConvergedError(_explain(found, steps * sampler.steps_per_test))
        steps *= 2


def _sampler(
    problem: Problem,
    observations: Observations,
    prior: LevelSetGRF,
    num_chains: int,
    seed: int,
    *,
    num_warmup: int,
    screen: bool,
    temper: bool,
) -> ExactChains:
    """The chains at independent draws of the prior, and their replicas."""
    hot = len(_TEMPERATURES) if temper else 0
    starts = [
        torch.randn(
            1 + hot, prior.dim, generator=generator(seed, Stream.INIT, c), dtype=torch.float64
        )
        for c in range(num_chains)
    ]
    start = torch.stack(starts)
    return ExactChains(
        problem,
        observations,
        prior.decode_modes,
        Tempered(num_chains, _TEMPERATURES) if temper else CrankNicolson(num_chains),
        start[:, 0],
        replicas=start[:, 1:],
        sensitivity=_sensitivity(problem, observations, prior),
        num_warmup=num_warmup,
        screen=screen,
        seed=seed,
    )


def _sensitivity(
    problem: Problem, observations: Observations, prior: LevelSetGRF
) -> Callable[[Tensor], Tensor]:
    """Derivatives over σ of what the sensors see, through the coarsest mesh.

    Those of the sharp medium are zero almost everywhere; a smooth interface stands in for it.
    There are no rows if the problem's `solve` has no gradient.
    """
    cheap = [*coarser(problem), problem][0]
    observe = cheap.observation_operator(observations.sensors)

    def jacobian(modes: Tensor) -> Tensor:
        copies = modes.repeat(len(observations.y), 1).requires_grad_()
        with torch.enable_grad():
            medium = prior.decode_modes(copies, width=_INTERFACE)
            seen = observe(cheap.solve(cheap.coefficients(medium))).diagonal().sum()
            if not seen.requires_grad:
                return modes.new_zeros(0, len(modes))
            (rows,) = torch.autograd.grad(seen, copies)
        return rows / observations.noise_sd

    return jacobian


class _Record:
    """Traces of every exact step, and a bounded number of evenly spaced media.

    Args:
        capacity: media kept; when there are twice as many, every other one is dropped.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity, self._stride = capacity, 1
        self._misfit: list[Tensor] = []
        self._mean: list[Tensor] = []
        self._media: list[Tensor] = []

    @property
    def num_steps(self) -> int:
        return len(self._misfit)

    def add(self, medium: Tensor, misfit: Tensor) -> None:
        self._misfit.append(misfit)
        self._mean.append(medium.flatten(1).mean(-1))
        if self.num_steps % self._stride == 0:
            self._media.append(medium.float())
            if len(self._media) == 2 * self._capacity:
                self._media, self._stride = self._media[1::2], 2 * self._stride

    def agreement(self, first: int) -> dict[str, float]:
        """R-hat of misfit and mean(a), their ESS, and the difference between chains."""
        misfit, mean = (
            torch.stack(trace[first:], 1).numpy() for trace in (self._misfit, self._mean)
        )
        media = torch.stack(self._media[first // self._stride :]).double()
        chain_means = media.mean(0).flatten(1)
        return {
            "rhat_misfit": _rhat(misfit),
            "rhat_mean_a": _rhat(mean),
            "ess_misfit": float(diagnostics.ess(misfit)),
            "ess_mean_a": float(diagnostics.ess(mean)),
            "between_chains": float(
                torch.pdist(chain_means).max() / chain_means.mean(0).norm()
            ),
        }

    def kept(self, first: int, num_samples: int) -> tuple[Tensor, Tensor]:
        """Media and misfits, evenly spaced after the first steps, chain axis first."""
        start = first // self._stride
        picked = np.linspace(start, len(self._media) - 1, num_samples).round().astype(int)
        media = torch.stack([self._media[i] for i in picked], 1)
        steps = (picked + 1) * self._stride - 1
        return media, torch.stack([self._misfit[i] for i in steps], 1)


def _rhat(values: np.ndarray) -> float:
    """R-hat of draws (chain, draw); 1 if all are equal, infinite if no chain moves."""
    if np.ptp(values) == 0:
        return 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(diagnostics.rhat(values))


def _converged(found: dict[str, float]) -> bool:
    return (
        found["rhat_misfit"] <= RHAT_LIMIT
        and found["rhat_mean_a"] <= RHAT_LIMIT
        and found["between_chains"] <= BETWEEN_LIMIT
    )


def _explain(found: dict[str, float], length: int) -> str:
    return (
        f"the chains disagree after {length} steps each: R-hat {found['rhat_misfit']:.3f} "
        f"(misfit) and {found['rhat_mean_a']:.3f} (mean(a)), to be at most {RHAT_LIMIT}; "
        f"relative difference of the posterior means of a between chains "
        f"{found['between_chains']:.3f}, to be at most {BETWEEN_LIMIT}. Raise `max_length`, or "
        f"`num_chains`; a much smaller `noise_sd` than the data have also does this."
    )
