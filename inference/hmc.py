"""Hamiltonian Monte Carlo, all chains in lock-step as one batched computation.

Every iteration integrates one trajectory per chain with the leapfrog scheme, the number of
steps L being the same for all chains and drawn anew each time, uniformly between 1 and
2 L̄ - 1, and accepts or rejects its end chain by chain. Step size, mass matrix and mean length
are learnt in warm-up from all chains together and then stay as they are.

Source: Neal (2011), "MCMC using Hamiltonian dynamics"; adaptation as in `inference.adaptation`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from inference.adaptation import Adaptation
from inference.errors import warn
from inference.gradients import LogDensityAndGradient, map_chains
from inference.hamiltonian import Point, Transition, tempered, transition
from inference.plan import Plan, Run, Store
from inference.rng import Stream, generator, stream_seed
from inference.targets import Target

_BLOCK_VALUES = 1 << 12
_CHUNK_VALUES = 1 << 22
_POOLED = (
    "step size, mass matrix and trajectory length were learnt from all chains together: a "
    "chain depends on how many there are"
)


@dataclass(frozen=True)
class HMC:
    """Options of `method="hmc"`.

    Attributes:
        step_size: ε of the leapfrog integrator; where its adaptation starts.
        target_accept_prob: mean acceptance probability that the step size is adapted to, in
            (0, 1); take 0.9 to 0.95 for hierarchical models.
        full_mass: learn a dense mass matrix, for strong correlations in up to some hundred
            dimensions, instead of a diagonal one.
        adapt_step_size: learn the step size.
        adapt_mass_matrix: learn the mass matrix; the identity otherwise.
        num_steps: L̄, the mean number of leapfrog steps, when it is to be fixed.
        trajectory_length: ε L̄, the mean length of a trajectory, when it is to be fixed; in
            units of time, a quarter of a period of the normalised posterior being π/2.
        adapt_trajectory_length: learn the length; by default unless one is given.
    """

    step_size: float = 1.0
    target_accept_prob: float = 0.8
    full_mass: bool = False
    adapt_step_size: bool = True
    adapt_mass_matrix: bool = True
    num_steps: int | None = None
    trajectory_length: float | None = None
    adapt_trajectory_length: bool | None = None


def run(
    target: Target,
    plan: Plan,
    evaluate: LogDensityAndGradient,
    positions: Tensor,
    *,
    options: HMC,
) -> Run:
    """Sample with all chains at once.

    Ctrl-C keeps the draws that are complete, which every chain has the same number of.

    Args:
        target: bound in float64.
        plan: lengths, thinning, seed and temperature.
        evaluate: log density and gradient of all chains.
        positions: starting points, shape (chains, dim).
        options: checked.

    Raises:
        KeyboardInterrupt: if interrupted before the first draw.
    """
    chains = _Chains(plan, evaluate, positions)
    recorder = _Recorder(target, plan)
    adaptation = Adaptation(options, plan.num_warmup, like=positions)
    total, interrupted = plan.num_warmup + plan.thin * plan.num_samples, False
    with tqdm(total=total, disable=None if plan.progress else True) as bar:
        try:
            if plan.num_warmup:
                bar.set_description("warmup")
                adaptation.begin(chains.acceptance)
            for step in range(total):
                if step == plan.num_warmup:
                    bar.set_description("sample")
                    adaptation.finish()
                done = chains.advance(adaptation)
                if step < plan.num_warmup:
                    adaptation.update(done, chains.acceptance)
                elif (step - plan.num_warmup) % plan.thin == plan.thin - 1:
                    recorder.keep(done)
                bar.update()
        except KeyboardInterrupt:
            interrupted = True
            if not recorder.count:
                raise
        recorder.flush()
    draws, statistics = recorder.finished()
    _warn_of_divergences(statistics["diverging"])
    pooled = plan.num_warmup > 0 and plan.num_chains > 1 and adaptation.adapts
    return Run(
        draws,
        statistics,
        warmup={},
        state={"position": chains.position, **adaptation.state()},
        interrupted=interrupted,
        died_at={},
        notes=(_POOLED,) if pooled else (),
    )


class _Chains:
    """All chains with their random numbers."""

    def __init__(self, plan: Plan, evaluate: LogDensityAndGradient, positions: Tensor) -> None:
        self._evaluate = tempered(evaluate, plan.temperature)
        value, gradient = self._evaluate(positions, None)
        self._point = Point(positions, torch.zeros_like(positions), value, gradient)
        self._random = _Random(plan.seed, positions)

    @property
    def position(self) -> Tensor:
        """Shape (chains, dim)."""
        return self._point.position

    def advance(self, adaptation: Adaptation) -> Transition:
        """One transition of every chain."""
        done = self._try(
            adaptation, adaptation.step_size, adaptation.num_steps(self._random.fraction())
        )
        self._point = done.next
        return done

    def acceptance(self, adaptation: Adaptation, step_size: float) -> float:
        """Mean acceptance probability of one leapfrog step from where the chains are."""
        return float(self._try(adaptation, step_size, 1).accept_prob.mean())

    def _try(self, adaptation: Adaptation, step_size: float, num_steps: int) -> Transition:
        noise, uniform = self._random.next()
        start = self._point._replace(momentum=adaptation.metric.momentum(noise))
        return transition(
            self._evaluate,
            adaptation.metric,
            start,
            uniform,
            step_size=step_size,
            num_steps=num_steps,
        )


class _Random:
    """Normals and uniforms of each chain's own streams, and the fractions of the lengths.

    The size of a block depends on the dimension alone: torch fills a tensor in an order that
    depends on its size.
    """

    def __init__(self, seed: int, positions: Tensor) -> None:
        chains, self._dim = positions.shape
        self._like, self._block = positions, max(1, min(64, _BLOCK_VALUES // self._dim))
        self._normal, self._uniform = (
            [generator(seed, purpose, chain, positions.device) for chain in range(chains)]
            for purpose in (Stream.MOMENTUM, Stream.ACCEPT)
        )
        self._ready: list[tuple[Tensor, Tensor]] = []
        self._shift = stream_seed(seed, Stream.TRAJECTORY) / 2**63
        self._count = 0

    def next(self) -> tuple[Tensor, Tensor]:
        """Standard normals (chains, dim) and uniforms (chains,)."""
        if not self._ready:
            kind: dict[str, Any] = {"dtype": self._like.dtype, "device": self._like.device}
            normals = torch.stack(
                [
                    torch.randn(self._block, self._dim, generator=g, **kind)
                    for g in self._normal
                ],
                1,
            )
            uniforms = torch.stack(
                [torch.rand(self._block, generator=g, **kind) for g in self._uniform], 1
            )
            self._ready = list(zip(normals, uniforms, strict=True))[::-1]
        return self._ready.pop()

    def fraction(self) -> float:
        """In [0, 1): the next point of van der Corput's sequence, shifted by the seed."""
        self._count += 1
        index, value, unit = self._count, self._shift, 0.5
        while index:
            value += unit * (index & 1)
            index, unit = index >> 1, unit / 2
        return value % 1.0


