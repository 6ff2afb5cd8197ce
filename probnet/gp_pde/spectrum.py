"""Frequencies of the solution, read off the source and the boundary data.

Matching pursuit along one axis: the largest peak of the averaged, windowed periodogram is
added, all frequencies are refined together by variable projection (amplitudes, a constant and a
slope eliminated by least squares), and the fit is subtracted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import least_squares
from torch import Tensor

Array = NDArray[np.float64]

_PADDING = 8
_STOP = 1e-8  # share of the power that may remain
_WEAKEST = 1e-4  # peaks below this share of the power are left to the smooth component
_ROUNDING = 1e-14  # share of the power below which nothing is a signal
_MAX_COLUMNS = 8
MIN_POINTS_PER_PERIOD = 2.5


@dataclass(frozen=True)
class Peak:
    """One sinusoid.

    Attributes:
        frequency: in cycles per unit.
        amplitude: root mean square over the lines.
    """

    frequency: float
    amplitude: float


def axis_peaks(
    lines: Tensor, spacing: float, max_count: int, noise_sd: float = 0.0
) -> list[Peak]:
    """Sinusoids along the first axis, strongest first.

    Peaks below one period per domain belong to the smooth component and are not listed.

    Args:
        lines: values on uniform nodes, shape `(n, ...)`; the spectrum is averaged over the
            rest.
        spacing: distance of the nodes.
        max_count: at most so many.
        noise_sd: of the values; peaks that it explains are left out.
    """
    columns = _compressed(lines)
    n = len(columns)
    power = float((columns**2).sum())
    if power == 0 or n < 8:
        return []
    t = np.arange(n) / n
    found: list[float] = []  # in cycles per n nodes
    residual = _least_squares(columns, t, np.array(found))[1]
    start = float((residual**2).sum())
    if start < _ROUNDING * power:
        return []
    num_lines = lines.numel() // n
    weakest = max(_WEAKEST * start, 4 * math.log(n) * noise_sd**2 * num_lines)
    while len(found) < max_count and (residual**2).sum() > _STOP * start:
        peak = _largest_peak(residual, found, weakest)
        if peak is None:
            break
        found.append(peak)
        found = _refined(columns, t, found)
        residual = _least_squares(columns, t, np.array(found))[1]
    coefficients = _least_squares(columns, t, np.array(found))[0][2:]
    squared = (coefficients**2).sum(1).reshape(2, -1).sum(0) / num_lines
    nyquist = 0.5 / spacing
    return [
        Peak(min(abs(m) / (n * spacing), nyquist), math.sqrt(a))
        for m, a in zip(found, squared, strict=True)
    ]


def merge_peaks(groups: Sequence[Sequence[Peak]], resolution: float) -> list[Peak]:
    """The peaks of all groups, without those closer than `resolution` to an earlier one."""
    merged: list[Peak] = []
    for peak in (peak for group in groups for peak in group):
        if all(abs(peak.frequency - other.frequency) >= resolution for other in merged):
            merged.append(peak)
    return merged


def _compressed(lines: Tensor) -> Array:
    """A few columns with (nearly) the same covariance along the first axis as all lines."""
    flat = lines.reshape(len(lines), -1)
    if flat.shape[1] <= _MAX_COLUMNS:
        return flat.numpy()
    values, vectors = torch.linalg.eigh(flat @ flat.mT)
    top = values[-_MAX_COLUMNS:].clamp_min(0).sqrt()
    return (vectors[:, -_MAX_COLUMNS:] * top).numpy()


def _least_squares(columns: Array, t: Array, frequencies: Array) -> tuple[Array, Array]:
    """Coefficients of a constant, a slope, cosines and sines; and what they leave."""
    angles = 2 * math.pi * np.outer(t, frequencies)
    design = np.hstack([np.ones((len(t), 1)), t[:, None] - 0.5, np.cos(angles), np.sin(angles)])
    coefficients: Array = np.linalg.lstsq(design, columns, rcond=1e-10)[0].astype(np.float64)
    return coefficients, columns - design @ coefficients


def _refined(columns: Array, t: Array, frequencies: list[float]) -> list[float]:
    """Levenberg-Marquardt steps on the frequencies, none of which moves by more than 0.5."""
    start = np.array(frequencies)
    fit = least_squares(
        lambda m: _least_squares(columns, t, m)[1].ravel(),
        start,
        bounds=(start - 0.5, start + 0.5),
        max_nfev=15,
    )
    return fit.x.tolist()


def _largest_peak(residual: Array, found: list[float], threshold: float) -> float | None:
    """The highest local maximum, by a parabola through the log power; in cycles per n nodes."""
    n = len(residual)
    window = np.hanning(n)[:, None]
    size = _PADDING * n
    spectrum = np.abs(np.fft.rfft(residual * window, size, axis=0)) ** 2
    power = spectrum.sum(1)
    position = np.arange(len(power)) / _PADDING
    inner = power[1:-1]
    local = np.zeros(len(power), dtype=bool)
    local[1:-1] = (inner >= power[:-2]) & (inner >= power[2:])
    local[-1] = power[-1] > power[-2]
    local &= position >= 1.0
    for known in found:
        local &= np.abs(position - known) >= 1.0
    # A sinusoid of power p (sum of squares) has a peak of p * (Σ window)² / (2 n).
    local &= power > threshold * float(window.sum()) ** 2 / (2 * n)
    if not local.any():
        return None
    i = int(np.argmax(np.where(local, power, 0.0)))
    if i + 1 >= len(power):
        return float(position[i])
    a, b, c = np.log(np.maximum(power[i - 1 : i + 2], 1e-300))
    curvature = a - 2 * b + c
    offset = 0.5 * (a - c) / curvature if curvature < 0 else 0.0
    return float(position[i] + offset / _PADDING)
