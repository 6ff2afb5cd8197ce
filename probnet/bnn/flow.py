"""Weights as the image of a Gaussian under planar flows, one flow per layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from probnet.bnn.networks import BayesianNetwork
from probnet.bnn.priors import Latents, WeightPrior

NUM_FLOWS = 4
_BISECTIONS = 60  # to float64's last digit


def planar(z: Tensor, u: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """The map z + û tanh(wᵀz + b) for points `(*batch, d)`; û makes it invertible.

    û = u + (m(wᵀu) - wᵀu) w/‖w‖² with m(a) = -1 + log(1 + eᵃ), hence wᵀû > -1.

    Source: Rezende & Mohamed (ICML 2015), appendix A.1.
    """
    return z + _invertible(u, w)[0] * torch.tanh(z @ w + b).unsqueeze(-1)


def planar_inverse(y: Tensor, u: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The point that `planar` maps to y, and log|det ∂y/∂z| there.

    Along w the map is the scalar t + c tanh t, c = wᵀû > -1, which increases: its root is found
    by bisection, and a Newton step carries the gradient.
    """
    direction, c = _invertible(u, w)
    a = y @ w + b
    with torch.no_grad():
        t = _root(a, c)
    slope = 1 + c * (1 - torch.tanh(t).square())
    t = t - (t + c * torch.tanh(t) - a) / slope
    tanh = torch.tanh(t)
    log_det = (1 + c * (1 - tanh.square())).log()
    return y - direction * tanh.unsqueeze(-1), log_det


def _invertible(u: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    inner = w @ u
    c = F.softplus(inner) - 1
    return u + (c - inner) * w / (w @ w), c


def _root(a: Tensor, c: Tensor) -> Tensor:
    """The t with t + c tanh t = a, by bisection of [a - |c|, a + |c|]."""
    low, high = a - c.abs(), a + c.abs()
    for _ in range(_BISECTIONS):
        t = (low + high) / 2
        below = t + c * torch.tanh(t) < a
        low, high = torch.where(below, t, low), torch.where(below, high, t)
    return (low + high) / 2


@dataclass(frozen=True, eq=False)
class FlowPrior(WeightPrior):
    """Per layer, z₀ ~ N(0, diag eˢ) and K planar flows on the flattened layer.

    The layer's vector holds the bias first and then the weights, row by row. `log_prob` is the
    density of what `sample` draws, by exact inversion.

    Source: Tran et al. (JMLR 2022), GPi-NF, with the density of the samples themselves (their
    code evaluates that of the inverse map, without the gradient of its log-determinant).

    Attributes:
        network: whose weights these are.
        hyperparameters: `layer<l>_log_var` s, and `layer<l>_u`, `_w` of shape `(K, d)` and `_b`
            of shape `(K,)`.
    """

    family: ClassVar[str] = "flow"

    @property
    def stds(self) -> dict[str, Any]:
        """Standard deviation of each weight tensor's entries, from 4096 draws."""
        draws = self.sample(4096, seed=0)
        return {name: float(value.square().mean().sqrt()) for name, value in draws.items()}

    def weights(self, latents: Latents) -> dict[str, Tensor]:
        """See `WeightPrior.weights`."""
        z = latents["z"]
        found: dict[str, Tensor] = {}
        start = 0
        for layer, names in layers(self.network).items():
            size = sum(self.network.shapes[n].numel() for n in names)
            log_var, u, w, b = (v.to(z.dtype) for v in self._flow(layer))
            point = z[..., start : start + size] * (0.5 * log_var).exp()
            for k in range(len(b)):
                point = planar(point, u[k], w[k], b[k])
            found |= self._named(point, names)
            start += size
        return {name: found[name] for name in self.network.shapes}

    def log_prob(self, weights: Mapping[str, Tensor]) -> Tensor:
        """See `WeightPrior.log_prob`."""
        total: Any = 0.0
        for layer, names in layers(self.network).items():
            shapes = self.network.shapes
            point = torch.cat(
                [weights[n].flatten(weights[n].ndim - len(shapes[n])) for n in names], dim=-1
            ).double()
            log_var, u, w, b = self._flow(layer)
            for k in reversed(range(len(b))):
                point, log_det = planar_inverse(point, u[k], w[k], b[k])
                total = total - log_det
            square = point.square() * (-log_var).exp() + log_var + math.log(2 * math.pi)
            total = total - 0.5 * square.sum(-1)
        return total

    def is_positive(self, name: str) -> bool:
        """No hyper-parameter of a flow is."""
        return False

    def _flow(self, layer: int) -> list[Tensor]:
        return [self.hyperparameters[f"layer{layer}_{p}"] for p in ("log_var", "u", "w", "b")]

    def _named(self, point: Tensor, names: list[str]) -> dict[str, Tensor]:
        shapes = [self.network.shapes[n] for n in names]
        pieces = point.split([s.numel() for s in shapes], dim=-1)
        return {
            name: piece.reshape(*point.shape[:-1], *shape)
            for name, piece, shape in zip(names, pieces, shapes, strict=True)
        }


def layers(network: BayesianNetwork) -> dict[int, list[str]]:
    """Names of the weights of each layer, the bias first."""
    found: dict[int, list[str]] = {}
    for name in sorted(network.shapes):
        found.setdefault(int(name[1:]), []).append(name)
    return dict(sorted(found.items()))


def flow_hyperparameters(
    network: BayesianNetwork, stds: Mapping[str, float], *, seed: int = 0
) -> dict[str, Tensor]:
    """Flows close to the identity around Gaussian weights: u, w, b ~ U(±1/√d).

    Args:
        network: whose layers they are for.
        stds: standard deviation of the base by weight name.
        seed: of u, w and b.
    """
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for layer, names in layers(network).items():
        sizes = [network.shapes[n].numel() for n in names]
        log_var = [
            torch.full((size,), 2 * math.log(stds[n]), dtype=torch.float64)
            for n, size in zip(names, sizes, strict=True)
        ]
        d = sum(sizes)
        found[f"layer{layer}_log_var"] = torch.cat(log_var)
        for part, shape in (("u", (NUM_FLOWS, d)), ("w", (NUM_FLOWS, d)), ("b", (NUM_FLOWS,))):
            uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
            found[f"layer{layer}_{part}"] = (2 * uniform - 1) / d**0.5
    return found
