"""The masked-transformer neural process: points attend to the context, layer by layer."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inference._checks import check_integer
from probnet.neural_process.base import NeuralProcess, TrainingTasks
from probnet.neural_process.blocks import Linear, mlp
from probnet.neural_process.objectives import pointwise_term

_EMBEDDING_LAYERS = 2
_BIAS_WIDTH = 16
_WIDENING = 2  # of the feed-forward layers


class TransformerMemory(NamedTuple):
    """A context and what points see of it.

    Attributes:
        x: inputs `(B, n, x_dim)`.
        y: outputs `(B, n, y_dim)`.
        mask: `(B, n)`.
        tokens: normalised tokens of the context at every layer, `(B, num_layers, n, width)`.
    """

    x: Tensor
    y: Tensor
    mask: Tensor
    tokens: Tensor


class TNP(NeuralProcess):
    r"""Masked-transformer neural process: tokens [x; y; 1] of the context, [x; 0; 0] of points.

    Every layer is h ← h + attention(norm h, norm h_c) and h ← h + MLP(norm h) with root mean
    square norms. Keys are those of the context only: predictions at different points do not
    influence each other, and a point costs O(n).

    With `relative=True` tokens do not hold x; attention scores get φ(abs(x_i - x_j)) instead,
    a small network with one output per head, and predictions are equivariant to translations.

    Source: Nguyen & Grover (ICML 2022), the variant D, with a normalisation before each layer.

    Args:
        x_dim: of the inputs.
        y_dim: of the outputs.
        width: of all layers.
        num_layers: of the transformer.
        num_heads: of every attention.
        relative: see above.
        likelihood: as for `CNP`.
        min_scale: as for `CNP`.

    Raises:
        ValueError: if `num_heads` does not divide `width`, or a size is below 1.
    """

    options: ClassVar = (*NeuralProcess.options, "num_layers", "num_heads", "relative")

    def __init__(
        self,
        x_dim: int = 1,
        y_dim: int = 1,
        *,
        width: int = 128,
        num_layers: int = 6,
        num_heads: int = 8,
        relative: bool = False,
        likelihood: str = "gaussian",
        min_scale: float = 1e-3,
    ) -> None:
        super().__init__(x_dim, y_dim, width, likelihood, min_scale)
        self.num_layers = check_integer("num_layers", num_layers, 1)
        self.num_heads = check_integer("num_heads", num_heads, 1)
        if width % num_heads:
            raise ValueError(
                f"`num_heads` must divide `width`; got {num_heads} heads and width {width}."
            )
        self.relative = relative
        self.equivariant = relative  # pyright: ignore[reportAttributeAccessIssue] - known per object here
        places = 0 if relative else x_dim
        hidden = [width] * _EMBEDDING_LAYERS
        self.embedding = mlp([places + y_dim + 1, *hidden, width])
        self.layers = nn.ModuleList(
            _Layer(width, num_heads, x_dim if relative else 0) for _ in range(num_layers)
        )
        self.norm = nn.RMSNorm(width)
        self.output = mlp([width, width, self.head.num_outputs])

    def initialise(self, seed: int) -> None:
        """Draw all weights anew; every predictive scale then starts near 0.5."""
        super().initialise(seed)
        last: Any = self.output[-1]
        last.bias.data += self.head.initial_bias()

    def encode(self, xc: Tensor, yc: Tensor, mask: Tensor) -> TransformerMemory:
        """Run the context through all layers."""
        hidden = self._embedded(xc, yc)
        tokens: list[Tensor] = []
        layers: list[Any] = list(self.layers)
        for layer in layers:
            keys = layer.norm(hidden)
            tokens.append(keys)
            hidden = layer(hidden, keys, mask, xc, xc)
        return TransformerMemory(xc, yc, mask, torch.stack(tokens, 1))

    def decode(self, encoding: TransformerMemory, x: Tensor) -> Tensor:
        """See `NeuralProcess.decode`."""
        hidden = self._embedded(x, None)
        for i, layer in enumerate(self.layers):
            keys = encoding.tokens[:, i]
            hidden = layer(hidden, keys, encoding.mask, x, encoding.x)
        return self.output(self.norm(hidden)).unsqueeze(1)

    def extend(self, encoding: TransformerMemory, x: Tensor, y: Tensor) -> TransformerMemory:
        """Encode anew: every token of the context attends to the new ones as well."""
        mask = x.new_ones(x.shape[:-1], dtype=torch.bool)
        parts = zip((encoding.x, encoding.y, encoding.mask), (x, y, mask), strict=True)
        return self.encode(*(torch.cat(pair, dim=1) for pair in parts))

    def terms(self, tasks: TrainingTasks, noise: Tensor | None) -> dict[str, Tensor]:
        """See `NeuralProcess.terms`."""
        del noise
        encoding = self.encode(tasks.xc, tasks.yc, tasks.mask_c)
        logs = self.log_densities(self.decode(encoding, tasks.x), tasks)
        return {"base": pointwise_term(logs, tasks.num_points)}

    def _embedded(self, x: Tensor, y: Tensor | None) -> Tensor:
        shape = x.shape[:-1]
        places = [] if self.relative else [x]
        known = x.new_full((*shape, 1), float(y is not None))
        values = x.new_zeros((*shape, self.y_dim)) if y is None else y
        return self.embedding(torch.cat([*places, values, known], -1))


class _Layer(nn.Module):
    """One pre-norm layer; scores have a bias of distances if `bias_dim` > 0."""

    def __init__(self, width: int, num_heads: int, bias_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.RMSNorm(width)
        self.query = Linear(width, width)
        self.key_value = Linear(width, 2 * width)
        self.join = Linear(width, width)
        self.second_norm = nn.RMSNorm(width)
        self.forward_layers = mlp([width, _WIDENING * width, width])
        self.bias = mlp([bias_dim, _BIAS_WIDTH, _BIAS_WIDTH, num_heads]) if bias_dim else None

    def forward(
        self, hidden: Tensor, keys: Tensor, mask: Tensor, x: Tensor, xc: Tensor
    ) -> Tensor:
        """Of points `(B, N, width)` at x, attending to `(B, n, width)` at xc, mask `(B, n)`."""
        query = self._heads(self.query(self.norm(hidden)))
        key, value = (self._heads(part) for part in self.key_value(keys).chunk(2, -1))
        # A context without any point: attend to what is there, then forget it.
        some = mask.any(-1, keepdim=True)
        allowed = (mask | ~some)[:, None, None]
        if self.bias is None:
            scores = allowed
        else:
            distance = (x.unsqueeze(2) - xc.unsqueeze(1)).abs()
            scores = self.bias(distance).permute(0, 3, 1, 2)
            scores = scores.masked_fill(~allowed, -torch.inf)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=scores)
        attended = attended.transpose(1, 2).flatten(2) * some[..., None]
        hidden = hidden + self.join(attended)
        return hidden + self.forward_layers(self.second_norm(hidden))

    def _heads(self, t: Tensor) -> Tensor:
        return t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
