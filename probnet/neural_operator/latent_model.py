"""A trained operator as inversion sees it: latent vectors to inputs and to solutions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from probnet.neural_operator.latent import Readout
from probnet.neural_operator.model_error import ModelError
from probnet.neural_operator.problem import Problem

_BLOCK = 500  # latent vectors decoded at once


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
        decode_input: a(z) on the input grid, (batch, *grid).
        encode: z of inputs (batch, *grid).
    """

    problem: Problem
    dim: int
    to_latent: Callable[[Tensor], Tensor]
    coefficients: Callable[[Tensor], Tensor]
    readout: Callable[[Tensor], Readout]
    decode_input: Callable[[Tensor], Tensor]
    encode: Callable[[Tensor], Tensor]

    def base_coefficients(self, base: Tensor) -> Tensor:
        """C of base vectors."""
        return self.coefficients(self.to_latent(base))

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
        """The model error on inputs (batch, *grid) that the network was not trained on."""
        exact = self.problem.solve(self.problem.coefficients(inputs)).flatten(1)
        surrogate = self.readout(self.problem.nodes)(self.coefficients(self.encode(inputs)))
        return ModelError(exact - surrogate)
