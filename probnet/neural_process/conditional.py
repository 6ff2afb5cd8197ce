"""Conditional neural processes: p(y | x, context) at every point by itself."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from probnet.neural_process.backbones import AttentiveBackbone, Backbone, PooledBackbone
from probnet.neural_process.base import NeuralProcess, TrainingTasks
from probnet.neural_process.blocks import Decoder, Temperature
from probnet.neural_process.objectives import pointwise_term

_DECODER_LAYERS = 3


class BackboneProcess(NeuralProcess):
    """A model whose memory of the context is that of a backbone.

    Attributes:
        backbone: turns observations into a memory, and it into features of points.
        decoder: of a point and its features.
    """

    backbone: Backbone
    decoder: Decoder

    def _assemble(self, backbone: Backbone, *feature_dims: int) -> None:
        """Set the backbone and a decoder of its features and those of the given widths."""
        self.backbone = backbone
        self.decoder = Decoder(
            self.x_dim,
            (backbone.feature_dim, *feature_dims),
            self.width,
            _DECODER_LAYERS,
            self.head.num_outputs,
        )

    def initialise(self, seed: int) -> None:
        """Draw all weights anew; every predictive scale then starts near 0.5."""
        super().initialise(seed)
        last: Any = self.decoder.rest[-1]
        last.bias.data += self.head.initial_bias()

    def remember(self, x: Tensor, y: Tensor, mask: Tensor) -> Any:
        """The memory of sets `(B, n, *)`, with one set per task."""
        tokens = self.backbone.tokens(x, y).unsqueeze(1)
        return self.backbone.memory(tokens, mask.unsqueeze(1))


class ConditionalProcess(BackboneProcess):
    """Trained by (1/N) Σ_i log p(y_i | x_i, context) over context and target points."""

    def encode(self, xc: Tensor, yc: Tensor, mask: Tensor) -> Any:
        """The memory of the context."""
        return self.remember(xc, yc, mask)

    def decode(self, encoding: Any, x: Tensor) -> Tensor:
        """See `NeuralProcess.decode`."""
        queries = self.backbone.queries(x)
        return self.decoder(x, self.backbone.features(queries, encoding))

    def extend(self, encoding: Any, x: Tensor, y: Tensor) -> Any:
        """One more token in the sum, or one more projected key and value."""
        mask = x.new_ones(x.shape[:-1], dtype=torch.bool)
        return self.backbone.join(encoding, self.remember(x, y, mask))

    def terms(self, tasks: TrainingTasks, noise: Tensor | None) -> dict[str, Tensor]:
        """See `NeuralProcess.terms`."""
        del noise
        encoding = self.encode(tasks.xc, tasks.yc, tasks.mask_c)
        logs = self.log_densities(self.decode(encoding, tasks.x), tasks)
        return {"base": pointwise_term(logs, tasks.num_points)}


class CNP(ConditionalProcess):
    r"""Conditional neural process: (m, s) = Dec([x; mean_i E([x_i; y_i])]).

    Source: Garnelo et al. (ICML 2018).

    Args:
        x_dim: of the inputs.
        y_dim: of the outputs.
        width: of all layers.
        likelihood: `"gaussian"`, `"student_t"` or `"mixture"`.
        min_scale: lower bound of the predictive scale, in units of y; 0.1 is the published
            form.
    """

    def __init__(
        self,
        x_dim: int = 1,
        y_dim: int = 1,
        *,
        width: int = 128,
        likelihood: str = "gaussian",
        min_scale: float = 1e-3,
    ) -> None:
        super().__init__(x_dim, y_dim, width, likelihood, min_scale)
        self._assemble(PooledBackbone(x_dim, y_dim, width))


class CANP(ConditionalProcess):
    r"""Conditional attentive neural process: (m, s) = Dec([x; r(x)]).

    Source: Kim et al. (ICLR 2019), without the latent path.

    Args:
        x_dim: of the inputs.
        y_dim: of the outputs.
        width: of all layers.
        num_heads: of the attentions.
        temperature: divisor of attention scores: `"head"` is √(width / num_heads), `"width"`
            is √width, as in the original code.
        likelihood: as for `CNP`.
        min_scale: as for `CNP`.
    """

    options: ClassVar = (*NeuralProcess.options, "num_heads", "temperature")

    def __init__(
        self,
        x_dim: int = 1,
        y_dim: int = 1,
        *,
        width: int = 128,
        num_heads: int = 8,
        temperature: Temperature = "head",
        likelihood: str = "gaussian",
        min_scale: float = 1e-3,
    ) -> None:
        super().__init__(x_dim, y_dim, width, likelihood, min_scale)
        self.num_heads, self.temperature = num_heads, temperature
        self._assemble(AttentiveBackbone(x_dim, y_dim, width, num_heads, temperature))
