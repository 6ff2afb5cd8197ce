"""Muon: momentum whose matrices are orthogonalised, for the square layers of the decoders."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


def orthogonalize(matrices: Tensor) -> Tensor:
    """The nearly orthogonal UVᵀ of every matrix USVᵀ, `(k, m, n)`, by Newton and Schulz.

    Five steps of the quintic map X ← aX + b(XXᵀ)X + c(XXᵀ)²X, whose coefficients take singular
    values to about 1 (0.7 to 1.2) at once rather than exactly in the limit.

    Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024).
    """
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp_min(1e-12)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    r"""W ← W - η √max(1, m/n) UVᵀ of Nesterov's momentum; matrices of one shape at once.

    Args:
        params: matrices.
        lr: η > 0.
        momentum: μ in (0, 1).
    """

    def __init__(self, params: Iterable[Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - takes no closure
        """Take a step; matrices without gradient stay."""
        del closure
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                steps = orthogonalize(torch.stack([
                    self._nesterov(p, group["momentum"]) for p in parameters
                ]))  # fmt: skip
                rate = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for parameter, step in zip(parameters, steps, strict=True):
                    parameter.add_(step, alpha=-rate)

    def _nesterov(self, parameter: Parameter, momentum: float) -> Tensor:
        gradient = parameter.grad
        if gradient is None:
            raise RuntimeError("a parameter without gradient has no step.")
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradient)
        buffer = state["momentum"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(buffer, momentum)
