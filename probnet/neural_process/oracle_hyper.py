"""Integrating hyper-parameters out: a grid where posteriors are wide, else particles.

Every interval is mapped to the unit cube; the prior is uniform on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Generator, Tensor

from probnet.neural_process.gaussian import Components, Context, log_evidence, task_slices

Interval = tuple[float, float]
Intervals = Mapping[str, Interval]

_MOVES = 4  # Metropolis steps after each change of temperature
_KEPT_SHARE = 0.5  # of the effective number of particles, at each change of temperature
_BISECTIONS = 40
_MAX_LEVELS = 200


def at_unit(unit: Tensor, intervals: Intervals, noise_var: float) -> Components:
    """Equally weighted components at points `(G, B, k)` of the unit cube."""
    values = {
        name: low + (high - low) * unit[..., i]
        for i, (name, (low, high)) in enumerate(intervals.items())
    }
    even = torch.full_like(values["lengthscale"], -math.log(len(unit)))
    noise = torch.full_like(even, noise_var)[..., None]
    return Components(
        values["lengthscale"], values["amplitude"], values.get("period"), noise, even
    )


def on_grid(
    kernel: str, context: Context, intervals: Intervals, noise_var: float, num_grid: int
) -> Components:
    """A midpoint grid on the prior, weighted by the evidence of the context."""
    nodes = (
        torch.arange(num_grid, dtype=torch.float64, device=context.x.device) + 0.5
    ) / num_grid
    unit = torch.cartesian_prod(*(nodes for _ in intervals))
    tasks, n = context.y.shape
    components = at_unit(unit[:, None].expand(-1, tasks, -1), intervals, noise_var)
    logs = [
        log_evidence(kernel, components.rows(rows), context.rows(rows).trimmed())
        for rows in task_slices(tasks, len(unit) * n * n)
    ]
    return components._replace(log_weights=torch.cat(logs, 1).log_softmax(0))


def by_particles(
    kernel: str,
    context: Context,
    intervals: Intervals,
    noise_var: float,
    *,
    num_particles: int,
    generator: Generator,
) -> tuple[Components, Tensor]:
    """Equally weighted draws of the posterior, and log evidences `(B,)`, by tempering.

    Particles start from the prior; the evidence is raised to powers that rise to 1, each so
    that half of the effective particles remain; after each, particles are resampled and moved
    by Metropolis steps whose length is random over three decades, for posteriors with several
    narrow modes, as that of a period has.

    Source: Del Moral, Doucet & Jasra (JRSS B 2006).
    """
    units: list[Tensor] = []
    evidences: list[Tensor] = []
    tasks, n = context.y.shape
    for rows in task_slices(tasks, num_particles * n * n):
        part = context.rows(rows).trimmed()

        def log_likelihood(unit: Tensor, part: Context = part) -> Tensor:
            return log_evidence(kernel, at_unit(unit, intervals, noise_var), part)

        shape = (num_particles, len(part.y), len(intervals))
        unit, evidence = _tempered(log_likelihood, shape, generator)
        units.append(unit)
        evidences.append(evidence)
    return at_unit(torch.cat(units, 1), intervals, noise_var), torch.cat(evidences)


def _tempered(
    log_likelihood: Callable[[Tensor], Tensor], shape: tuple[int, int, int], rng: Generator
) -> tuple[Tensor, Tensor]:
    options: dict[str, Any] = {"generator": rng, "dtype": torch.float64, "device": rng.device}
    unit = torch.rand(shape, **options)
    logs = log_likelihood(unit)
    power = torch.zeros(shape[1], dtype=torch.float64, device=rng.device)
    evidence = torch.zeros_like(power)
    for _ in range(_MAX_LEVELS):
        rise = _next_rise(logs, 1 - power)
        evidence = evidence + (rise * logs).logsumexp(0) - math.log(shape[0])
        power = power + rise
        offset = torch.rand(shape[1], **options)
        picked = _systematic((rise * logs).softmax(0), offset)
        unit = unit.gather(0, picked[..., None].expand(shape))
        logs = logs.gather(0, picked)
        for _ in range(_MOVES):
            unit, logs = _moved(log_likelihood, unit, logs, power, rng)
        if bool((power >= 1).all()):
            break
    return unit, evidence


def _next_rise(logs: Tensor, room: Tensor) -> Tensor:
    """The largest rise of the power that keeps the wanted share of particles effective."""

    def effective_share(rise: Tensor) -> Tensor:
        return (-(2 * (rise * logs).log_softmax(0)).logsumexp(0)).exp() / len(logs)

    low, high = torch.zeros_like(room), room.clone()
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        enough = effective_share(middle) >= _KEPT_SHARE
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    return torch.where(effective_share(room) >= _KEPT_SHARE, room, low)


def _systematic(weights: Tensor, offset: Tensor) -> Tensor:
    """Systematic resampling of each column: `(G, B)` numbers of particles."""
    count = len(weights)
    places = (torch.arange(count, device=weights.device)[:, None] + offset) / count
    edges = weights.cumsum(0)
    picked = torch.searchsorted(edges.mT.contiguous(), places.mT.contiguous())
    return picked.clamp_max(count - 1).mT


def _moved(
    log_likelihood: Callable[[Tensor], Tensor],
    unit: Tensor,
    logs: Tensor,
    power: Tensor,
    rng: Generator,
) -> tuple[Tensor, Tensor]:
    """One random-walk Metropolis step of all particles, reflected at the faces of the cube."""
    options: dict[str, Any] = {"generator": rng, "dtype": unit.dtype, "device": unit.device}
    spread = unit.std(0, keepdim=True).clamp_min(1e-6)
    reach = 10 ** (-3 * torch.rand(unit.shape[:2], **options))[..., None]
    moved = unit + 2 * reach * spread * torch.randn(unit.shape, **options)
    moved = 1 - (1 - moved.remainder(2)).abs()
    moved_logs = log_likelihood(moved)
    accepted = torch.rand(logs.shape, **options).log() < power * (moved_logs - logs)
    return (
        torch.where(accepted[..., None], moved, unit),
        torch.where(accepted, moved_logs, logs),
    )
