"""A trained operator as inversion sees it: latent vectors to inputs and to solutions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from probnet.neural_operator.encoders import Encoding
from probnet.neural_operator.latent import Readout
from probnet.neural_operator.model_error import ModelError
from probnet.neural_operator.problem import Problem

_BLOCK = 500  # latent vectors decoded at once


class GenerativeOperator(Protocol):
    """What inversion needs of a trained operator; `TrainedOperator` has it all."""

    @property
    def problem(self) -> Problem:
        """The PDE."""
        ...

    @property
    def latent_dim(self) -> int:
        """Length of z."""
        ...

    @property
    def validation(self) -> Tensor:
        """Inputs `(batch, *grid)` that were not trained on."""
        ...

    def encode(self, x: Tensor) -> Encoding:
        """The law of z given inputs."""
        ...

    def to_latent(self, base: Tensor) -> Tensor:
        """Z of base vectors w ~ N(0, I)."""
        ...

    def decode_input(self, latents: Tensor) -> Tensor:
        """a(z), `(batch, *grid)`."""
        ...

    def coefficients(self, latents: Tensor) -> Tensor:
        """C(z), (batch, num_features)."""
        ...

    def readout(self, points: Tensor) -> Readout:
        """T and t at points."""
        ...


@dataclass(frozen=True, eq=False)
class LatentModel:
    """û(ξ; z) = ⟨T(ξ), C(z)⟩ + t(ξ) and a(z), with z = flow(w) and w ~ N(0, I).

    Everything is float64.

    Attributes:
        problem: the PDE.
        dim: of w and z.
        to_latent: z of base vectors w, both (batch, dim); differentiable.
        coefficients: C(z), (batch, num_features); differentiable.
        readout: T and t at points (n, num_dims).
        decode_input: a(z) on the input grid, `(batch, *grid)`.
        encode: z of inputs `(batch, *grid)`.
    """

    problem: Problem
    dim: int
    to_latent: Callable[[Tensor], Tensor]
    coefficients: Callable[[Tensor], Tensor]
    readout: Callable[[Tensor], Readout]
    decode_input: Callable[[Tensor], Tensor]
    encode: Callable[[Tensor], Tensor]

    @staticmethod
    def of(trained: GenerativeOperator) -> LatentModel:
        """That of a trained operator."""
        return LatentModel(
            problem=trained.problem,
            dim=trained.latent_dim,
            to_latent=trained.to_latent,
            coefficients=trained.coefficients,
            readout=trained.readout,
            decode_input=trained.decode_input,
            encode=lambda inputs: trained.encode(inputs).mean,
        )

    def base_coefficients(self, base: Tensor) -> Tensor:
        """C of base vectors."""
        return self.coefficients(self.to_latent(base))

    def decode_base(self, base: Tensor) -> Tensor:
        """The inputs a of base vectors, `(batch, *grid)`."""
        return self.decode_input(self.to_latent(base))

    @torch.no_grad()
    def decode(self, base: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latent vectors, inputs, and solutions at the nodes (batch, num_nodes) of w."""
        at_nodes = self.readout(self.problem.nodes)
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for block in base.split(_BLOCK):
            z = self.to_latent(block)
            parts.append((z, self.decode_input(z), at_nodes(self.coefficients(z))))
        z, a, u = (torch.cat(part) for part in zip(*parts, strict=True))
        return z, a, u

    @torch.no_grad()
    def validate(self, inputs: Tensor) -> ModelError:
        """The model error on inputs `(batch, *grid)` that the network was not trained on."""
        exact = self.problem.solve(self.problem.coefficients(inputs)).flatten(1)
        surrogate = self.readout(self.problem.nodes)(self.coefficients(self.encode(inputs)))
        return ModelError(exact - surrogate)
