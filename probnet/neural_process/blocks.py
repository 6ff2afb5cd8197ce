"""What neural processes are built from: layers, attention over sets, a split decoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from inference._checks import check_choice, check_integer

Temperature: TypeAlias = Literal["head", "width"]
_INITIAL_BIAS = 1e-3
_FEW_KEYS = 32  # up to which two plain products are faster than the fused attention of the CPU


class Linear(nn.Linear):
    """Affine map whose weights come from a generator of ours, never from the global one.

    Weights are Xavier-normal, times a gain, and biases 1e-3.
    """

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool = True, gain: float = 1.0
    ) -> None:
        self.gain = gain
        super().__init__(in_features, out_features, bias=bias)

    def reset_parameters(self) -> None:
        """Zeros; `draw` gives the initial weights."""
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.zero_()

    @torch.no_grad()
    def draw(self, generator: Generator) -> None:
        """Draw the initial weights."""
        sd = self.gain * math.sqrt(2 / (self.in_features + self.out_features))
        self.weight.normal_(0.0, sd, generator=generator)
        if self.bias is not None:  # pyright: ignore[reportUnnecessaryComparison] - it may be
            self.bias.fill_(_INITIAL_BIAS)


def mlp(widths: Sequence[int], *, last_relu: bool = False) -> nn.Sequential:
    """Linear layers with ReLU between them (and after the last, if asked).

    `probnet.networks.MLP` is a function of given weights, for priors and samplers; this one is
    a plain module with fused layers, for training by gradient descent.

    Args:
        widths: of the input, of every hidden layer and of the output.
        last_relu: whether the output goes through a ReLU as well.
    """
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*(layers if last_relu else layers[:-1]))


class MAB(nn.Module):
    r"""Multi-head attention block over sets.

    With projections Q' = Q W_q, K' = K W_k, V' = V W_v (and biases) and, in every head,
    A = softmax(Q' K'ᵀ / √c): O = LN(Q' + concat_h A V') and out = LN(O + ReLU(O W_o + b)).
    Masked keys have no weight; a query without any valid key gets A V' = 0.

    Source: Lee et al. (ICML 2019), in the form used by neural processes: the residual is the
    projected query and there is no widening feed-forward layer.

    Args:
        query_dim: of the queries' input.
        key_dim: of the keys' input.
        value_dim: of the values' input.
        width: d, of the output.
        num_heads: heads, each of width d / num_heads.
        temperature: c: `"head"` for d / num_heads, `"width"` for d, as in the original code.

    Raises:
        ValueError: if `num_heads` does not divide `width`.
    """

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        value_dim: int,
        width: int,
        num_heads: int = 8,
        temperature: Temperature = "head",
    ) -> None:
        super().__init__()
        check_choice("temperature", temperature, ("head", "width"))
        if width % check_integer("num_heads", num_heads, 1):
            raise ValueError(
                f"`num_heads` must divide `width`; got {num_heads} heads and width {width}."
            )
        self.num_heads = num_heads
        self.scale = (width if temperature == "width" else width // num_heads) ** -0.5
        self.query = Linear(query_dim, width)
        self.key = Linear(key_dim, width)
        self.value = Linear(value_dim, width)
        self.norm = nn.LayerNorm(width)
        self.output = Linear(width, width)
        self.output_norm = nn.LayerNorm(width)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend from `(*batch, m, query_dim)` to `(*batch, n, ...)`; mask `(*batch, n)`."""
        return self.attend(self.query(q), self.key(k), self.value(v), mask)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """The block on projected queries, keys and values, whose leading axes broadcast.

        Args:
            query: `(*batch, m, width)`.
            key: `(*batch, n, width)`.
            value: likewise.
            mask: `(*batch, n)`, true where there is a key.
        """
        hidden = self.norm(query + self._attention(query, key, value, mask))
        return self.output_norm(hidden + torch.relu(self.output(hidden)))

    def _attention(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        batch = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2])
        q, k, v = (self._heads(t.expand(*batch, *t.shape[-2:])) for t in (query, key, value))
        if mask is None and k.shape[-2] <= _FEW_KEYS:
            out = (self.scale * q @ k.mT).softmax(-1) @ v
        elif mask is None:
            out = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        else:
            # Softmax over no key at all is NaN, in the gradient too: such a query attends to
            # every key and its result is then multiplied by zero.
            some = mask.any(-1, keepdim=True)
            allowed = (mask | ~some).expand(*batch, mask.shape[-1])
            allowed = allowed.reshape(-1, 1, 1, mask.shape[-1])
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=self.scale)
            out = out * some.expand(*batch, 1).reshape(-1, 1, 1, 1)
        return out.transpose(1, 2).reshape(*batch, query.shape[-2], query.shape[-1])

    def _heads(self, t: Tensor) -> Tensor:
        """`(*batch, n, width)` as `(batch, heads, n, width / heads)`."""
        n, width = t.shape[-2:]
        return t.reshape(-1, n, self.num_heads, width // self.num_heads).transpose(1, 2)


class Decoder(nn.Module):
    """MLP of an input and features of the context, its first layer split between them.

    The first layer is W_x x + Σ_j W_j f_j + b. A feature that does not depend on the point
    costs one product per function instead of one per point.

    Args:
        x_dim: of the inputs.
        feature_dims: of the features, in order.
        width: of the hidden layers.
        num_hidden: number of hidden layers, at least 1.
        num_outputs: of the output.
    """

    def __init__(
        self,
        x_dim: int,
        feature_dims: Sequence[int],
        width: int,
        num_hidden: int,
        num_outputs: int,
    ) -> None:
        super().__init__()
        self.sizes = (x_dim, *feature_dims)
        self.first = Linear(sum(self.sizes), width)
        self.rest = mlp([*[width] * num_hidden, num_outputs])

    def forward(self, x: Tensor, *features: Tensor, shift: Tensor | None = None) -> Tensor:
        """Outputs `(B, S, N, num_outputs)`.

        Args:
            x: inputs `(B, N, x_dim)`.
            features: each `(B, S, N, dim)` or, if the same at all points, `(B, S, 1, dim)`.
            shift: added to the first hidden layer before its ReLU, such as `(B, S, 1, width)`.
        """
        weights = self.first.weight.split(self.sizes, dim=1)
        hidden = F.linear(x, weights[0], self.first.bias).unsqueeze(1)
        for feature, weight in zip(features, weights[1:], strict=True):
            hidden = hidden + F.linear(feature, weight)
        if shift is not None:
            hidden = hidden + shift
        return self.rest(torch.relu(hidden))


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum of `(*batch, n, w)` over the valid points `(*batch, n)` of the set axis."""
    return (values * mask.unsqueeze(-1)).sum(-2)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the valid points of the set axis; zero where there is none."""
    count = mask.sum(-1, keepdim=True).clamp_min(1)
    return masked_sum(values, mask) / count
