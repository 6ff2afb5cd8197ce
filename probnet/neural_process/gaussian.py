"""Exact Gaussian process algebra of many small tasks, under many hyper-parameters at once."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from probnet.datasets.functions.covariances import CORRELATIONS, distances
from probnet.linalg import jittered_cholesky

_MAX_ENTRIES = 1 << 21  # of a stack of matrices: 16 MiB, so that it stays in the cache


class Context(NamedTuple):
    """Observed data of B tasks, in float64.

    Attributes:
        x: inputs `(B, n, d)`.
        y: outputs `(B, n)`; zero where masked.
        mask: which entries are points, `(B, n)`.
    """

    x: Tensor
    y: Tensor
    mask: Tensor

    def rows(self, rows: slice) -> Context:
        """Some of the tasks."""
        return Context(self.x[rows], self.y[rows], self.mask[rows])

    def trimmed(self) -> Context:
        """Without trailing entries that are points of no task."""
        used = self.mask.any(0).nonzero()
        size = int(used.max()) + 1 if len(used) else 1
        return Context(self.x[:, :size], self.y[:, :size], self.mask[:, :size])


class Components(NamedTuple):
    """Hyper-parameters of G Gaussian processes per task.

    Attributes:
        lengthscale: `(G, B)`.
        amplitude: `(G, B)`.
        period: `(G, B)`, of the periodic kernel.
        noise_var: of the context points, `(G, B, n)` or `(G, B, 1)`.
        log_weights: log probabilities, `(G, B)`.
    """

    lengthscale: Tensor
    amplitude: Tensor
    period: Tensor | None
    noise_var: Tensor
    log_weights: Tensor

    def rows(self, rows: slice) -> Components:
        """Those of some of the tasks."""
        return Components(*(None if v is None else v[:, rows] for v in self))  # pyright: ignore[reportArgumentType] - all but the period are tensors

    def picked(self, index: Tensor) -> Components:
        """One component per draw and task: `(S, B)` numbers of components."""

        def take(values: Tensor) -> Tensor:
            wide = (
                index
                if values.ndim == 2
                else index[..., None].expand(*index.shape, values.shape[2])
            )
            return values.gather(0, wide)

        return Components(*(None if v is None else take(v) for v in self))  # pyright: ignore[reportArgumentType] - as above


def task_slices(num_tasks: int, entries_per_task: int) -> list[slice]:
    """Consecutive tasks, as many at once as memory should hold."""
    size = max(1, _MAX_ENTRIES // max(entries_per_task, 1))
    return [slice(i, i + size) for i in range(0, num_tasks, size)]


def covariance(kernel: str, components: Components, x1: Tensor, x2: Tensor) -> Tensor:
    """Of f at the tasks' inputs: `(G, B, n, m)`."""
    period = components.period
    correlation = CORRELATIONS[kernel](
        distances(x1, x2),
        components.lengthscale[..., None, None],
        None if period is None else period[..., None, None],
    )
    return components.amplitude[..., None, None] ** 2 * correlation


def factorised(kernel: str, components: Components, context: Context) -> tuple[Tensor, Tensor]:
    """Cholesky factor L of K + noise, `(G, B, n, n)`, and L⁻¹y; masked points are N(0, 1)."""
    gram = covariance(kernel, components, context.x, context.x)
    gram = gram * (context.mask[:, :, None] & context.mask[:, None, :])
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    diagonal.add_(torch.where(context.mask, components.noise_var, 1.0))
    factor = jittered_cholesky(gram)
    y = context.y[..., None].expand(*factor.shape[:-1], 1)
    return factor, torch.linalg.solve_triangular(factor, y, upper=False)[..., 0]


def log_evidence(kernel: str, components: Components, context: Context) -> Tensor:
    """Log p(y_c) under each component, `(G, B)`."""
    factor, white = factorised(kernel, components, context)
    logs = factor.diagonal(dim1=-2, dim2=-1).log()
    count = context.mask.sum(-1)
    return -0.5 * (white**2).sum(-1) - logs.sum(-1) - 0.5 * math.log(2 * math.pi) * count


def latent_moments(
    kernel: str, components: Components, context: Context, xt: Tensor, *, full: bool
) -> tuple[Tensor, Tensor]:
    """Mean `(G, B, m)` of f at targets, and variances or the covariance `(G, B, m, m)`."""
    factor, white = factorised(kernel, components, context)
    cross = covariance(kernel, components, context.x, xt) * context.mask[..., None]
    half = torch.linalg.solve_triangular(factor, cross, upper=False)
    mean = (half.mT @ white[..., None])[..., 0]
    if full:
        return mean, covariance(kernel, components, xt, xt) - half.mT @ half
    prior = components.amplitude[..., None] ** 2
    return mean, (prior - (half**2).sum(-2)).clamp_min(0.0)
