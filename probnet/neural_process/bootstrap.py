"""Bootstrapping neural processes: functions by resampled contexts."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Generator, Tensor

from probnet.neural_process.backbones import AttentiveBackbone, Backbone, PooledBackbone
from probnet.neural_process.base import NeuralProcess, TrainingTasks
from probnet.neural_process.blocks import Linear, Temperature, masked_mean
from probnet.neural_process.conditional import BackboneProcess
from probnet.neural_process.heads import location
from probnet.neural_process.objectives import marginal_term, pointwise_term


class BootstrapEncoding(NamedTuple):
    """The context and its memory, and the memory of its bootstrap copies."""

    memory: Any
    xc: Tensor
    yc: Tensor
    mask: Tensor
    bootstrapped: Any


class BootstrapProcess(BackboneProcess):
    r"""A conditional neural process and residual bootstrap copies of its context.

    For every function: (a) resample the context with replacement, (b) predict at the original
    context, (c) resample the residuals (y - μ̂)/σ̂ and subtract their mean, (d) encode
    (x, μ̂ + σ̂ ε̃) into r̃. The decoder's first hidden layer is W [x; r] + V r̃. Trained by the
    joint multi-sample log-likelihood plus that of the base model without r̃.

    Source: Lee et al. (NeurIPS 2020).

    Args:
        x_dim: of the inputs.
        y_dim: of the outputs.
        width: of all layers.
        num_heads: of the attentions, where there are.
        temperature: likewise.
        likelihood: `"gaussian"`, `"student_t"` or `"mixture"`.
        min_scale: lower bound of the predictive scale, in units of y; 0.1 is the published
            form.
    """

    sampled: ClassVar[bool] = True
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
        self.num_heads = num_heads
        self.temperature: Temperature = temperature
        self._assemble(self._make_backbone())
        self.adapt = Linear(self.backbone.feature_dim, width, bias=False)

    @abstractmethod
    def _make_backbone(self) -> Backbone:
        """How contexts are encoded, which tells the models of this kind apart."""

    def draw_noise(
        self,
        num_tasks: int,
        num_functions: int,
        num_context: int,
        generator: Generator,
        num_pseudo: int | None = None,
    ) -> Tensor:
        """Uniform numbers that pick points and residuals, `(B, K, 2, n)`."""
        del num_pseudo
        shape = (num_functions, num_tasks, 2, num_context)
        return torch.rand(shape, generator=generator, device=generator.device).transpose(0, 1)

    def encode(self, xc: Tensor, yc: Tensor, mask: Tensor) -> BootstrapEncoding:
        """See `NeuralProcess.encode`."""
        return BootstrapEncoding(self.remember(xc, yc, mask), xc, yc, mask, None)

    def sample(self, encoding: BootstrapEncoding, noise: Tensor) -> BootstrapEncoding:
        """Encode a bootstrap copy of the context for every function."""
        xc, mask = encoding.xc.unsqueeze(1), encoding.mask.unsqueeze(1)
        y = self.bootstrap(encoding, noise)
        tokens = self.backbone.tokens(xc.expand(*y.shape[:-1], self.x_dim), y)
        memory = self.backbone.memory(tokens, mask.expand(y.shape[:-1]))
        return encoding._replace(bootstrapped=memory)

    @torch.no_grad()
    def bootstrap(self, encoding: BootstrapEncoding, noise: Tensor) -> Tensor:
        """Outputs of the copies, `(B, K, n, y_dim)`; steps (a) to (d) of the class."""
        xc, yc, mask = encoding.xc, encoding.yc, encoding.mask
        num_tasks, num_functions, num_context = len(xc), noise.shape[1], xc.shape[1]
        positions = _resampled(noise.expand(num_tasks, *noise.shape[1:]), mask)
        points, residual_points = positions.unbind(2)
        spread = mask[:, None].expand(num_tasks, num_functions, num_context)
        resampled = self.backbone.memory(
            self.backbone.tokens(_taken(xc, points), _taken(yc, points)), spread
        )
        law = self.head.law(self._base(resampled, xc))
        loc, sd = location(law), law.stddev
        residuals = (yc.unsqueeze(1) - loc) / sd
        index = residual_points.unsqueeze(-1).expand_as(residuals)
        drawn = residuals.gather(2, index)
        drawn = drawn - masked_mean(drawn, spread).unsqueeze(2)
        return torch.where(spread.unsqueeze(-1), loc + sd * drawn, 0.0)

    def decode(self, encoding: BootstrapEncoding, x: Tensor) -> Tensor:
        """See `NeuralProcess.decode`."""
        if encoding.bootstrapped is None:
            return self._base(encoding.memory, x)
        queries = self.backbone.queries(x)
        features = self.backbone.features(queries, encoding.memory)
        adapted = self.adapt(self.backbone.features(queries, encoding.bootstrapped))
        return self.decoder(x, features, shift=adapted)

    def extend(self, encoding: BootstrapEncoding, x: Tensor, y: Tensor) -> BootstrapEncoding:
        """See `NeuralProcess.extend`; bootstrap copies go on being of the context only."""
        mask = x.new_ones(x.shape[:-1], dtype=torch.bool)
        memory = self.backbone.join(encoding.memory, self.remember(x, y, mask))
        return encoding._replace(memory=memory)

    def terms(self, tasks: TrainingTasks, noise: Tensor | None) -> dict[str, Tensor]:
        """See `NeuralProcess.terms`."""
        if noise is None:
            raise ValueError("`noise` must come from `draw_noise`; got None.")
        encoding = self.encode(tasks.xc, tasks.yc, tasks.mask_c)
        base = self.log_densities(self._base(encoding.memory, tasks.x), tasks)
        outputs = self.decode(self.sample(encoding, noise), tasks.x)
        num_points = tasks.num_points
        return {
            "marginal": marginal_term(self.log_densities(outputs, tasks), num_points),
            "base": pointwise_term(base, num_points),
        }

    def _base(self, memory: Any, x: Tensor) -> Tensor:
        queries = self.backbone.queries(x)
        return self.decoder(x, self.backbone.features(queries, memory))


class BNP(BootstrapProcess):
    """Bootstrapping neural process, on the pooled path of a CNP; see `BootstrapProcess`."""

    def _make_backbone(self) -> PooledBackbone:
        return PooledBackbone(self.x_dim, self.y_dim, self.width)


class BANP(BootstrapProcess):
    """Bootstrapping attentive neural process, on a CANP; see `BootstrapProcess`."""

    def _make_backbone(self) -> AttentiveBackbone:
        return AttentiveBackbone(
            self.x_dim, self.y_dim, self.width, self.num_heads, self.temperature
        )


def _resampled(uniform: Tensor, mask: Tensor) -> Tensor:
    """Numbers of valid points drawn with replacement, one for each of `uniform`."""
    count = mask.sum(-1)[:, None, None, None]
    rank = (uniform * count).long().clamp_max(count - 1).clamp_min(0)
    order = mask.logical_not().long().argsort(dim=-1, stable=True)  # valid points first
    return order[:, None, None].expand_as(rank).gather(-1, rank)


def _taken(values: Tensor, points: Tensor) -> Tensor:
    """Rows `(B, K, n, d)` of values `(B, n, d)` at the numbers `(B, K, n)`."""
    index = points.unsqueeze(-1).expand(*points.shape, values.shape[-1])
    return values.unsqueeze(1).expand(-1, points.shape[1], -1, -1).gather(2, index)
