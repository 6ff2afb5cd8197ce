"""Two ways from a set of observations to features of a point: by a mean, by attention.

Both turn observations into tokens and tokens into a memory. Memories of disjoint sets are
joined into that of their union, which is how pseudo contexts and further observations enter:
by a sum for the pooled memory, by appending to projected keys and values for the attentive one.
Axes are (task, set, point, width): several sets of one task share its projections.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from probnet.neural_process.blocks import MAB, Temperature, masked_sum, mlp

_ENCODER_LAYERS = 5


class PooledMemory(NamedTuple):
    """Sum `(B, S, width)` and number `(B, S, 1)` of the tokens of every set."""

    total: Tensor
    size: Tensor


class PooledBackbone(nn.Module):
    """r = mean_i E([x_i; y_i]), the same at every point.

    Source: Garnelo et al. (ICML 2018).

    Args:
        x_dim: of the inputs.
        y_dim: of the outputs.
        width: of all layers.
    """

    def __init__(self, x_dim: int, y_dim: int, width: int) -> None:
        super().__init__()
        self.token_dim = self.feature_dim = width
        self.encoder = mlp([x_dim + y_dim, *[width] * _ENCODER_LAYERS, width])

    def tokens(self, x: Tensor, y: Tensor) -> Tensor:
        """One token per observation, `(*batch, n, token_dim)`."""
        return self.encoder(torch.cat([x, y], -1))

    def as_tokens(self, values: Tensor) -> Tensor:
        """Unconstrained numbers `(*batch, token_dim)` as tokens."""
        return values

    def memory(self, tokens: Tensor, mask: Tensor) -> PooledMemory:
        """Of sets `(B, S, n, token_dim)` with mask `(B, S, n)`."""
        return PooledMemory(masked_sum(tokens, mask), mask.sum(-1, keepdim=True))

    def join(self, first: PooledMemory, second: PooledMemory) -> PooledMemory:
        """Of the unions; S broadcasts."""
        return PooledMemory(first.total + second.total, first.size + second.size)

    def queries(self, x: Tensor) -> Tensor:
        """What `features` needs of the points `(B, N, x_dim)`: nothing."""
        return x

    def features(
        self, queries: Tensor, memory: PooledMemory, *, complete: bool = False
    ) -> Tensor:
        """Features `(B, S, 1, feature_dim)`, the same at all points; only `memory` matters."""
        del queries, complete
        return (memory.total / memory.size.clamp_min(1)).unsqueeze(-2)


class AttentiveMemory(NamedTuple):
    """Projections of the tokens of every set, each `(B, S, n, width)`, and mask `(B, S, n)`."""

    self_query: Tensor
    self_key: Tensor
    self_value: Tensor
    cross_key: Tensor
    mask: Tensor


class AttentiveBackbone(nn.Module):
    """r(x) = MAB(q(x), q(x_c), MAB(h, h, h)) with h = ReLU(E([x_c; y_c])).

    A token is [q(x_i); h_i].

    Source: Kim et al. (ICLR 2019).

    Args:
        x_dim: of the inputs.
        y_dim: of the outputs.
        width: of all layers.
        num_heads: of both attentions.
        temperature: of both attentions.
    """

    def __init__(
        self,
        x_dim: int,
        y_dim: int,
        width: int,
        num_heads: int = 8,
        temperature: Temperature = "head",
    ) -> None:
        super().__init__()
        self.token_dim, self.feature_dim, self.width = 2 * width, width, width
        hidden = [width] * _ENCODER_LAYERS
        self.encoder = mlp([x_dim + y_dim, *hidden, width], last_relu=True)
        self.locate = mlp([x_dim, *hidden, width])
        self.self_attention = MAB(width, width, width, width, num_heads, temperature)
        self.cross_attention = MAB(width, width, width, width, num_heads, temperature)

    def tokens(self, x: Tensor, y: Tensor) -> Tensor:
        """One token per observation, `(*batch, n, token_dim)`."""
        return torch.cat([self.locate(x), self.encoder(torch.cat([x, y], -1))], -1)

    def as_tokens(self, values: Tensor) -> Tensor:
        """Unconstrained numbers `(*batch, token_dim)` as tokens: h is not negative."""
        key, hidden = values.chunk(2, -1)
        return torch.cat([key, torch.relu(hidden)], -1)

    def memory(self, tokens: Tensor, mask: Tensor) -> AttentiveMemory:
        """Of sets `(B, S, n, token_dim)` with mask `(B, S, n)`."""
        key, hidden = tokens.chunk(2, -1)
        attention = self.self_attention
        return AttentiveMemory(
            attention.query(hidden),
            attention.key(hidden),
            attention.value(hidden),
            self.cross_attention.key(key),
            mask,
        )

    def join(self, first: AttentiveMemory, second: AttentiveMemory) -> AttentiveMemory:
        """Of the unions; S broadcasts."""
        sets = torch.broadcast_shapes(first.mask.shape[:2], second.mask.shape[:2])
        parts = (
            torch.cat([t.expand(*sets, *t.shape[2:]) for t in pair], dim=2)
            for pair in zip(first, second, strict=True)
        )
        return AttentiveMemory(*parts)

    def queries(self, x: Tensor) -> Tensor:
        """Projected queries `(B, 1, N, width)` of the points `(B, N, x_dim)`."""
        return self.cross_attention.query(self.locate(x)).unsqueeze(1)

    def features(
        self, queries: Tensor, memory: AttentiveMemory, *, complete: bool = False
    ) -> Tensor:
        """Features `(B, S, N, feature_dim)`.

        Args:
            queries: from `queries`.
            memory: of the sets.
            complete: every entry is known to be a point, so that no mask is needed.
        """
        mask = None if complete else memory.mask
        hidden = self.self_attention.attend(
            memory.self_query, memory.self_key, memory.self_value, mask
        )
        values = self.cross_attention.value(hidden)
        return self.cross_attention.attend(queries, memory.cross_key, values, mask)


Backbone = PooledBackbone | AttentiveBackbone
