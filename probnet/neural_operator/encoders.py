"""Encoders: from an input on its grid to a law over latent vectors."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inference._checks import check_choice, check_integer
from inference.rng import Stream, scoped_seed, stream_seed
from probnet._checks import check_shape
from probnet.networks import MLP

_LAWS = ("gaussian", "deterministic")
_KERNEL, _STRIDE = 3, 2
_INITIAL_LOG_VARIANCE = -6.0  # nearly deterministic, so that the decoders learn first
_MIN_LOG_VARIANCE, _MAX_LOG_VARIANCE = -16.0, 4.0


class Encoding(NamedTuple):
    """A diagonal Gaussian over latent vectors; a point where the scale is zero.

    Attributes:
        mean: `(B, latent_dim)`.
        scale: standard deviations, the same shape.
    """

    mean: Tensor
    scale: Tensor

    def draw(self, noise: Tensor) -> Tensor:
        """The draw that standard normal noise gives: mean + scale · noise."""
        return self.mean + self.scale * noise

    def kl(self) -> Tensor:
        """KL(q ‖ N(0, I)) of every row, `(B,)`; defined for positive scales."""
        variance = self.scale.square()
        terms = self.mean.square() + variance - 1 - variance.log()
        return 0.5 * terms.sum(-1)


class Encoder(nn.Module, ABC):
    """q(z | x) = N(μ(x), diag s²(x)), or the paper's point mass at tanh(e(x)).

    Inputs are standardised node by node by `mean` and `scale`, which `standardize` sets.

    Args:
        grid: shape of the input grid.
        latent_dim: length of z.
        law: `"gaussian"`, over all of R^d, or `"deterministic"`, in (-1, 1)^d.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, grid: Sequence[int], latent_dim: int, law: str) -> None:
        super().__init__()
        self.grid = tuple(check_integer(f"grid[{i}]", n, 1) for i, n in enumerate(grid))
        self.latent_dim = check_integer("latent_dim", latent_dim, 1)
        self.law = check_choice("law", law, _LAWS)
        self.register_buffer("mean", torch.zeros(self.num_inputs))
        self.register_buffer("scale", torch.ones(self.num_inputs))

    @property
    def num_inputs(self) -> int:
        """m, the number of nodes of the grid."""
        return math.prod(self.grid)

    @property
    def _num_heads(self) -> int:
        return self.latent_dim * (2 if self.law == "gaussian" else 1)

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """The arguments that make an encoder like this one, JSON-able; without the seed."""

    def like(self, *, seed: int, **changes: Any) -> Encoder:
        """A fresh encoder with these options, some of them changed."""
        kind: Any = type(self)
        return kind(**{**self.options(), **changes}, seed=seed)

    def standardize(self, inputs: Tensor) -> None:
        """Set mean and scale, node by node, to those of examples `(N, m)`."""
        scale, mean = torch.std_mean(inputs, dim=0, correction=0)
        # A node that never varies says nothing: it is centred and left at that.
        self.scale.copy_(torch.where(scale > 0, scale, torch.ones_like(scale)))
        self.mean.copy_(mean)

    def forward(self, inputs: Tensor) -> Encoding:
        """The law of z given inputs `(B, m)`.

        Raises:
            ValueError: on another number of nodes.
        """
        check_shape("inputs", inputs.shape[1:], (self.num_inputs,), f"the grid {self.grid}")
        heads = self._heads((inputs - self.mean) / self.scale)
        if self.law == "deterministic":
            mean = torch.tanh(heads)
            return Encoding(mean, torch.zeros_like(mean))
        mean, log_variance = heads.chunk(2, dim=-1)
        shifted = (log_variance + _INITIAL_LOG_VARIANCE).clamp(
            _MIN_LOG_VARIANCE, _MAX_LOG_VARIANCE
        )
        return Encoding(mean, (0.5 * shifted).exp())

    @abstractmethod
    def _heads(self, standardized: Tensor) -> Tensor:
        """Latent values, and log-variances after them for a Gaussian, `(B, num_heads)`."""


