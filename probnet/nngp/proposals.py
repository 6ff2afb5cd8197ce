"""Proposals for importance sampling of hyper-parameters: heavy-tailed, around a mode."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator

Array = NDArray[np.float64]

_DF = 8  # tails heavier than the target's


class Proposal(ABC):
    """A law of vectors `(p,)`."""

    @abstractmethod
    def draw(self, count: int, noise: Generator) -> Array:
        """Draws, `(count, p)`."""

    @abstractmethod
    def log_density(self, vectors: Array) -> Array:
        """Log density of each row."""


@dataclass(frozen=True, eq=False)
class SplitT(Proposal):
    """Student's t whose axes, the columns of `root`, have a width of their own on either side.

    A side is taken in proportion to its width, which makes the density continuous.

    Source: Geweke (Econometrica 1989).

    Attributes:
        center: the mode, `(p,)`.
        root: `(p, p)`.
        widths: of the negative and positive side of each axis, `(2, p)`.
    """

    center: Array
    root: Array
    widths: Array

    def draw(self, count: int, noise: Generator) -> Array:
        """See `Proposal.draw`."""
        size = len(self.center)
        t = np.abs(_student_t(count, size, noise))
        uniform = torch.rand(count, size, generator=noise, dtype=torch.float64).numpy()
        right = uniform < self.widths[1] / self.widths.sum(0)
        return self.center + t * np.where(right, self.widths[1], -self.widths[0]) @ self.root.T

    def log_density(self, vectors: Array) -> Array:
        """See `Proposal.log_density`."""
        z = np.linalg.solve(self.root, (vectors - self.center).T).T
        t = z / np.where(z > 0, self.widths[1], self.widths[0])
        volume = np.linalg.slogdet(self.root)[1] + np.log(self.widths.mean(0)).sum()
        return _log_student_t(t) - volume


@dataclass(frozen=True, eq=False)
class FittedT(Proposal):
    """Student's t with mean and covariance of weighted draws.

    Attributes:
        center: `(p,)`.
        root: of the covariance, `(p, p)`.
    """

    center: Array
    root: Array

    @classmethod
    def to(cls, vectors: Array, log_weights: Array, first: SplitT) -> FittedT:
        """Fit to draws of `first`; the fewer of them count, the closer it stays to that."""
        alive = np.isfinite(log_weights)
        weights = np.exp(log_weights[alive] - log_weights[alive].max())
        # Square-rooted weights: their few largest would decide alone.
        weights = np.sqrt(weights)
        weights /= weights.sum()
        z = np.linalg.solve(first.root, (vectors[alive] - first.center).T).T
        center = weights @ z
        effective = 1 / (weights**2).sum()
        share = effective / (effective + len(center))
        deviations = z - center
        own = (weights[:, None] * deviations).T @ deviations
        covariance = share * own + (1 - share) * np.diag(first.widths.mean(0) ** 2)
        root = first.root @ np.linalg.cholesky(covariance)
        return cls(first.center + first.root @ center, root)

    def draw(self, count: int, noise: Generator) -> Array:
        """See `Proposal.draw`."""
        return self.center + _student_t(count, len(self.center), noise) @ self.root.T

    def log_density(self, vectors: Array) -> Array:
        """See `Proposal.log_density`."""
        t: Any = np.linalg.solve(self.root, (vectors - self.center).T).T
        return _log_student_t(t) - np.linalg.slogdet(self.root)[1]


def _student_t(count: int, size: int, noise: Generator) -> Array:
    normal = torch.randn(count, size, generator=noise, dtype=torch.float64).numpy()
    chi2 = torch.randn(count, _DF, generator=noise, dtype=torch.float64).square().sum(-1)
    spread: Array = np.sqrt(_DF / chi2.numpy()).astype(np.float64)
    return normal * spread[:, None]


def _log_student_t(t: Array) -> Array:
    size = t.shape[-1]
    constant = math.lgamma((_DF + size) / 2) - math.lgamma(_DF / 2)
    constant -= size / 2 * math.log(_DF * math.pi)
    return constant - (_DF + size) / 2 * np.log1p((t**2).sum(-1) / _DF)
