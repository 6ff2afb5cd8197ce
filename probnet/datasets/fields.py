"""Random input fields of the parametric PDEs: permeabilities, initial values, inflows."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from inference._checks import check_integer, check_positive
from inference.rng import Stream, generator


class FieldSampler(ABC):
    """Independent random fields on a fixed grid of nodes, as many as are asked for."""

    @property
    @abstractmethod
    def grid(self) -> tuple[int, ...]:
        """Nodes along each axis."""

    @abstractmethod
    def draw(self, num_samples: int, generator: torch.Generator) -> Tensor:
        """Fields `(num_samples, *grid)`, float64, on the generator's device, which advances."""

    def sample(self, num_samples: int, *, seed: int = 0) -> Tensor:
        """Draw independent fields; global generators are untouched.

        Args:
            num_samples: how many, at least 1.
            seed: equal seeds give equal fields.

        Returns:
            Shape `(num_samples, *grid)`, float64.
        """
        check_integer("num_samples", num_samples, 1)
        source = generator(check_integer("seed", seed, 0), Stream.PREDICTIVE)
        return self.draw(num_samples, source)


@dataclass(frozen=True)
class LevelSetGRF(FieldSampler):
    r"""Two phases by the sign of a Gaussian field: a = low + (high - low) 1[g > 0].

    The field has covariance (-Δ + τ²)^{-α} with Neumann boundaries and no constant mode. On
    n x n nodes that span the unit square, with white noise w,

        g = DCT⁻¹(λ DCT(w)),   λ_k = n τ^{α-1} (π²|k|² + τ²)^{-α/2},   λ_0 = 0,

    DCT the orthonormal type-II transform. DCT(w) is the standard normal vector that samplers of
    a posterior move.

    Source: Iglesias, Lu & Stuart (Interfaces and Free Boundaries 18, 2016), level-set prior;
    the two-phase media of Zang & Koutsourelakis (J. Comput. Phys. 538, 2025).

    Args:
        tau: τ > 0, the inverse length over which phases change.
        alpha: α > 1, smoothness of g.
        low: value of a where g <= 0, > 0.
        high: value of a where g > 0, > 0.
        num_nodes: n >= 2, along each axis.

    Raises:
        ValueError: on an argument out of range.

    Example:
        >>> LevelSetGRF(tau=3.0).sample(2, seed=0).shape
        torch.Size([2, 29, 29])
    """

    tau: float = 3.0
    alpha: float = 2.0
    low: float = 5.0
    high: float = 10.0
    num_nodes: int = 29

    def __post_init__(self) -> None:
        """Check the arguments."""
        for name in ("tau", "low", "high"):
            check_positive(name, getattr(self, name))
        check_integer("num_nodes", self.num_nodes, 2)
        if not self.alpha > 1:
            raise ValueError(
                f"`alpha` must be above 1, for the field to be continuous; got {self.alpha!r}."
            )
        if self.low == self.high:
            raise ValueError(f"`low` and `high` must differ; both are {self.low!r}.")

    @property
    def grid(self) -> tuple[int, int]:
        """Nodes along both axes."""
        return self.num_nodes, self.num_nodes

    @property
    def dim(self) -> int:
        """Length of the white-noise vector."""
        return self.num_nodes**2

    def draw(self, num_samples: int, generator: torch.Generator) -> Tensor:
        """Media (num_samples, n, n) of two values."""
        white = torch.randn(
            num_samples,
            self.dim,
            generator=generator,
            dtype=torch.float64,
            device=generator.device,
        )
        return self.decode(white)

    def field(self, white: Tensor) -> Tensor:
        """The Gaussian field g (..., n, n) of white noise (..., n²)."""
        return self.field_of_modes(self.to_modes(white))

    def field_of_modes(self, modes: Tensor) -> Tensor:
        """The Gaussian field g (..., n, n) of the DCT of white noise (..., n²)."""
        dct = self._dct.to(modes)
        square = modes.reshape(*modes.shape[:-1], *self.grid)
        return dct.T @ (self._eigenvalues.to(modes) * square) @ dct

    def decode(self, white: Tensor) -> Tensor:
        """The medium a (..., n, n) of white noise (..., n²)."""
        return self.decode_modes(self.to_modes(white))

    def decode_modes(self, modes: Tensor, *, width: float = 0.0) -> Tensor:
        """The medium a (..., n, n) of the DCT of white noise, itself standard normal.

        Args:
            modes: shape (..., n²).
            width: 0, or that of a smooth interface in units of the field's sd over the nodes:
                log a is then the logistic function of g/width, with a gradient.
        """
        field = self.field_of_modes(modes)
        if not width:
            return torch.where(field > 0, self.high, self.low).to(modes.dtype)
        sd = field.detach().std((-2, -1), keepdim=True)
        return self.low * (self.high / self.low) ** torch.sigmoid(field / (width * sd))

    def to_modes(self, white: Tensor) -> Tensor:
        """Orthonormal DCT of white noise, both (..., n²)."""
        square = white.reshape(*white.shape[:-1], *self.grid)
        dct = self._dct.to(white)
        return (dct @ square @ dct.T).reshape(white.shape)

    @cached_property
    def _dct(self) -> Tensor:
        """Rows are the orthonormal cosines of the type-II transform."""
        n = self.num_nodes
        steps = torch.arange(n, dtype=torch.float64)
        matrix = torch.cos(math.pi / n * steps[:, None] * (steps + 0.5)) * math.sqrt(2 / n)
        matrix[0] /= math.sqrt(2)
        return matrix

    @cached_property
    def _eigenvalues(self) -> Tensor:
        k = torch.arange(self.num_nodes, dtype=torch.float64)
        squared = math.pi**2 * (k[:, None].square() + k.square())
        scale = self.num_nodes * self.tau ** (self.alpha - 1)
        values = scale * (squared + self.tau**2) ** (-self.alpha / 2)
        values[0, 0] = 0
        return values


