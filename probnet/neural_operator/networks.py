"""The three networks of a generative operator: encoder, input decoder, solution decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from probnet.neural_operator.components import SolutionDecoder, decoder_from_options
from probnet.neural_operator.encoders import ENCODERS, Encoder, Encoding
from probnet.neural_operator.inputs import InputLikelihood
from probnet.neural_operator.multionet import MultiONet
from probnet.neural_operator.problem import Problem


class OperatorNetworks(nn.Module):
    """Encoder x → z, decoders z → A on the input grid and z → U at any point.

    Args:
        encoder: gives the grid and the latent dimension.
        input_decoder: A, a function on the unit box that the input grid spans.
        solution_decoder: U, a function on the problem's domain.
    """

    def __init__(
        self, encoder: Encoder, input_decoder: MultiONet, solution_decoder: SolutionDecoder
    ) -> None:
        super().__init__()
        self.encoder, self.input_decoder = encoder, input_decoder
        self.solution_decoder = solution_decoder
        axes = [torch.linspace(0, 1, n) for n in encoder.grid]
        points = torch.cartesian_prod(*axes).reshape(encoder.num_inputs, len(axes))
        self.register_buffer("input_points", points, persistent=False)

    input_points: Tensor

    @property
    def latent_dim(self) -> int:
        """Length of z."""
        return self.encoder.latent_dim

    def encode(self, inputs: Tensor) -> Encoding:
        """The law of z given inputs `(B, m)`."""
        return self.encoder(inputs)

    def input_field(self, latents: Tensor, likelihood: InputLikelihood) -> Tensor:
        """A at the nodes of the input grid, `(B, m)`."""
        field = self.input_decoder(self.input_points, latents)
        return field * likelihood.envelope(self.input_points)

    def options(self) -> dict[str, Any]:
        """What `networks_from_options` makes networks of this form from; JSON-able."""
        return {
            "encoder": {"kind": type(self.encoder).__name__, **self.encoder.options()},
            "input_decoder": self.input_decoder.options(),
            "solution_decoder": self.solution_decoder.options(),
        }


def networks_from_options(options: Mapping[str, Any]) -> OperatorNetworks:
    """Networks of a described form, their weights yet to be loaded."""
    encoder = dict(options["encoder"])
    kind: Any = ENCODERS[encoder.pop("kind")]
    return OperatorNetworks(
        kind(**encoder),
        MultiONet(**options["input_decoder"]),
        decoder_from_options(options["solution_decoder"]),
    )


class SolutionAt:
    """û at fixed points: the trunk's features and the ansatz are evaluated once.

    Args:
        problem: whose ansatz turns U into a solution.
        points: ξ, `(n, d_x)`, in the networks' dtype.
    """

    def __init__(self, problem: Problem, points: Tensor) -> None:
        self.points = points
        self._ansatz: Callable[[Tensor, Tensor], Tensor] = problem.ansatz(points)

    def __call__(
        self,
        decoder: SolutionDecoder,
        latents: Tensor,
        coefficients: Tensor,
        features: Tensor | None = None,
    ) -> Tensor:
        """û `(B, n)`, or `(B, n, c)`, of latent vectors `(B, latent_dim)`.

        Args:
            decoder: U.
            latents: z.
            coefficients: of the B inputs, which some problems' ansatz needs.
            features: of `decoder` at the points, if they are known.
        """
        known = decoder.features(self.points) if features is None else features
        return self._ansatz(decoder.combine(known, decoder.coefficients(latents)), coefficients)
