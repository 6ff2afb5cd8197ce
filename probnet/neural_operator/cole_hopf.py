"""The exact solution of Burgers' equation, and the sine series of its initial values."""

from __future__ import annotations

import math

import torch
from scipy.fft import dct
from torch import Tensor


def wavenumbers(count: int) -> Tensor:
    """Those of the sines that vanish at x = -1 and x = 1."""
    return math.pi / 2 * torch.arange(1, count + 1, dtype=torch.float64)


def sines(x: Tensor, count: int) -> Tensor:
    """The first sines at positions (n,), shape (count, n)."""
    return torch.sin(wavenumbers(count).to(x)[:, None] * (x + 1))


def sine_amplitudes(cells: int) -> Tensor:
    """Matrix from values at the inner nodes of [-1, 1], as a row, to their sine amplitudes."""
    x = torch.linspace(-1, 1, cells + 1, dtype=torch.float64)[1:-1]
    return 2 / cells * sines(x, cells - 1).T


def cole_hopf(start: Tensor, points: Tensor, viscosity: float) -> Tensor:
    r"""Exact solutions `(*batch, n)` at points (n, 2), of initial values `(*batch, g)`.

    u = -2ν θ_x/θ with θ_t = ν θ_xx, θ(x, 0) = exp(-∫u(s, 0)ds/(2ν)), which has zero slope at
    both ends; θ is summed as a cosine series whose coefficients are exact to rounding.

    Source: Cole (Quart. Appl. Math. 9, 1951); Hopf (Comm. Pure Appl. Math. 3, 1950).

    Raises:
        ValueError: if θ spans more than ten decades: u(x, 0) is too large for ν.
    """
    count = start.shape[-1] - 2
    waves = wavenumbers(count)
    amplitudes = start[..., 1:-1] @ sine_amplitudes(count + 1) / waves
    cells = max(1024, 8 * (count + 1))
    x = torch.linspace(-1, 1, cells + 1, dtype=torch.float64)
    exponent = amplitudes @ torch.cos(waves[:, None] * (x + 1)) / (2 * viscosity)
    exponent = exponent - exponent.amax(-1, keepdim=True)
    if float(exponent.min()) < -10 * math.log(10):
        raise ValueError(
            f"`inputs` are too large for the viscosity {viscosity:.4g}: the Cole–Hopf function "
            f"spans {-float(exponent.min()) / math.log(10):.1f} decades, 10 at most are summed."
        )
    series = torch.from_numpy(dct(exponent.exp().numpy(), type=1, axis=-1))
    series[..., [0, -1]] /= 2
    frequencies = math.pi / 2 * torch.arange(cells + 1, dtype=torch.float64)
    largest = series.abs().flatten(0, -2).amax(0) if series.ndim > 1 else series.abs()
    kept = largest * (1 + frequencies) > 1e-17 * largest.max()
    series, frequencies = series[..., kept], frequencies[kept][:, None]
    decay = torch.exp(-viscosity * frequencies.square() * points[:, 1])
    angle = frequencies * (points[:, 0] + 1)
    theta = series @ (decay * angle.cos())
    slope = -series @ (decay * frequencies * angle.sin())
    return -2 * viscosity * slope / theta
