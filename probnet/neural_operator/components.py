"""Several scalar networks side by side: one MultiONet per component of a solution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from inference._checks import check_integer
from inference.rng import Stream, stream_seed
from probnet.neural_operator.multionet import MultiONet


class ComponentNetworks(nn.Module):
    """U = (U_1, ..., U_c), each a MultiONet with weights of its own.

    The paper's form for a solution and its fluxes. A vector-valued MultiONet is smaller, but
    adds up one and the same function of the latent numbers, taken one by one.

    Source: Zang & Koutsourelakis (J. Comput. Phys. 538, 2025), reference code.

    Args:
        form: a scalar network, whose form all have.
        num_components: c >= 1.
        seed: of the initial weights.

    Raises:
        ValueError: if the form is vector-valued.
    """

    def __init__(self, form: MultiONet, num_components: int, seed: int = 0) -> None:
        super().__init__()
        if form.num_outputs is not None:
            raise ValueError("`form` must be a scalar network (num_outputs=None).")
        count = check_integer("num_components", num_components, 1)
        self.members = nn.ModuleList(
            form.like(seed=stream_seed(seed, Stream.INIT, i)) for i in range(count)
        )

    def options(self) -> dict[str, Any]:
        """The form's options and `num_components`, JSON-able."""
        return {**self._nets[0].options(), "num_components": len(self.members)}

    def features(self, points: Tensor) -> Tensor:
        """T of every member, `(c, n, K)`, at points `(n, num_dims)`."""
        return torch.stack([net.features(points) for net in self._nets])

    def coefficients(self, latents: Tensor) -> Tensor:
        """C(z) of every member, `(c, B, K)`."""
        return torch.stack([net.coefficients(latents) for net in self._nets])

    def combine(self, features: Tensor, coefficients: Tensor) -> Tensor:
        """U, `(B, n, c)`, of T `(c, n, K)` and C `(c, B, K)`."""
        parts = zip(self._nets, features, coefficients, strict=True)
        return torch.stack([net.combine(t, c) for net, t, c in parts], dim=-1)

    def forward(self, points: Tensor, latents: Tensor) -> Tensor:
        """U(ξ; z), `(B, n, c)`, of points `(n, num_dims)` and latents `(B, latent_dim)`."""
        return self.combine(self.features(points), self.coefficients(latents))

    def rescale(self, factors: Tensor) -> None:
        """Multiply every component by its own factor, `(c,)`; in place."""
        for net, factor in zip(self._nets, factors, strict=True):
            net.rescale(factor[None])

    def inner_weights(self) -> list[nn.Parameter]:
        """See `MultiONet.inner_weights`."""
        return [weight for net in self._nets for weight in net.inner_weights()]

    @property
    def _nets(self) -> list[MultiONet]:
        return [net for net in self.members if isinstance(net, MultiONet)]


SolutionDecoder = MultiONet | ComponentNetworks
"""What maps points and latent vectors to U."""


def decoder_from_options(options: dict[str, Any]) -> SolutionDecoder:
    """A decoder of a described form, its weights yet to be loaded."""
    described = dict(options)
    count = described.pop("num_components", None)
    form = MultiONet(**described)
    return form if count is None else ComponentNetworks(form, count)
