"""Draws from the spectral prior as sums of plane waves, with every derivative at hand.

u(x) = Σ_r Re(z_r exp(2πi s_r·x)) with frequencies s_r and complex normal z_r. Errors of a
solver come from frequencies that its grid does not resolve, which the spectrum all but never
yields; half of the frequencies are therefore drawn evenly up to twice the Nyquist frequency,
and the amplitudes carry importance weights, so that the covariance is right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, Normal, StudentT

from inference.rng import Stream, generator, scoped_seed, stream_seed
from probnet.gp_pde.prior import AxisPrior
from probnet.pde import MultiIndex

_NUM_WAVES = 512
_CHUNK = 4096


class PriorDraws:
    """Independent draws of u, functions on the whole space.

    Args:
        prior: one per axis.
        nodes: of the grid whose errors matter, per axis.
        num_draws: how many.
        seed: of the draws.
    """

    def __init__(
        self, prior: Sequence[AxisPrior], nodes: Sequence[Tensor], num_draws: int, seed: int
    ) -> None:
        stream = generator(seed, Stream.PREDICTIVE)
        frequencies: list[Tensor] = []
        log_weight = torch.zeros(_NUM_WAVES, dtype=torch.float64)
        amplitude = 1.0
        for number, (axis_prior, x) in enumerate(zip(prior, nodes, strict=True)):
            limit = (len(x) - 1) / float(x[-1] - x[0])
            frequency, log_ratio = _axis_frequencies(axis_prior, limit, seed, number)
            frequencies.append(frequency)
            log_weight += log_ratio
            amplitude *= float(axis_prior.derivatives(torch.zeros((), dtype=x.dtype), 0)[0])
        self.frequencies = torch.stack(frequencies, dim=1)
        normals = torch.randn((2, num_draws, _NUM_WAVES), generator=stream, dtype=torch.float64)
        scale = torch.sqrt(amplitude / _NUM_WAVES * log_weight.exp())
        self.amplitudes = torch.complex(*normals) * scale  # (s, r)

    def at(self, x: Tensor) -> Tensor:
        """Values at points `(n, d)`: `(s, n)`."""
        pieces = [_wave(piece @ self.frequencies.mT) for piece in x.split(_CHUNK)]
        return torch.cat([(self.amplitudes @ waves.mT).real for waves in pieces], dim=1)

    def on_grid(self, nodes: Sequence[Tensor]) -> Tensor:
        """Values on a tensor grid, `(s, *grid)`."""
        return self._sum(nodes, self.amplitudes)

    def operator_on_grid(
        self, nodes: Sequence[Tensor], coefficients: Mapping[MultiIndex, Tensor]
    ) -> Tensor:
        """Σ_α a_α ∂^α u on a tensor grid, `(s, *grid)`."""
        constant = torch.zeros(_NUM_WAVES, dtype=torch.complex128)
        total: Tensor | None = None
        for alpha, coefficient in coefficients.items():
            symbol = self._symbol(alpha)
            first = coefficient.reshape(-1)[0]
            if bool((coefficient == first).all()):
                constant = constant + first * symbol
            else:
                term = coefficient * self._sum(nodes, self.amplitudes * symbol)
                total = term if total is None else total + term
        if total is None or bool((constant != 0).any()):
            term = self._sum(nodes, self.amplitudes * constant)
            total = term if total is None else total + term
        return total

    def on_face(self, nodes: Sequence[Tensor], axis: int, end: int, order: int) -> Tensor:
        """A derivative along `axis` at one of its ends: `(s, *grid)` with 1 on that axis."""
        there = [x[[end]] if j == axis else x for j, x in enumerate(nodes)]
        alpha = tuple(order * int(j == axis) for j in range(len(nodes)))
        return self._sum(there, self.amplitudes * self._symbol(alpha))

    def _symbol(self, alpha: MultiIndex) -> Tensor:
        """(2πi s)^α of every wave."""
        symbol = torch.ones(_NUM_WAVES, dtype=torch.complex128)
        for axis, order in enumerate(alpha):
            symbol = symbol * (2j * math.pi * self.frequencies[:, axis]) ** order
        return symbol

    def _sum(self, nodes: Sequence[Tensor], amplitudes: Tensor) -> Tensor:
        """Σ_r Re(a_sr Π_j exp(2πi s_rj x_j)) on a tensor grid."""
        waves = [_wave(x[:, None] * self.frequencies[:, j]) for j, x in enumerate(nodes)]
        shape = [len(x) for x in nodes]
        if len(nodes) == 1:
            return (amplitudes @ waves[0].mT).real
        rest = waves[-1]
        if len(nodes) == 3:
            rest = (waves[1][:, None] * rest).reshape(-1, _NUM_WAVES)
        right = torch.cat([rest.real, -rest.imag], dim=1).mT.contiguous()
        found: list[Tensor] = []
        for amplitude in amplitudes:
            left = waves[0] * amplitude
            found.append(torch.cat([left.real, left.imag], dim=1) @ right)
        return torch.stack(found).reshape(len(amplitudes), *shape)


def _wave(turns: Tensor) -> Tensor:
    return torch.polar(torch.ones_like(turns), 2 * math.pi * turns)


def _axis_frequencies(
    prior: AxisPrior, limit: float, seed: int, number: int
) -> tuple[Tensor, Tensor]:
    """Frequencies along one axis and the log of target over proposal density."""
    scale = 1 / (2 * math.pi * prior.lengthscale)
    if math.isfinite(prior.smoothness):
        component = StudentT(2 * prior.smoothness, prior.frequency, scale)
    else:
        component = Normal(prior.frequency, scale)
    target = MixtureSameFamily(Categorical(prior.weight), component)
    with scoped_seed(stream_seed(seed, Stream.PREDICTIVE, number + 1)):
        drawn = target.sample(torch.Size((_NUM_WAVES,)))
        drawn = drawn * torch.sign(torch.rand(_NUM_WAVES, dtype=torch.float64) - 0.5)
        even = limit * (2 * torch.rand(_NUM_WAVES, dtype=torch.float64) - 1)
        frequency = torch.where(torch.rand(_NUM_WAVES) < 0.5, drawn, even)
    if prior.period is not None:
        frequency = torch.round(frequency * prior.period) / prior.period
    log_target = torch.logaddexp(target.log_prob(frequency), target.log_prob(-frequency))
    log_target = log_target - math.log(2)
    log_even = torch.where(frequency.abs() <= limit, -math.log(2 * limit), -math.inf)
    log_proposal = torch.logaddexp(log_target, log_even) - math.log(2)
    return frequency, log_target - log_proposal
