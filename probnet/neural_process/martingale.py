"""Martingale posterior neural processes: functions by generated future observations."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Generator, Tensor

from inference._checks import check_choice, check_integer, check_nonnegative
from probnet.neural_process.backbones import AttentiveBackbone, Backbone, PooledBackbone
from probnet.neural_process.base import NeuralProcess, TrainingTasks
from probnet.neural_process.blocks import Temperature
from probnet.neural_process.conditional import BackboneProcess
from probnet.neural_process.generators import GENERATORS, PseudoGenerator
from probnet.neural_process.objectives import marginal_term, martingale_term, pointwise_term

Level = Literal["feature", "data"]


class MartingaleEncoding(NamedTuple):
    """The memory that is decoded, and what the generator sees of the context.

    Attributes:
        memory: of the context, or of the context and the pseudo contexts of K functions.
        context: representations of the context `(B, n, *)`.
        mask: `(B, n)`.
    """

    memory: Any
    context: Tensor
    mask: Tensor


class MartingaleProcess(BackboneProcess):
    r"""A conditional neural process and a generator of M pseudo contexts.

    Every function is the prediction from the context completed by pseudo contexts of its own.
    The base prediction p_0 is that without pseudo contexts. Trained by

    L_marg  = (1/N) log (1/K) Σ_k exp Σ_i ℓ_k(i)   (functions),
    L_amort = (1/N) Σ_i ℓ_0(i)                     (base prediction),
    L_pseudo = (1/(KN)) Σ_k Σ_i ℓ'_k(i)            (from the pseudo contexts alone),

    L_marg + L_amort + w_p L_pseudo over all context and target points, and optionally
    -λ KL(p_0 ‖ N(moments of the mixture of functions)), the martingale penalty.
    """

    sampled: ClassVar[bool] = True
    options: ClassVar = (
        *NeuralProcess.options,
        "num_pseudo",
        "generator",
        "level",
        "num_heads",
        "temperature",
        "pseudo_weight",
        "pseudo_functions",
        "martingale_penalty",
    )
    pseudo: PseudoGenerator

    def __init__(
        self,
        x_dim: int = 1,
        y_dim: int = 1,
        *,
        num_pseudo: int = 30,
        generator: Literal["definetti", "isab"] = "definetti",
        level: Level = "feature",
        width: int = 128,
        num_heads: int = 8,
        temperature: Temperature = "head",
        likelihood: str = "gaussian",
        min_scale: float = 1e-3,
        pseudo_weight: float = 1.0,
        pseudo_functions: int | None = None,
        martingale_penalty: float = 0.0,
    ) -> None:
        super().__init__(x_dim, y_dim, width, likelihood, min_scale)
        self.num_pseudo = check_integer("num_pseudo", num_pseudo, 1)
        self.generator = check_choice("generator", generator, GENERATORS)
        self.level = check_choice("level", level, ("feature", "data"))
        self.num_heads = num_heads
        self.temperature: Temperature = temperature
        self.pseudo_weight = check_nonnegative("pseudo_weight", pseudo_weight)
        self.martingale_penalty = check_nonnegative("martingale_penalty", martingale_penalty)
        if pseudo_functions is not None:
            check_integer("pseudo_functions", pseudo_functions, 1)
        self.pseudo_functions = pseudo_functions
        self._assemble(self._make_backbone())
        dim = self.backbone.token_dim if level == "feature" else x_dim + y_dim
        self.pseudo = GENERATORS[generator](dim, dim, width, num_heads, temperature)

    @abstractmethod
    def _make_backbone(self) -> Backbone:
        """How contexts are encoded, which tells the models of this kind apart."""

    def term_weights(self) -> Mapping[str, float]:
        """See `NeuralProcess.term_weights`."""
        return {"pseudo": self.pseudo_weight, "martingale": self.martingale_penalty}

    def draw_noise(
        self,
        num_tasks: int,
        num_functions: int,
        num_context: int,
        generator: Generator,
        num_pseudo: int | None = None,
    ) -> Tensor:
        """See `NeuralProcess.draw_noise`."""
        del num_context
        count = self.num_pseudo if num_pseudo is None else num_pseudo
        return self.pseudo.draw_noise(num_tasks, num_functions, count, generator)

    def encode(self, xc: Tensor, yc: Tensor, mask: Tensor) -> MartingaleEncoding:
        """See `NeuralProcess.encode`."""
        tokens = self.backbone.tokens(xc, yc)
        memory = self.backbone.memory(tokens.unsqueeze(1), mask.unsqueeze(1))
        context = tokens if self.level == "feature" else torch.cat([xc, yc], -1)
        return MartingaleEncoding(memory, context, mask)

    def decode(self, encoding: MartingaleEncoding, x: Tensor) -> Tensor:
        """See `NeuralProcess.decode`."""
        queries = self.backbone.queries(x)
        return self.decoder(x, self.backbone.features(queries, encoding.memory))

    def sample(self, encoding: MartingaleEncoding, noise: Tensor) -> MartingaleEncoding:
        """Complete the context by the pseudo contexts of every function."""
        memory = self.backbone.join(encoding.memory, self.pseudo_memory(encoding, noise))
        return encoding._replace(memory=memory)

    def extend(self, encoding: MartingaleEncoding, x: Tensor, y: Tensor) -> MartingaleEncoding:
        """See `NeuralProcess.extend`; the generator goes on seeing the context only."""
        mask = x.new_ones(x.shape[:-1], dtype=torch.bool)
        memory = self.backbone.join(encoding.memory, self.remember(x, y, mask))
        return encoding._replace(memory=memory)

    def pseudo_memory(self, encoding: MartingaleEncoding, noise: Tensor) -> Any:
        """The memory of the pseudo contexts alone, one set per function."""
        noise = noise.expand(len(encoding.context), *noise.shape[1:])
        values = self.pseudo(encoding.context, encoding.mask, noise)
        if self.level == "feature":
            tokens = self.backbone.as_tokens(values)
        else:
            x, y = values.split([self.x_dim, self.y_dim], -1)
            tokens = self.backbone.tokens(x, y)
        return self.backbone.memory(
            tokens, tokens.new_ones(tokens.shape[:-1], dtype=torch.bool)
        )

    def terms(self, tasks: TrainingTasks, noise: Tensor | None) -> dict[str, Tensor]:
        """See the class; all 2K + 1 predictions are decoded in one call."""
        if noise is None:
            raise ValueError("`noise` must come from `draw_noise`; got None.")
        backbone: Any = self.backbone
        encoding = self.encode(tasks.xc, tasks.yc, tasks.mask_c)
        pseudo: Any = self.pseudo_memory(encoding, noise)
        num_functions = noise.shape[1]
        # The functions are independent of each other: the first ones are a random choice.
        num_alone = min(self.pseudo_functions or num_functions, num_functions)
        alone = type(pseudo)(*(part[:, :num_alone] for part in pseudo))
        queries = backbone.queries(tasks.x)
        features = [
            backbone.features(queries, backbone.join(encoding.memory, pseudo)),
            backbone.features(queries, encoding.memory),
            backbone.features(queries, alone, complete=True),
        ]
        outputs = self.decoder(tasks.x, torch.cat(features, dim=1))
        logs = self.log_densities(outputs, tasks)
        full, base, only = logs.split([num_functions, 1, num_alone], dim=1)
        num_points = tasks.num_points
        terms = {
            "marginal": marginal_term(full, num_points),
            "amortised": pointwise_term(base, num_points),
            "pseudo": pointwise_term(only, num_points),
        }
        if self.martingale_penalty:
            law = self.head.law(outputs[:, : num_functions + 1])
            loc, base_loc = law.mean.split([num_functions, 1], dim=1)
            scale, base_scale = law.stddev.split([num_functions, 1], dim=1)
            terms["martingale"] = martingale_term(loc, scale, base_loc, base_scale, tasks.mask)
        return terms


class MPNP(MartingaleProcess):
    """Martingale posterior neural process: a CNP and a generator of pseudo contexts.

    Source: Lee, Yun, Nam, Fong & Lee (ICLR 2023). `generator="isab"` with `min_scale=0.1` and
    `temperature="width"` is the published form.

    Args:
        x_dim: of the inputs.
        y_dim: of the outputs.
        num_pseudo: M, pseudo contexts per function. About M / (n + M) of the functional
            variance can be represented if a pseudo context is worth an observation.
        generator: `"definetti"` (independent given a latent of the function, so that M may be
            changed when conditioning) or `"isab"` (M as in training).
        level: `"feature"`: pseudo contexts are representations; `"data"`: pairs (x, y).
        width: of all layers.
        num_heads: of the attentions.
        temperature: divisor of attention scores: `"head"` is √(width / num_heads), `"width"`
            is √width.
        likelihood: `"gaussian"`, `"student_t"` or `"mixture"`.
        min_scale: lower bound of the predictive scale, in units of y; 0.1 is the published
            form.
        pseudo_weight: w_p of the objective.
        pseudo_functions: number of functions whose pseudo-only prediction is decoded in a
            training step; all if omitted. 1 is unbiased and cheaper.
        martingale_penalty: λ of the objective; 0 switches it off.

    Raises:
        ValueError: on values out of range.
    """

    def _make_backbone(self) -> PooledBackbone:
        return PooledBackbone(self.x_dim, self.y_dim, self.width)


class MPANP(MartingaleProcess):
    """Martingale posterior attentive neural process: a CANP and a generator of its tokens.

    Source: Lee, Yun, Nam, Fong & Lee (ICLR 2023). Arguments are those of `MPNP`.
    """

    def _make_backbone(self) -> AttentiveBackbone:
        return AttentiveBackbone(
            self.x_dim, self.y_dim, self.width, self.num_heads, self.temperature
        )
