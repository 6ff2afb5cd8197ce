"""What is maximised or sampled over hyper-parameters, and its maximisation.

Where the kernel has an amplitude (the output layer's variance, or that of a `ScaleKernel`), the
evidence is maximised over it in closed form for every scale prior: the matrix aC enters only
through q/a and ℓ + n ln a, so that what is left is -(ℓ + n ln q)/2 and a constant. The
amplitude is set afterwards, by one-dimensional search.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from torch import Tensor
from tqdm.auto import tqdm

from inference.errors import LinAlgError, warn
from probnet.nngp.hyperparameters import HyperParameters
from probnet.nngp.priors import ScalePrior
from probnet.nngp.quadrature import DataSummary, log_evidence
from probnet.nngp.solutions import describe, gram, quadratic_and_log_det
from probnet.nngp.sparse import sparse_terms

Vector = NDArray[np.float64]

_GRADIENT_TOLERANCE = 1e-4  # per observation
_NORMAL = math.log(2 * math.pi * math.e)


@dataclass(frozen=True, eq=False)
class Objective:
    """Log density of hyper-parameters given the data.

    Attributes:
        hyper: where the values are put; used as scratch space.
        x: inputs.
        y: targets `(n, outputs)`.
        scale_prior: of σ².
        inducing: of the sparse bound, or `None`.
        precisions: ω of robust noise, or `None`.
    """

    hyper: HyperParameters
    x: Tensor
    y: Tensor
    scale_prior: ScalePrior
    inducing: Tensor | None = None
    precisions: Tensor | None = None

    def summary(self) -> tuple[DataSummary, Tensor]:
        """Q and ℓ at the current values, differentiable, and what the bound subtracts."""
        kernel, noise = self.hyper.kernel, self.hyper.noise_ratio
        n, outputs = self.y.shape
        if self.inducing is not None:
            terms = sparse_terms(kernel, self.x, self.y, self.inducing, noise)
            return DataSummary(self.y.numel(), terms.quadratic, terms.log_det), terms.penalty
        c = gram(kernel, self.x)
        scatter = noise.expand(n) if self.precisions is None else noise / self.precisions
        c = torch.diagonal_scatter(c, c.diagonal() + scatter)
        q, log_det = quadratic_and_log_det(c, self.y, hint=partial(describe, kernel, noise))
        return DataSummary(self.y.numel(), q, outputs * log_det), self.y.new_zeros(())

    def profiled(self) -> Tensor:
        """Log evidence with the scale at its best value q/n, plus the log prior."""
        data, penalty = self.summary()
        n = data.count
        value = -(data.log_det + n * (data.quadratic / n).log() + n * _NORMAL) / 2
        return value - penalty + self.hyper.log_prior()

    @torch.no_grad()
    def best_amplitude(self) -> float:
        """The factor of K + εI that maximises the evidence at the current values."""
        data, _ = self.summary()
        n, q = data.count, float(data.quadratic)

        def negative(log_factor: float) -> float:
            quadratic = data.quadratic * math.exp(-log_factor)
            scaled = DataSummary(n, quadratic, data.log_det + n * log_factor)
            return -float(log_evidence(self.scale_prior, scaled))

        center = math.log(q / n) - self.scale_prior.center
        found: Any = minimize_scalar(
            negative, bounds=(center - 5, center + 5), method="bounded"
        )
        return math.exp(found.x)

    def integrated(self) -> Tensor:
        """Log evidence with σ² integrated out, plus the log prior."""
        data, penalty = self.summary()
        return log_evidence(self.scale_prior, data) - penalty + self.hyper.log_prior()

    def at(self, vector: Tensor) -> Tensor:
        """`integrated` at a vector `(p,)`, differentiable in it.

        Minus infinity where the covariance is singular.
        """
        value: Any = _Evaluate.apply(vector, self)
        return value

    def value_and_gradient(self, vector: Vector, *, profile: bool) -> tuple[float, Vector]:
        """`profiled` or `integrated` at a vector `(p,)`, and its gradient.

        Raises:
            LinAlgError: where the covariance is singular.
        """
        self.hyper.assign(torch.from_numpy(np.asarray(vector, dtype=float)))
        parameters = self.hyper.parameters
        with torch.enable_grad():
            value = self.profiled() if profile else self.integrated()
            found: Any = torch.autograd.grad(value, parameters, allow_unused=True)
        gradient = torch.cat(
            [
                (torch.zeros_like(p) if g is None else g).flatten()
                for g, p in zip(found, parameters, strict=True)
            ]
        )
        return float(value.detach()), gradient.numpy()


class _Evaluate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        vector, objective = inputs
        point = vector.detach().cpu().numpy()
        try:
            value, gradient = objective.value_and_gradient(point, profile=False)
        except LinAlgError:
            value, gradient = -math.inf, np.zeros_like(point)
        ctx.save_for_backward(torch.from_numpy(gradient).to(vector))
        return vector.new_tensor(value)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        return grad_outputs[0] * gradient, None


@dataclass(frozen=True, eq=False)
class Maximum:
    """Where an objective is largest.

    Attributes:
        vector: hyper-parameters `(p,)`.
        value: of the objective.
        num_evaluations: values with gradient that it took.
        gradient_norm: largest entry of the projected gradient, per observation.
        converged: whether the optimiser says so.
    """

    vector: Vector
    value: float
    num_evaluations: int
    gradient_norm: float
    converged: bool

    @property
    def diagnostics(self) -> dict[str, Any]:
        """How the search went, JSON-able."""
        names = ("num_evaluations", "gradient_norm", "converged")
        return {name: getattr(self, name) for name in names}


def maximize(
    objective: Objective,
    start: Vector,
    *,
    profile: bool,
    max_evaluations: int,
    progress: bool = True,
) -> Maximum:
    """Maximise by L-BFGS-B within the bounds of the hyper-parameters.

    A run that does not converge is reported by a warning and in `converged`.
    """
    low, high = objective.hyper.bounds()
    count = len(objective.y) * objective.y.shape[1]
    bar = tqdm(total=max_evaluations, desc="evidence", disable=None if progress else True)

    def negative(vector: Vector) -> tuple[float, Vector]:
        bar.update()
        try:
            value, gradient = objective.value_and_gradient(vector, profile=profile)
        except LinAlgError:
            return math.inf, np.zeros_like(vector)
        return -value / count, -gradient / count

    result: Any = minimize(
        negative,
        np.clip(start, low, high),
        jac=True,
        method="L-BFGS-B",
        bounds=list(zip(low, high, strict=True)),
        options={"maxfun": max_evaluations, "gtol": _GRADIENT_TOLERANCE, "ftol": 1e-10},
    )
    bar.close()
    if not math.isfinite(result.fun):
        objective.value_and_gradient(np.clip(start, low, high), profile=profile)  # says why
    moved = np.clip(result.x - result.jac, low, high) - result.x
    converged = bool(result.success)
    if not converged:
        warn(
            f"the search for hyper-parameters stopped after {result.nfev} evaluations with a "
            f"gradient of {np.abs(moved).max():.1e} per observation: {result.message}"
        )
    return Maximum(
        result.x, -result.fun * count, int(result.nfev), float(np.abs(moved).max()), converged
    )
