"""The convolutional neural process: a context is a function on a grid, seen by a U-Net."""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Generator, Tensor, nn

from inference._checks import check_integer, check_positive
from inference.rng import Stream, generator
from probnet.neural_process.base import NeuralProcess, TrainingTasks
from probnet.neural_process.blocks import mlp
from probnet.neural_process.objectives import pointwise_term

_KERNEL_SIZE = 5
_MARGIN = 0.1  # of the grid around all points, in units of x
_MAX_GRID = 1 << 14
_TINY = 1e-6


class ObservedSet(NamedTuple):
    """A context as it is: inputs `(B, n, 1)`, outputs `(B, n, y_dim)` and mask `(B, n)`."""

    x: Tensor
    y: Tensor
    mask: Tensor


class ConvCNP(NeuralProcess):
    r"""Convolutional conditional neural process in one dimension.

    The context becomes a density Σ_i w(z - x_i) and a signal Σ_i w(z - x_i) y_i / density on a
    grid z, with w(Δ) = exp(-½ (Δ/ℓ)²) and ℓ learned; a U-Net maps them to features on the grid,
    and weights of the same form carry these to the points. It is equivariant to translations,
    hence predicts outside the training range as well as in it.

    The grid hangs on the leftmost point of each context and grows by whole blocks of the
    coarsest level to hold all points.

    Source: Gordon et al. (ICLR 2020).

    Args:
        y_dim: of the outputs.
        width: channels of every level.
        num_levels: of the U-Net; each halves the grid.
        points_per_unit: grid points per unit of x.
        likelihood: as for `CNP`.
        min_scale: as for `CNP`.
        x_dim: 1.

    Raises:
        ValueError: on more than one input, or a size below 1.
    """

    equivariant: ClassVar[bool] = True
    options: ClassVar = (*NeuralProcess.options, "num_levels", "points_per_unit")

    def __init__(
        self,
        x_dim: int = 1,
        y_dim: int = 1,
        *,
        width: int = 64,
        num_levels: int = 6,
        points_per_unit: float = 64.0,
        likelihood: str = "gaussian",
        min_scale: float = 1e-3,
    ) -> None:
        super().__init__(x_dim, y_dim, width, likelihood, min_scale)
        if x_dim != 1:
            raise ValueError(f"`x_dim` must be 1: the grid is one-dimensional; got {x_dim}.")
        self.num_levels = check_integer("num_levels", num_levels, 1)
        self.points_per_unit = check_positive("points_per_unit", points_per_unit)
        start = math.log(2 / self.points_per_unit)
        self.log_lengthscale = nn.Parameter(torch.tensor([start, start]))
        self.enter = Conv1d(y_dim + 1, width, 1)
        self.down = nn.ModuleList(
            Conv1d(width, width, _KERNEL_SIZE, stride=2) for _ in range(num_levels)
        )
        self.up = nn.ModuleList(
            Conv1d(2 * width, width, _KERNEL_SIZE) for _ in range(num_levels)
        )
        self.output = mlp([width, width, self.head.num_outputs])

    def initialise(self, seed: int) -> None:
        """Draw all weights anew; every predictive scale then starts near 0.5."""
        super().initialise(seed)
        stream = generator(seed, Stream.INIT, 1)
        for module in self.modules():
            if isinstance(module, Conv1d):
                module.draw(stream)
        with torch.no_grad():
            self.log_lengthscale.fill_(math.log(2 / self.points_per_unit))
        last: Any = self.output[-1]
        last.bias.data += self.head.initial_bias()

    def encode(self, xc: Tensor, yc: Tensor, mask: Tensor) -> ObservedSet:
        """The context itself: its grid depends on the points to predict."""
        return ObservedSet(xc, yc, mask)

    def decode(self, encoding: ObservedSet, x: Tensor) -> Tensor:
        """See `NeuralProcess.decode`."""
        grid = self._grid(encoding, x)
        features = self._unet(self._on_grid(encoding, grid))
        lengthscale = self.log_lengthscale[1].exp()
        # Relative to the nearest grid point, so that no row of weights is all zero.
        scores = -0.5 * ((x - grid.unsqueeze(1)) / lengthscale) ** 2
        return self.output(scores.softmax(-1) @ features.mT).unsqueeze(1)

    def extend(self, encoding: ObservedSet, x: Tensor, y: Tensor) -> ObservedSet:
        """The union."""
        mask = x.new_ones(x.shape[:-1], dtype=torch.bool)
        parts = zip(encoding, (x, y, mask), strict=True)
        return ObservedSet(*(torch.cat(pair, dim=1) for pair in parts))

    def terms(self, tasks: TrainingTasks, noise: Tensor | None) -> dict[str, Tensor]:
        """See `NeuralProcess.terms`."""
        del noise
        encoding = self.encode(tasks.xc, tasks.yc, tasks.mask_c)
        # Padded points lie where some point does, and do not stretch the grid.
        x = torch.where(tasks.mask.unsqueeze(-1), tasks.x, tasks.x[:, :1])
        logs = self.log_densities(self.decode(encoding, x), tasks)
        return {"base": pointwise_term(logs, tasks.num_points)}

    def _grid(self, context: ObservedSet, x: Tensor) -> Tensor:
        """Grids `(B, G)`, G a multiple of the coarsest level's block."""
        with torch.no_grad():
            spacing, block = 1 / self.points_per_unit, 2**self.num_levels
            xc = torch.where(context.mask, context.x[..., 0], torch.inf)
            anchor = xc.amin(1)
            anchor = torch.where(torch.isfinite(anchor), anchor, x[..., 0].amin(1))
            high = torch.where(context.mask, context.x[..., 0], -torch.inf).amax(1)
            low = torch.minimum(anchor, x[..., 0].amin(1)) - _MARGIN
            high = torch.maximum(high, x[..., 0].amax(1)) + _MARGIN
            before = ((anchor - low) / (spacing * block)).ceil()
            start = anchor - before * spacing * block
            blocks = int(((high - start) / (spacing * block)).ceil().max())
            if blocks * block > _MAX_GRID:
                raise ValueError(
                    f"the points span {float((high - low).max()):.4g} units, a grid of "
                    f"{blocks * block} points; at most {_MAX_GRID} are taken. Rescale x."
                )
            steps = torch.arange(blocks * block, device=x.device, dtype=x.dtype)
            return start.unsqueeze(1) + spacing * steps

    def _on_grid(self, context: ObservedSet, grid: Tensor) -> Tensor:
        """Density and signals, `(B, 1 + y_dim, G)`."""
        lengthscale = self.log_lengthscale[0].exp()
        weights = torch.exp(-0.5 * ((grid.unsqueeze(2) - context.x.mT) / lengthscale) ** 2)
        weights = weights * context.mask.unsqueeze(1)
        density = weights.sum(-1, keepdim=True)
        signal = weights @ context.y / (density + _TINY)
        return torch.cat([density, signal], -1).mT

    def _unet(self, channels: Tensor) -> Tensor:
        """Features `(B, width, G)`."""
        hidden = torch.relu(self.enter(channels))
        levels: list[Tensor] = []
        for down in self.down:
            levels.append(hidden)
            hidden = torch.relu(down(hidden))
        for up in self.up:
            wide = hidden.repeat_interleave(2, dim=-1)
            hidden = torch.relu(up(torch.cat([wide, levels.pop()], 1)))
        return hidden


class Conv1d(nn.Conv1d):
    """Convolution that keeps the length (but for its stride), with weights from a generator."""

    def __init__(self, n_in: int, n_out: int, size: int, *, stride: int = 1) -> None:
        super().__init__(n_in, n_out, size, stride=stride, padding=size // 2)

    def reset_parameters(self) -> None:
        """Zeros; `draw` gives the initial weights."""
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.zero_()

    @torch.no_grad()
    def draw(self, generator: Generator) -> None:
        """Draw the initial weights: normal, of variance 2 / fan-in."""
        fan_in = self.weight[0].numel()
        self.weight.normal_(0.0, (2 / fan_in) ** 0.5, generator=generator)