class _Recorder:
    """Keeps draws and statistics, constrained and copied to the host a chunk at a time."""

    def __init__(self, target: Target, plan: Plan) -> None:
        self._target, self._plan = target, plan
        rows = max((len(leaf) for leaf in target.leaves), default=1)
        size = plan.num_chains * max(rows, target.layout.dim)
        self._chunk = max(1, min(64, _CHUNK_VALUES // size))
        self._kept: list[tuple[Tensor, dict[str, Tensor]]] = []
        self._draws, self._statistics = Store(plan.num_samples), Store(plan.num_samples)

    @property
    def count(self) -> int:
        """Draws kept so far."""
        return self._statistics.filled + len(self._kept)

    def keep(self, done: Transition) -> None:
        """Keep where the chains are after a transition."""
        after, accepted = done.next, done.accepted
        error = done.energy_error.masked_fill(~accepted, 0.0)
        statistics = {
            "lp": after.value * self._plan.temperature,
            "energy": done.energy + error,
            "energy_error": error,
            "acceptance_rate": done.accept_prob,
            "step_size": torch.full_like(error, done.step_size),
            "n_steps": torch.full_like(accepted, done.num_steps, dtype=torch.int64),
            "diverging": done.diverging,
        }
        self._kept.append((after.position, statistics))
        if len(self._kept) == self._chunk:
            self.flush()

    def flush(self) -> None:
        """Store what was kept."""
        if not self._kept:
            return
        positions = torch.stack([position for position, _ in self._kept], 1)
        chains, count, dim = positions.shape
        with torch.no_grad():
            values = map_chains(
                self._target.constrain,
                positions.reshape(-1, dim),
                chain_method=self._plan.chain_method,
            )
        self._draws.append(
            {n: _to_host(v.reshape(chains, count, *v.shape[1:])) for n, v in values.items()}
        )
        names = self._kept[0][1]
        self._statistics.append(
            {n: _to_host(torch.stack([found[n] for _, found in self._kept], 1)) for n in names}
        )
        self._kept = []

    def finished(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Draws and statistics by name, (chain, draw, ...)."""
        count = min(self._draws.filled, self._statistics.filled)
        return self._draws.finished(count), self._statistics.finished(count)


def _to_host(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy()


def _warn_of_divergences(diverging: np.ndarray) -> None:
    """Warn once if draws after warm-up come from trajectories that diverged."""
    if not diverging.any():
        return
    chains = np.flatnonzero(diverging.any(1)).tolist()
    warn(
        f"{int(diverging.sum())} of {diverging.size} transitions after warm-up diverged, in "
        f"chains {chains}: there are regions that the step size is too large for, and the "
        "draws miss them. Raise `target_accept_prob` towards 0.99, warm up longer, or "
        "reparametrise (non-centred)."
    )