@dataclass(frozen=True)
class SineField(FieldSampler):
    r"""Smooth permeabilities a(x, y) = 2.1 + sin(ω₁x) + cos(ω₂y), ω ~ U[0, 7π/4], a >= 0.1.

    Source: Zang & Koutsourelakis (J. Comput. Phys. 538, 2025), smooth Darcy.

    Args:
        num_nodes: of the unit square, along each axis, >= 2.
    """

    num_nodes: int = 29

    def __post_init__(self) -> None:
        """Check the argument."""
        check_integer("num_nodes", self.num_nodes, 2)

    @property
    def grid(self) -> tuple[int, int]:
        """Nodes along both axes."""
        return self.num_nodes, self.num_nodes

    def draw(self, num_samples: int, generator: torch.Generator) -> Tensor:
        """Permeabilities (num_samples, n, n)."""
        omega = 1.75 * math.pi * _uniform((2, num_samples, 1), generator)
        nodes = _nodes(0, 1, self.num_nodes, generator)
        return 2.1 + (omega[0] * nodes).sin()[..., None] + (omega[1] * nodes).cos()[:, None]


@dataclass(frozen=True)
class SineSeries(FieldSampler):
    r"""Initial values u₀(x) = c Σ_k z_k k⁻² sin(kπx) on [-1, 1], z ~ N(0, I), of given rms.

    Every field is odd, vanishes at both ends and is scaled to the root mean square `rms`
    over [-1, 1].

    Args:
        num_modes: K >= 1.
        rms: > 0.
        num_nodes: of [-1, 1], both ends included, >= 2.
    """

    num_modes: int = 8
    rms: float = 0.25
    num_nodes: int = 128

    def __post_init__(self) -> None:
        """Check the arguments."""
        check_integer("num_modes", self.num_modes, 1)
        check_integer("num_nodes", self.num_nodes, 2)
        check_positive("rms", self.rms)

    @property
    def grid(self) -> tuple[int]:
        """Nodes of [-1, 1]."""
        return (self.num_nodes,)

    def draw(self, num_samples: int, generator: torch.Generator) -> Tensor:
        """Initial values (num_samples, n)."""
        return self.evaluate(
            self.draw_coefficients(num_samples, generator),
            _nodes(-1, 1, self.num_nodes, generator),
        )

    def draw_coefficients(self, num_samples: int, generator: torch.Generator) -> Tensor:
        """Amplitudes of the sines (num_samples, K), scaled: their squares sum to 2 rms²."""
        k = torch.arange(1, self.num_modes + 1, dtype=torch.float64, device=generator.device)
        shape = (num_samples, self.num_modes)
        z = torch.randn(
            shape, generator=generator, dtype=torch.float64, device=generator.device
        )
        amplitudes = z / k.square()
        norms = amplitudes.square().sum(-1, keepdim=True).sqrt()
        return math.sqrt(2) * self.rms * amplitudes / norms

    def evaluate(self, coefficients: Tensor, x: Tensor) -> Tensor:
        """The fields of amplitudes (..., K) at positions (n,), shape (..., n)."""
        k = torch.arange(1, self.num_modes + 1, dtype=x.dtype, device=x.device)
        return coefficients @ torch.sin(math.pi * k[:, None] * x)


@dataclass(frozen=True)
class InflowProfile(FieldSampler):
    r"""Inflows a(y) = 2 sin(πy)(1 + sin(β₁y) + cos(β₂y)) on [0, 1], β ~ U[0, 7π/4].

    Source: Zang & Koutsourelakis (J. Comput. Phys. 538, 2025), Stokes flow around a cylinder;
    the range of β is ours, none being published.

    Args:
        num_nodes: of [0, 1], both ends included, >= 2.
    """

    num_nodes: int = 256

    def __post_init__(self) -> None:
        """Check the argument."""
        check_integer("num_nodes", self.num_nodes, 2)

    @property
    def grid(self) -> tuple[int]:
        """Nodes of [0, 1]."""
        return (self.num_nodes,)

    def draw(self, num_samples: int, generator: torch.Generator) -> Tensor:
        """Inflows (num_samples, n)."""
        beta = 1.75 * math.pi * _uniform((2, num_samples, 1), generator)
        y = _nodes(0, 1, self.num_nodes, generator)
        shape = 1 + (beta[0] * y).sin() + (beta[1] * y).cos()
        return 2 * torch.sin(math.pi * y) * shape


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device)


def _nodes(start: float, end: float, count: int, generator: torch.Generator) -> Tensor:
    return torch.linspace(start, end, count, dtype=torch.float64, device=generator.device)
