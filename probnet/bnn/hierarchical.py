"""Weights with a random scale per layer, one draw of it per function."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from probnet.bnn.priors import (
    Latents,
    WeightPrior,
    check_positive_entries,
    unflatten,
)

_ALPHA, _BETA = "concentration_", "rate_"


@dataclass(frozen=True, eq=False)
class HierarchicalPrior(WeightPrior):
    """W ~ N(0, σ²), σ² ~ InvGamma(α, β): one σ² per weight matrix or bias vector and function.

    The latents are `"z"` and the vector `"variances"`, in the order of the network's weights.
    With the variances integrated out a weight tensor of n entries is multivariate Student-t::

        log p(W) = const - (α + n/2) log(β + ½ΣW²)

    which is what `log_prob` returns; `conditional_variances` is the exact Gibbs conditional.

    Source: Tran et al. (JMLR 2022), GPi-H, with one scale per function (their code draws one
    per batch of functions) and α + n/2, β + ½ΣW² outside of the softplus.

    Attributes:
        network: whose weights these are.
        hyperparameters: `concentration_<name>` α and `rate_<name>` β for every weight.
    """

    family: ClassVar[str] = "hierarchical"

    def __post_init__(self) -> None:
        """Check names and signs."""
        super().__post_init__()
        wanted = {p + n for n in self.network.shapes for p in (_ALPHA, _BETA)}
        if set(self.hyperparameters) != wanted:
            raise ValueError(
                f"`hyperparameters` must have the names {sorted(wanted)}; got "
                f"{sorted(self.hyperparameters)}."
            )
        for name, value in self.hyperparameters.items():
            check_positive_entries(name, value)

    @property
    def concentrations(self) -> dict[str, float]:
        """α by the name of the weight."""
        return {n: float(self.hyperparameters[_ALPHA + n]) for n in self.network.shapes}

    @property
    def rates(self) -> dict[str, float]:
        """β by the name of the weight."""
        return {n: float(self.hyperparameters[_BETA + n]) for n in self.network.shapes}

    @property
    def stds(self) -> dict[str, Any]:
        """√(β/(α - 1)), the marginal standard deviation of an entry; infinite for α <= 1."""
        return {
            n: math.sqrt(self.rates[n] / (a - 1)) if a > 1 else math.inf
            for n, a in self.concentrations.items()
        }

    @property
    def latent_laws(self) -> dict[str, dist.TorchDistribution]:
        """The law of the variances."""
        law: Any = dist.InverseGamma(self._vector(_ALPHA), self._vector(_BETA))
        return {"variances": law}

    def weights(self, latents: Latents) -> dict[str, Tensor]:
        """See `WeightPrior.weights`."""
        scales = latents["variances"].sqrt().to(latents["z"].dtype)
        sizes = [shape.numel() for shape in self.network.shapes.values()]
        per_entry = torch.cat(
            [
                scales[..., i : i + 1].expand(*scales.shape[:-1], size)
                for i, size in enumerate(sizes)
            ],
            dim=-1,
        )
        return unflatten(latents["z"] * per_entry, self.network.shapes)

    def log_prob(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Log density of the weights, the variances integrated out."""
        total: Tensor | float = 0.0
        for (name, shape), alpha, beta in zip(
            self.network.shapes.items(), self._vector(_ALPHA), self._vector(_BETA), strict=True
        ):
            half = shape.numel() / 2
            rate = beta + self._half_square(weights[name], len(shape))
            total = total + (
                torch.lgamma(alpha + half)
                - torch.lgamma(alpha)
                + alpha * beta.log()
                - half * math.log(2 * math.pi)
                - (alpha + half) * rate.log()
            )
        return torch.as_tensor(total)

    def conditional_variances(self, weights: Mapping[str, Tensor]) -> dist.TorchDistribution:
        """The law of the variances given weights: InvGamma(α + n/2, β + ½ΣW²), exact.

        Args:
            weights: `(*batch, *shape)` by name.

        Returns:
            A distribution of batch shape `(*batch, number of weights)`, in the order of
            `network.shapes`.
        """
        shapes = self.network.shapes
        half = torch.tensor([s.numel() / 2 for s in shapes.values()], dtype=torch.float64)
        squares = torch.stack(
            [self._half_square(weights[n], len(s)).double() for n, s in shapes.items()], dim=-1
        )
        law: Any = dist.InverseGamma(
            (self._vector(_ALPHA) + half).expand_as(squares), self._vector(_BETA) + squares
        )
        return law

    @staticmethod
    def _half_square(weight: Tensor, event_dim: int) -> Tensor:
        return 0.5 * weight.square().flatten(weight.ndim - event_dim).sum(-1)

    def _vector(self, prefix: str) -> Tensor:
        return torch.stack([self.hyperparameters[prefix + n] for n in self.network.shapes])


def hierarchical_hyperparameters(
    concentrations: Mapping[str, float], rates: Mapping[str, float]
) -> dict[str, Tensor]:
    """The hyper-parameters of a `HierarchicalPrior` from α and β by name."""
    values = {_ALPHA + n: v for n, v in concentrations.items()}
    values |= {_BETA + n: v for n, v in rates.items()}
    return {n: torch.as_tensor(v, dtype=torch.float64) for n, v in values.items()}
