"""The free hyper-parameters as one unconstrained vector, with their prior.

For the kernels of `probnet.kernels` the vector holds logarithms, with the weak priors
ln w_var ~ N(ln 2, 3²), ln b_var ~ N(ln 0.1, 3²), ln λ ~ N(0, 2²) and
ln noise_ratio ~ N(ln 0.01, 3²). For any other GPyTorch kernel it holds the raw parameters: one
with a registered prior gets that prior (with the Jacobian of its constraint), one without
N(0, 3²).

A factor of the whole kernel, its amplitude, need not be searched for: see `profile` in
`probnet.nngp.objective`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from gpytorch.kernels import Kernel, ScaleKernel
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Parameter

from probnet.kernels.neural import NeuralKernel


class Range(NamedTuple):
    """Normal prior, and the bounds of optimisation, of an unconstrained value."""

    mean: float
    sd: float
    low: float
    high: float


_NOISE = Range(math.log(0.01), 3.0, -14.0, 4.0)
_NEURAL = {
    "raw_w_var": Range(math.log(2.0), 3.0, -6.0, 6.0),
    "raw_b_var": Range(math.log(0.1), 3.0, -10.0, 5.0),
    "raw_last_w_var": Range(0.0, 3.0, -10.0, 10.0),
    "raw_last_b_var": Range(math.log(0.1), 3.0, -10.0, 5.0),
    "raw_input_scale": Range(0.0, 2.0, -6.0, 4.0),
}
_OTHER = Range(0.0, 3.0, -12.0, 12.0)


@dataclass(frozen=True, eq=False)
class Block:
    """One parameter tensor in the vector."""

    name: str
    parameter: Parameter
    range: Range
    registered: bool


class HyperParameters:
    """A kernel's free parameters and the noise ratio.

    Args:
        kernel: copied, in float64; its values are the starting point.
        noise_ratio: ε where it starts.
        amplitude: whether a factor of the whole kernel is among them.
    """

    def __init__(self, kernel: Kernel, noise_ratio: float, *, amplitude: bool = True) -> None:
        self.kernel: Kernel = deepcopy(kernel).double()
        self.log_noise = Parameter(torch.tensor([math.log(noise_ratio)], dtype=torch.float64))
        self.amplitude = amplitude_of(self.kernel)
        self.blocks = list(self._find_blocks(amplitude=amplitude))
        self.blocks.append(Block("noise_ratio", self.log_noise, _NOISE, registered=False))

    @property
    def names(self) -> list[str]:
        """One name per entry of the vector."""
        found: list[str] = []
        for block in self.blocks:
            size = block.parameter.numel()
            found += [block.name] if size == 1 else [f"{block.name}[{i}]" for i in range(size)]
        return found

    @property
    def noise_ratio(self) -> Tensor:
        """ε, shape `()`."""
        return self.log_noise.exp()[0]

    @property
    def parameters(self) -> list[Parameter]:
        """The tensors that make up the vector."""
        return [block.parameter for block in self.blocks]

    def vector(self) -> Tensor:
        """The current values, shape `(p,)`."""
        return torch.cat([p.detach().flatten() for p in self.parameters])

    def assign(self, vector: Tensor) -> None:
        """Set the values."""
        sizes = [p.numel() for p in self.parameters]
        for parameter, values in zip(self.parameters, vector.split(sizes), strict=True):
            parameter.data = values.detach().reshape(parameter.shape).clone()

    def multiply(self, factor: float) -> None:
        """Multiply the covariance K + εI: the kernel, which has an amplitude, and the noise."""
        module: Any = self.kernel
        name = "last_w_var" if isinstance(self.kernel, NeuralKernel) else "outputscale"
        setattr(module, name, getattr(module, name).detach() * factor)
        self.log_noise.data += math.log(factor)

    def bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lower and upper ends of the range that is searched, each `(p,)`.

        A starting value outside widens it.
        """
        low, high = (
            np.concatenate(
                [np.full(b.parameter.numel(), getattr(b.range, side)) for b in self.blocks]
            )
            for side in ("low", "high")
        )
        start = self.vector().numpy()
        return np.minimum(low, start), np.maximum(high, start)

    def log_prior(self) -> Tensor:
        """Log prior density of the vector at the current values; differentiable in them."""
        total = self.log_noise.new_zeros(())
        for block in self.blocks:
            if not block.registered:
                mean, sd = block.range.mean, block.range.sd
                z = (block.parameter - mean) / sd
                total = total - (z**2 / 2 + math.log(sd * math.sqrt(2 * math.pi))).sum()
        for _, module, prior, closure, _ in self.kernel.named_priors():
            total = total + prior.log_prob(closure(module)).sum()
        for block in self.blocks:
            if block.registered:
                total = total + self._log_jacobian(block)
        return total

    def prior_sd(self) -> NDArray[np.float64]:
        """Standard deviation of each entry under the weak priors, `(p,)`."""
        return np.concatenate([np.full(b.parameter.numel(), b.range.sd) for b in self.blocks])

    def _find_blocks(self, *, amplitude: bool) -> Iterator[Block]:
        redundant = None if amplitude else self.amplitude
        priors = {name for name, *_ in self.kernel.named_priors()}
        for name, parameter in self.kernel.named_parameters():
            if parameter is redundant or not parameter.requires_grad:
                continue
            path, _, own = name.rpartition(".")
            module: Any = self.kernel.get_submodule(path) if path else self.kernel
            neural = isinstance(module, NeuralKernel)
            label = f"{path}.{own.removeprefix('raw_')}" if path else own.removeprefix("raw_")
            limits = _NEURAL[own] if neural else _OTHER
            yield Block(label, parameter, limits, registered=f"{label}_prior" in priors)

    def _log_jacobian(self, block: Block) -> Tensor:
        """Ln |d value / d raw| of the constraint."""
        raw = block.parameter
        constraint = self._constraint(raw)
        if constraint is None:
            return raw.new_zeros(())
        slope = torch.func.jvp(constraint.transform, (raw,), (torch.ones_like(raw),))[1]
        return slope.abs().log().sum()

    def _constraint(self, raw: Parameter) -> Any:
        for name, constraint in self.kernel.named_constraints():
            path = name.removesuffix("_constraint")
            if self.kernel.get_parameter(path) is raw:
                return constraint
        return None


def amplitude_of(kernel: Kernel) -> Parameter | None:
    """The raw parameter that multiplies the whole kernel, if there is one that is free."""
    module: Any = kernel
    found: Parameter | None = None
    if isinstance(kernel, NeuralKernel) and not bool((kernel.last_b_var > 0).any()):
        found = module.raw_last_w_var
    elif isinstance(kernel, ScaleKernel):
        found = module.raw_outputscale
    return found if found is not None and found.requires_grad else None
