"""The exact posterior under Student-t noise of random scale, by Gibbs sampling.

y_i = f(x_i) + ε_i + c_i t_i with ε Gaussian. Given the mixing variable λ_i of t_i, the noise of
a point is Gaussian of variance v_i = noise_sd² + c_i²/λ_i, so the law of the noise is a scale
mixture of normals. Its mixing law is put on atoms; v_i given a residual is then categorical.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Generator, Tensor

from probnet.linalg import jittered_cholesky
from probnet.neural_process.gaussian import (
    Components,
    Context,
    covariance,
    log_evidence,
    task_slices,
)
from probnet.neural_process.oracle_hyper import Intervals, at_unit

_SCALES = 64  # midpoints of the interval of c
_PRECISIONS = 4000  # cells of λ, even in log λ
_WARMUP, _SWEEPS_PER_DRAW = 60, 10
_RELATIVE_JITTER = 1e-8


class NoiseAtoms(NamedTuple):
    """A discrete law of the variance of one point's noise.

    Attributes:
        variances: of all the noise, `(A,)`.
        log_weights: log probabilities, `(A,)`.
    """

    variances: Tensor
    log_weights: Tensor


def student_atoms(
    noise_sd: float, df: float, scales: tuple[float, float], num_atoms: int
) -> NoiseAtoms:
    """The law of noise_sd² + c²/λ for c uniform and λ ~ Gamma(df/2, rate df/2), on atoms.

    Atoms are the conditional means of cells even in log(noise_sd² + c²/λ), so that the mean of
    the variance is kept but for the far tail of λ.
    """
    edges = np.logspace(-7, 3, _PRECISIONS + 1)
    chance = np.diff(stats.gamma.cdf(edges, df / 2, scale=2 / df))
    low, high = scales
    c = low + (high - low) * (np.arange(_SCALES) + 0.5) / _SCALES
    values = noise_sd**2 + (c[:, None] ** 2 / np.sqrt(edges[1:] * edges[:-1])).ravel()
    chances = np.broadcast_to(chance / _SCALES, (_SCALES, _PRECISIONS)).ravel()
    kept = chances > 0
    values, chances = values[kept], chances[kept]
    cells = np.linspace(np.log(values.min()), np.log(values.max()) + 1e-9, num_atoms + 1)
    cell = np.digitize(np.log(values), cells) - 1
    mass = np.bincount(cell, chances, num_atoms)
    total = np.bincount(cell, chances * values, num_atoms)
    used = mass > 0
    weights = torch.from_numpy(mass[used] / mass.sum())
    return NoiseAtoms(torch.from_numpy(total[used] / mass[used]), weights.log())


def by_gibbs(
    kernel: str,
    context: Context,
    known: Components | None,
    intervals: Intervals,
    atoms: NoiseAtoms,
    *,
    num_chains: int,
    num_kept: int,
    generator: Generator,
) -> Components:
    """Draws of hyper-parameters and noise variances: `num_chains * num_kept` components.

    Each sweep moves the hyper-parameters by one Metropolis step with f integrated out, draws f
    at the context, and draws the noise variance of every point given its residual.

    Args:
        kernel: of f.
        context: the tasks.
        known: the hyper-parameters `(1, B)`; `None` integrates them over `intervals`.
        intervals: by name, of unknown hyper-parameters.
        atoms: of the noise.
        num_chains: parallel chains per task.
        num_kept: draws of each chain.
        generator: the only source of randomness.
    """
    tasks, n = context.y.shape
    pieces: list[Components] = []
    for rows in task_slices(tasks, num_chains * n * max(n, len(atoms.variances))):
        part = None if known is None else known.rows(rows)
        trimmed = context.rows(rows).trimmed()
        draws = _Chains(kernel, trimmed, part, intervals, atoms, num_chains).run(
            num_kept, generator
        )
        missing = n - draws.noise_var.shape[-1]
        padded = torch.nn.functional.pad(draws.noise_var, (0, missing), value=1.0)
        pieces.append(draws._replace(noise_var=padded))
    joined = [
        None if values[0] is None else torch.cat(values, 1)
        for values in zip(*pieces, strict=True)
    ]
    return Components(*joined)  # pyright: ignore[reportArgumentType] - all but the period are tensors


class _Chains:
    def __init__(
        self,
        kernel: str,
        context: Context,
        known: Components | None,
        intervals: Intervals,
        atoms: NoiseAtoms,
        num_chains: int,
    ) -> None:
        self.kernel, self.context, self.atoms = kernel, context, atoms
        self.known, self.intervals = known, intervals
        self.shape = (num_chains, *context.y.shape)

    def run(self, num_kept: int, rng: Generator) -> Components:
        options: dict[str, Any] = {
            "generator": rng,
            "dtype": torch.float64,
            "device": rng.device,
        }
        unit = torch.rand((*self.shape[:2], max(len(self.intervals), 1)), **options)
        prior = self.atoms.log_weights.exp()
        start = torch.multinomial(prior, math.prod(self.shape), replacement=True, generator=rng)
        noise = self.atoms.variances[start].reshape(self.shape)
        kept: list[Components] = []
        for sweep in range(_WARMUP + num_kept * _SWEEPS_PER_DRAW):
            if self.known is None:
                unit = self._moved(unit, noise, rng)
            noise = self._noise(self._components(unit, noise), rng)
            if sweep >= _WARMUP and (sweep - _WARMUP) % _SWEEPS_PER_DRAW == 0:
                kept.append(self._components(unit, noise))
        joined = [
            None if values[0] is None else torch.cat(values)
            for values in zip(*kept, strict=True)
        ]
        result = Components(*joined)  # pyright: ignore[reportArgumentType] - as above
        even = torch.full_like(result.log_weights, -math.log(len(result.log_weights)))
        return result._replace(log_weights=even)

    def _components(self, unit: Tensor, noise: Tensor) -> Components:
        if self.known is None:
            return at_unit(unit, self.intervals, 0.0)._replace(noise_var=noise)
        known = self.known
        lengthscale, amplitude = (
            value.expand(self.shape[:2]) for value in (known.lengthscale, known.amplitude)
        )
        return Components(lengthscale, amplitude, None, noise, torch.zeros_like(lengthscale))

    def _moved(self, unit: Tensor, noise: Tensor, rng: Generator) -> Tensor:
        """Random-walk Metropolis over the unit cube, f integrated out."""
        options: dict[str, Any] = {"generator": rng, "dtype": unit.dtype, "device": unit.device}
        reach = 0.5 * 10 ** (-1.5 * torch.rand(unit.shape[:2], **options))[..., None]
        proposal = unit + reach * torch.randn(unit.shape, **options)
        proposal = 1 - (1 - proposal.remainder(2)).abs()
        old, new = (
            log_evidence(self.kernel, self._components(u, noise), self.context)
            for u in (unit, proposal)
        )
        accepted = torch.rand(old.shape, **options).log() < new - old
        return torch.where(accepted[..., None], proposal, unit)

    def _noise(self, components: Components, rng: Generator) -> Tensor:
        """Noise variances given residuals of a draw of f."""
        options: dict[str, Any] = {
            "generator": rng,
            "dtype": torch.float64,
            "device": rng.device,
        }
        x, y, mask = self.context
        size = components.amplitude[..., None] ** 2
        gram = covariance(self.kernel, components, x, x)
        gram = gram * (mask[:, :, None] & mask[:, None, :])
        gram.diagonal(dim1=-2, dim2=-1).add_(_RELATIVE_JITTER * size + (~mask).to(gram.dtype))
        prior = (jittered_cholesky(gram) @ torch.randn((*self.shape, 1), **options))[..., 0]
        simulated = prior + components.noise_var.sqrt() * torch.randn(self.shape, **options)
        gram.diagonal(dim1=-2, dim2=-1).add_(components.noise_var)
        gap = (y - simulated)[..., None]
        # Matheron: residual of the posterior draw = noise part of the corrected prior draw
        weights = torch.cholesky_solve(gap, jittered_cholesky(gram))[..., 0]
        residual = simulated - prior + components.noise_var * weights
        logs = self.atoms.log_weights - 0.5 * (
            self.atoms.variances.log() + residual[..., None] ** 2 / self.atoms.variances
        )
        edges = (logs - logs.amax(-1, keepdim=True)).exp_().cumsum(-1)
        places = edges[..., -1:] * torch.rand((*self.shape, 1), **options)
        index = torch.searchsorted(edges, places).clamp_max(logs.shape[-1] - 1)
        return self.atoms.variances[index[..., 0]]
