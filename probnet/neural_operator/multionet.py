"""MultiONet: a function of a point and a latent vector, as inner products of two networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import jvp, vmap

from inference._checks import check_choice, check_integer
from inference.rng import Stream, scoped_seed, stream_seed
from probnet import networks


def _silu_id(z: Tensor) -> Tensor:
    return F.silu(z) + z


def _silu_sin(z: Tensor) -> Tensor:
    return F.silu(-torch.sin(math.pi * z)) + z  # sin(π(z + 1)) = -sin(πz)


def _tanh_sin(z: Tensor) -> Tensor:
    return z - torch.tanh(torch.sin(math.pi * z))


ACTIVATIONS: Mapping[str, networks.Activation] = MappingProxyType(
    {
        **networks.ACTIVATIONS,
        "silu_id": _silu_id,
        "silu_sin": _silu_sin,
        "tanh_sin": _tanh_sin,
    }
)
"""Those of `probnet.networks` and the paper's: SiLU(z) + z, SiLU(s) + z and tanh(s) + z with
s = sin(π(z + 1))."""


class MultiONet(nn.Module):
    r"""U(ξ; z) = b₀ + (1/l) Σ_k w_k ⟨t_k(ξ), b_k(z)⟩ over the last l of L layers.

    The trunk t_k = σ_t(W_k t_{k-1} + c_k) starts from the point ξ, the branch b_k, alike, from
    the latent vector z; every layer is activated, the last one included. l = 1 is DeepONet.
    With `num_outputs` c the branch sees z as tokens of size one, z_jk = ⟨t_k(ξ), b_k(z_j)⟩, and
    U = W (1/l) Σ_k z_k + b₀ with W of shape (c, latent_dim).

    Both are linear in the trunk's features T(ξ), the last l layers side by side:
    U = ⟨T(ξ), C(z)⟩ + b₀. Points are therefore shared by all latent vectors, the features at
    fixed points can be kept, and a derivative in ξ is one forward pass of the trunk alone.

    Source: Zang & Koutsourelakis (J. Comput. Phys. 538, 2025) and its reference code.

    Args:
        num_dims: coordinates of a point.
        latent_dim: length of z.
        width: h, of all layers, or of each; the last `sum_layers` must agree.
        depth: L, number of layers.
        sum_layers: l < L, how many of the last layers are summed over.
        num_outputs: c of the vector-valued form; `None`: one value, without W.
        trunk_activation: a name of `ACTIVATIONS`.
        branch_activation: a name of `ACTIVATIONS`.
        initial_weight: of all w_k at the start. From the reference code's 0 the output starts
            at zero, below the scale of any solution; 1 suits targets of order one.
        seed: of the initial weights, torch's defaults for linear layers.

    Raises:
        ValueError: if `sum_layers` is not below `depth`, or on unequal widths that are summed.

    Example:
        >>> net = MultiONet(num_dims=2, latent_dim=128, width=100, depth=5, sum_layers=4)
        >>> sum(p.numel() for p in net.parameters())
        94005
        >>> net(torch.rand(7, 2), torch.zeros(3, 128)).shape
        torch.Size([3, 7])
    """

    def __init__(
        self,
        *,
        num_dims: int = 2,
        latent_dim: int = 128,
        width: int | Sequence[int] = 100,
        depth: int = 5,
        sum_layers: int = 4,
        num_outputs: int | None = None,
        trunk_activation: str = "tanh_sin",
        branch_activation: str = "tanh_sin",
        initial_weight: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.num_dims = check_integer("num_dims", num_dims, 1)
        self.latent_dim = check_integer("latent_dim", latent_dim, 1)
        self.depth = check_integer("depth", depth, 2)
        self.sum_layers = check_integer("sum_layers", sum_layers, 1)
        self.widths = _checked_widths(width, depth, sum_layers)
        self.num_outputs = (
            None if num_outputs is None else check_integer("num_outputs", num_outputs, 1)
        )
        self.trunk_activation = check_choice("trunk_activation", trunk_activation, ACTIVATIONS)
        self.branch_activation = check_choice(
            "branch_activation", branch_activation, ACTIVATIONS
        )
        self.initial_weight = float(initial_weight)
        with scoped_seed(stream_seed(check_integer("seed", seed, 0), Stream.INIT)):
            self.trunk_layers = _layers(num_dims, self.widths)
            branch_input = latent_dim if num_outputs is None else 1
            self.branch_layers = _layers(branch_input, self.widths)
            if num_outputs is not None:
                self.output = nn.Linear(latent_dim, num_outputs)
        if num_outputs is None:
            self.layer_weights = nn.Parameter(torch.full((sum_layers,), self.initial_weight))
            self.bias = nn.Parameter(torch.zeros(1))

    @property
    def num_features(self) -> int:
        """K = l h, the length of T(ξ)."""
        return self.sum_layers * self.widths[-1]

    def options(self) -> dict[str, Any]:
        """The arguments that make a network like this one, JSON-able; without the seed."""
        return {
            "num_dims": self.num_dims,
            "latent_dim": self.latent_dim,
            "width": list(self.widths),
            "depth": self.depth,
            "sum_layers": self.sum_layers,
            "num_outputs": self.num_outputs,
            "trunk_activation": self.trunk_activation,
            "branch_activation": self.branch_activation,
            "initial_weight": self.initial_weight,
        }

    def like(self, *, seed: int, **changes: Any) -> MultiONet:
        """A fresh network with these options, some of them changed."""
        return MultiONet(**{**self.options(), **changes}, seed=seed)

    def features(self, points: Tensor) -> Tensor:
        """T(ξ): the trunk's last layers side by side, `(*, n, num_features)`.

        Args:
            points: ξ, `(*, n, num_dims)`.

        Raises:
            ValueError: on another last axis.
        """
        if points.ndim < 2 or points.shape[-1] != self.num_dims:
            raise ValueError(
                f"`points` must have shape (n, {self.num_dims}), one point per row; got "
                f"{tuple(points.shape)}."
            )
        return self._last_layers(self.trunk_layers, self.trunk_activation, points)

    def derivatives(self, points: Tensor, order: int = 1) -> tuple[Tensor, ...]:
        """T and its derivatives in ξ, by forward-mode passes of the trunk.

        Args:
            points: ξ, `(n, num_dims)`.
            order: 1, or 2 for second derivatives as well.

        Returns:
            T `(n, K)`, ∂_iT `(num_dims, n, K)` and, for order 2, ∂_i∂_jT
            `(num_dims, num_dims, n, K)`.
        """
        check_integer("order", order, 1)
        if order > 2:
            raise ValueError(f"`order` must be 1 or 2; got {order}.")
        directions = torch.eye(self.num_dims, dtype=points.dtype, device=points.device)
        first = _along(self.features, directions)
        if order == 1:
            return first(points)
        (values, gradients), (_, hessians) = _along(first, directions)(points)
        return values, gradients, hessians

    def coefficients(self, latents: Tensor) -> Tensor:
        """C(z), `(B, K)`, or `(B, c, K)` for a vector-valued network.

        Args:
            latents: z, `(B, latent_dim)`.

        Raises:
            ValueError: on another last axis.
        """
        if latents.ndim < 1 or latents.shape[-1] != self.latent_dim:
            raise ValueError(
                f"`latents` must have shape (B, {self.latent_dim}), one vector per row; got "
                f"{tuple(latents.shape)}."
            )
        if self.num_outputs is None:
            layers = self._last_layers(self.branch_layers, self.branch_activation, latents)
            scale = self.layer_weights / self.sum_layers
            return layers * scale.repeat_interleave(self.widths[-1])
        tokens = self._last_layers(
            self.branch_layers, self.branch_activation, latents.unsqueeze(-1)
        )
        return self.output.weight @ tokens / self.sum_layers

    def combine(self, features: Tensor, coefficients: Tensor, *, bias: bool = True) -> Tensor:
        """⟨T, C⟩ + b₀, `(B, n)`, or `(B, n, c)` for a vector-valued network.

        Args:
            features: T `(n, K)` shared by all latent vectors, or `(B, n, K)`.
            coefficients: C `(B, K)` or `(B, c, K)`.
            bias: whether to add b₀, which a derivative does not have.
        """
        if self.num_outputs is not None:
            values = features @ coefficients.mT
            return values + self.output.bias if bias else values
        if features.ndim == 2:
            values = coefficients @ features.mT
        else:
            values = (features @ coefficients.unsqueeze(-1)).squeeze(-1)
        return values + self.bias if bias else values

    def forward(self, points: Tensor, latents: Tensor) -> Tensor:
        """U(ξ; z).

        Args:
            points: ξ, `(n, num_dims)` shared by all latent vectors, or `(B, n, num_dims)`.
            latents: z, `(B, latent_dim)`.

        Returns:
            `(B, n)`, or `(B, n, c)` for a vector-valued network.
        """
        return self.combine(self.features(points), self.coefficients(latents))

    def inner_weights(self) -> list[nn.Parameter]:
        """Matrices of all layers but the first ones of trunk and branch."""
        inner: list[Any] = [*list(self.trunk_layers)[1:], *list(self.branch_layers)[1:]]
        return [layer.weight for layer in inner]

    @torch.no_grad()
    def rescale(self, factors: Tensor) -> None:
        """Multiply the output, each component by its own factor, `(1,)` or `(c,)`; in place."""
        if self.num_outputs is None:
            self.layer_weights.mul_(factors)
            self.bias.mul_(factors)
        else:
            self.output.weight.mul_(factors[:, None])
            self.output.bias.mul_(factors)

    def value_and_gradient(self, points: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        """U and ∇U at shared points: `(B, n)` and `(num_dims, B, n)`, or with a last axis c.

        Args:
            points: ξ, `(n, num_dims)`.
            latents: z, `(B, latent_dim)`.
        """
        values, gradients = self.derivatives(points)
        coefficients = self.coefficients(latents)
        slopes = [self.combine(g, coefficients, bias=False) for g in gradients]
        return self.combine(values, coefficients), torch.stack(slopes)

    def _last_layers(self, layers: nn.ModuleList, activation: str, h: Tensor) -> Tensor:
        phi, kept = ACTIVATIONS[activation], list[Tensor]()
        for layer in layers:
            h = phi(layer(h))
            kept.append(h)
        return torch.cat(kept[-self.sum_layers :], dim=-1)


def _along(function: Callable[[Tensor], Any], directions: Tensor) -> Callable[[Tensor], Any]:
    """The function with its derivatives along every direction, stacked in front."""

    def both(points: Tensor) -> Any:
        def derivative(direction: Tensor) -> Any:
            return jvp(function, (points,), (direction.expand_as(points),))

        once: Any = None  # the values, which no direction changes
        return vmap(derivative, out_dims=(once, 0))(directions)

    return both


def _layers(input_dim: int, widths: Sequence[int]) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(m, n) for m, n in pairwise((input_dim, *widths)))


def _checked_widths(width: int | Sequence[int], depth: int, sum_layers: int) -> tuple[int, ...]:
    if sum_layers >= depth:
        raise ValueError(
            f"`sum_layers` must be below `depth`; got sum_layers={sum_layers}, depth={depth}."
        )
    if isinstance(width, int):
        return (check_integer("width", width, 1),) * depth
    widths = tuple(check_integer(f"width[{i}]", w, 1) for i, w in enumerate(width))
    if len(widths) != depth:
        raise ValueError(f"`width` must have one entry per layer, {depth}; got {len(widths)}.")
    if len(set(widths[-sum_layers:])) > 1:
        raise ValueError(
            f"`width` must be the same for the last {sum_layers} layers, which are summed; got "
            f"{widths}."
        )
    return widths
