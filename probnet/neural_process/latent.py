"""Latent neural processes: functions by a Gaussian latent variable."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Generator, Tensor, nn
from torch.distributions import Normal, kl_divergence

from inference._checks import check_choice
from probnet.datasets import TaskBatch
from probnet.neural_process.backbones import AttentiveBackbone, PooledBackbone
from probnet.neural_process.base import NeuralProcess, TrainingTasks
from probnet.neural_process.blocks import MAB, Linear, Temperature, masked_mean, mlp
from probnet.neural_process.conditional import BackboneProcess
from probnet.neural_process.objectives import marginal_term, pointwise_term

Objective = Literal["vi", "elbo", "ml"]


class LatentEncoder(nn.Module):
    """q(z | set): hidden tokens, attended if asked, mean-pooled, then μ and σ of z.

    σ = 0.1 + 0.9 sigmoid(s).

    Args:
        input_dim: of [x; y].
        width: of the layers and of z.
        attention: a self-attention of the tokens, or `None`.
    """

    def __init__(self, input_dim: int, width: int, attention: MAB | None) -> None:
        super().__init__()
        self.hidden = mlp([input_dim, width, width], last_relu=True)
        self.attention = attention
        self.moments = Linear(width, 2 * width)

    def forward(self, x: Tensor, y: Tensor, mask: Tensor) -> Normal:
        """The law of z, batch shape `(B, width)`."""
        hidden = self.hidden(torch.cat([x, y], -1))
        if self.attention is not None:
            hidden = self.attention(hidden, hidden, hidden, mask)
        mean, s = self.moments(masked_mean(hidden, mask)).float().chunk(2, -1)
        return Normal(mean, 0.1 + 0.9 * torch.sigmoid(s), validate_args=False)


class LatentEncoding(NamedTuple):
    """The deterministic memory, the law of z, and z of every function `(B, K, width)`."""

    memory: Any
    law: Normal
    z: Tensor | None


class LatentProcess(BackboneProcess):
    r"""A deterministic path and a latent z of the function, decoded as Dec([x; r; z]).

    Objectives, with z_k ~ q(z | context and targets), or ~ p(z | context) for the last:

    "vi":   (1/N) log (1/K) Σ_k p(y | z_k) p(z_k | context) / q(z_k | context and targets);
    "elbo": (1/N) (mean_k Σ_i ℓ_k(i) - KL(q ‖ p));
    "ml":   (1/N) log (1/K) Σ_k p(y | z_k).

    p(z | context) is q of the context alone, pooled over its own points only.
    """

    sampled: ClassVar[bool] = True
    conditional: ClassVar[bool] = False
    options: ClassVar = (*NeuralProcess.options, "objective_name")
    latent: LatentEncoder

    def __init__(
        self,
        x_dim: int,
        y_dim: int,
        width: int,
        likelihood: str,
        min_scale: float,
        objective_name: str,
    ) -> None:
        super().__init__(x_dim, y_dim, width, likelihood, min_scale)
        self.objective_name = check_choice(
            "objective_name", objective_name, ("vi", "elbo", "ml")
        )

    def draw_noise(
        self,
        num_tasks: int,
        num_functions: int,
        num_context: int,
        generator: Generator,
        num_pseudo: int | None = None,
    ) -> Tensor:
        """See `NeuralProcess.draw_noise`."""
        del num_context, num_pseudo
        shape = (num_functions, num_tasks, self.width)
        noise = torch.randn(shape, generator=generator, device=generator.device)
        return noise.transpose(0, 1)

    def encode(self, xc: Tensor, yc: Tensor, mask: Tensor) -> LatentEncoding:
        """See `NeuralProcess.encode`."""
        return LatentEncoding(self.remember(xc, yc, mask), self.latent(xc, yc, mask), None)

    def sample(self, encoding: LatentEncoding, noise: Tensor) -> LatentEncoding:
        """Draw z of every function from p(z | context)."""
        return encoding._replace(z=_reparametrised(encoding.law, noise))

    def decode(self, encoding: LatentEncoding, x: Tensor) -> Tensor:
        """See `NeuralProcess.decode`."""
        if encoding.z is None:
            raise ValueError("a latent neural process predicts by functions; `sample` first.")
        queries = self.backbone.queries(x)
        features = self.backbone.features(queries, encoding.memory)
        return self.decoder(x, features, encoding.z.unsqueeze(-2))

    def terms(self, tasks: TrainingTasks, noise: Tensor | None) -> dict[str, Tensor]:
        """See the class."""
        if noise is None:
            raise ValueError("`noise` must come from `draw_noise`; got None.")
        encoding = self.encode(tasks.xc, tasks.yc, tasks.mask_c)
        prior = encoding.law
        law = prior
        if self.objective_name != "ml":
            law = self.latent(tasks.x, tasks.y, tasks.mask)
        z = _reparametrised(law, noise)
        logs = self.log_densities(self.decode(encoding._replace(z=z), tasks.x), tasks)
        num_points = tasks.num_points
        if self.objective_name == "elbo":
            kl = kl_divergence(law, prior).sum(-1)
            return {
                "likelihood": pointwise_term(logs, num_points),
                "kl": -(kl / num_points).mean(),
            }
        ratio = _log_prob(prior, z) - _log_prob(law, z)  # zero for "ml"
        return {"marginal": marginal_term(logs, num_points, ratio)}

    def pyro_model(self, batch: TaskBatch) -> None:
        """Tasks as a Pyro program with the site `z` and the factor `y`, for Pyro's SVI.

        With `pyro_guide`, `Trace_ELBO` and `TraceMeanField_ELBO` are bounds of the sum over
        tasks of log p(y | context); those that `fit` maximises are means per point.

        Args:
            batch: of a task stream.
        """
        tasks = TrainingTasks.of(batch)
        pyro.module("process", self)
        encoding = self.encode(tasks.xc, tasks.yc, tasks.mask_c)
        with pyro.plate("tasks", len(tasks.x)):
            z = pyro.sample("z", _site(encoding.law))
            outputs = self.decode(encoding._replace(z=z.unsqueeze(1)), tasks.x)
            pyro.factor("y", self.log_densities(outputs, tasks)[:, 0].sum(-1))

    def pyro_guide(self, batch: TaskBatch) -> None:
        """q(z | context and targets), the guide of `pyro_model`."""
        tasks = TrainingTasks.of(batch)
        pyro.module("process", self)
        with pyro.plate("tasks", len(tasks.x)):
            pyro.sample("z", _site(self.latent(tasks.x, tasks.y, tasks.mask)))


class NP(LatentProcess):
    """Neural process: a pooled deterministic path and a pooled latent path.

    Source: Garnelo et al. (2018), with a deterministic path.

    Args:
        x_dim: of the inputs.
        y_dim: of the outputs.
        width: of all layers and of z.
        likelihood: `"gaussian"`, `"student_t"` or `"mixture"`.
        min_scale: lower bound of the predictive scale, in units of y; 0.1 is the published
            form.
        objective_name: `"vi"`, `"elbo"` or `"ml"`; see `LatentProcess`.
    """

    def __init__(
        self,
        x_dim: int = 1,
        y_dim: int = 1,
        *,
        width: int = 128,
        likelihood: str = "gaussian",
        min_scale: float = 1e-3,
        objective_name: Objective = "vi",
    ) -> None:
        super().__init__(x_dim, y_dim, width, likelihood, min_scale, objective_name)
        self._assemble(PooledBackbone(x_dim, y_dim, width), width)
        self.latent = LatentEncoder(x_dim + y_dim, width, None)


class ANP(LatentProcess):
    """Attentive neural process: both paths with self-attention, the first with cross-attention.

    Source: Kim et al. (ICLR 2019).

    Args:
        x_dim: of the inputs.
        y_dim: of the outputs.
        width: of all layers and of z.
        num_heads: of the attentions.
        temperature: as for `CANP`.
        likelihood: as for `NP`.
        min_scale: as for `NP`.
        objective_name: as for `NP`.
    """

    options: ClassVar = (*LatentProcess.options, "num_heads", "temperature")

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
        objective_name: Objective = "vi",
    ) -> None:
        super().__init__(x_dim, y_dim, width, likelihood, min_scale, objective_name)
        self.num_heads, self.temperature = num_heads, temperature
        self._assemble(AttentiveBackbone(x_dim, y_dim, width, num_heads, temperature), width)
        attention = MAB(width, width, width, width, num_heads, temperature)
        self.latent = LatentEncoder(x_dim + y_dim, width, attention)


def _reparametrised(law: Normal, noise: Tensor) -> Tensor:
    return law.loc.unsqueeze(1) + law.scale.unsqueeze(1) * noise


def _site(law: Normal) -> Any:
    return dist.Normal(law.loc, law.scale).to_event(1)


def _log_prob(law: Normal, z: Tensor) -> Tensor:
    """Log density of z `(B, K, width)`, `(B, K)`."""
    spread = Normal(law.loc.unsqueeze(1), law.scale.unsqueeze(1), validate_args=False)
    return spread.log_prob(z).sum(-1)