class DenseEncoder(Encoder):
    """Fully connected: m - hidden - latent_dim, SiLU.

    The paper's for two-phase Darcy is 841-512-256-128 and deterministic.

    Args:
        grid: shape of the input grid.
        latent_dim: length of z.
        hidden: widths of the hidden layers.
        law: `"gaussian"` or `"deterministic"`.
        seed: of the initial weights.
    """

    def __init__(
        self,
        *,
        grid: Sequence[int] = (29, 29),
        latent_dim: int = 128,
        hidden: Sequence[int] = (512, 256),
        law: str = "gaussian",
        seed: int = 0,
    ) -> None:
        super().__init__(grid, latent_dim, law)
        self.body = MLP(
            self.num_inputs,
            hidden,
            self._num_heads,
            activation="silu",
            parametrization="standard",
            seed=seed,
        )
        # The size of torch's default for linear layers, as in the reference code: latent
        # vectors that start small make the decoders' first steps much shorter.
        with torch.no_grad():
            for name, parameter in self.body.named_parameters():
                if name.startswith("w"):
                    parameter.mul_(3**-0.5)

    def options(self) -> dict[str, Any]:
        """See `Encoder.options`."""
        return {
            "grid": list(self.grid),
            "latent_dim": self.latent_dim,
            "hidden": list(self.body.hidden),
            "law": self.law,
        }

    def _heads(self, standardized: Tensor) -> Tensor:
        return self.body(standardized)


class ConvEncoder(Encoder):
    """3x3 convolutions of stride 2 without padding, then fully connected layers, SiLU.

    The paper's for smooth Darcy has channels 1-64-64-64 on 29x29 nodes, then 256-128-128-128.

    Args:
        grid: shape of the input grid, two axes.
        latent_dim: length of z.
        channels: of the convolutions.
        hidden: widths of the fully connected layers.
        law: `"gaussian"` or `"deterministic"`.
        seed: of the initial weights, torch's defaults.

    Raises:
        ValueError: if the grid has not two axes or is too small for the convolutions.
    """

    def __init__(
        self,
        *,
        grid: Sequence[int] = (29, 29),
        latent_dim: int = 128,
        channels: Sequence[int] = (64, 64, 64),
        hidden: Sequence[int] = (128, 128),
        law: str = "gaussian",
        seed: int = 0,
    ) -> None:
        super().__init__(grid, latent_dim, law)
        self.channels, self.hidden = tuple(channels), tuple(hidden)
        size = self.grid
        for _ in channels:
            size = tuple((n - _KERNEL) // _STRIDE + 1 for n in size)
        if len(size) != 2 or min(size) < 1:
            raise ValueError(
                f"`grid` must have two axes, long enough for {len(self.channels)} convolutions "
                f"of stride {_STRIDE} without padding; got {self.grid}."
            )
        with scoped_seed(stream_seed(check_integer("seed", seed, 0), Stream.INIT)):
            self.convolutions = nn.ModuleList(
                nn.Conv2d(m, n, _KERNEL, stride=_STRIDE) for m, n in pairwise((1, *channels))
            )
            flat = self.channels[-1] * math.prod(size)
            self.dense = nn.ModuleList(
                nn.Linear(m, n) for m, n in pairwise((flat, *self.hidden, self._num_heads))
            )

    def options(self) -> dict[str, Any]:
        """See `Encoder.options`."""
        return {
            "grid": list(self.grid),
            "latent_dim": self.latent_dim,
            "channels": list(self.channels),
            "hidden": list(self.hidden),
            "law": self.law,
        }

    def _heads(self, standardized: Tensor) -> Tensor:
        h = standardized.reshape(-1, 1, *self.grid)
        for convolution in self.convolutions:
            h = F.silu(convolution(h))
        h = h.flatten(1)
        for layer in self.dense[:-1]:
            h = F.silu(layer(h))
        return self.dense[-1](h)


ENCODERS: dict[str, type[Encoder]] = {"DenseEncoder": DenseEncoder, "ConvEncoder": ConvEncoder}
"""Classes by name, for files."""
