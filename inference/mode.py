"""The posterior mode in unconstrained space, from all the data."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor

from inference.curvature import DENSE_DIM, negative_hessian
from inference.errors import LinAlgError
from inference.model_target import ModelTarget
from inference.targets import Target

_ROUNDS = 4
_ITERATIONS = 200
_ADAM_STEPS = 200
_ADAM_RATE = 0.05
_GAIN = 1e-6


class Mode(NamedTuple):
    """Where an ascent ended.

    Attributes:
        position: shape (dim,).
        log_density: there.
        gradient_norm: there.
        gain: what a Newton step would still add to the log density, in nats; infinite where
            the density curves up. Above 500 dimensions, or where the density cannot be
            vectorised, the best step along the gradient instead.
        num_evaluations: gradients of all the data that it took.
    """

    position: Tensor
    log_density: float
    gradient_norm: float
    gain: float
    num_evaluations: int

    @property
    def converged(self) -> bool:
        """Whether the position is a maximum: no more than a millionth of a nat is left.

        A gradient that is only rounding error counts as none.
        """
        rounding = torch.finfo(self.position.dtype).eps * max(1.0, abs(self.log_density))
        return self.gain <= max(_GAIN, 10 * rounding)


def find_mode(target: Target, position: Tensor) -> Tensor:
    """The maximum of the log density, log-Jacobians included, from all the data.

    L-BFGS with a strong Wolfe line search; where that goes astray, a stretch of Adam takes it
    nearer.

    Args:
        target: the log density.
        position: where to start, with a finite log density, shape (dim,).

    Returns:
        The mode, shape (dim,).

    Raises:
        ValueError: if the log density is not finite at the start, or no maximum was found:
            the density has none (a hierarchical scale that shrinks to zero, a flat or
            separable likelihood), or it lies too far.
    """
    return locate_mode(target, position).position


def locate_mode(target: Target, position: Tensor) -> Mode:
    """As `find_mode`, with how the search ended.

    Raises:
        ValueError: as `find_mode` does.
    """
    found = climb(full_log_density(target), position)
    if not found.converged:
        raise ValueError(
            f"no mode was found: after {found.num_evaluations} gradients the log density is "
            f"{found.log_density:.6g} and still rises, with a gradient of norm "
            f"{found.gradient_norm:.3g} at a distance {float(found.position.norm()):.3g} from "
            "zero. The density may have no maximum, as in a centred hierarchy whose scale can "
            "shrink to zero (write it non-centred) or with a flat prior; or start nearer, "
            "with `init`."
        )
    return found


def full_log_density(target: Target) -> Callable[[Tensor], Tensor]:
    """The log density of a position (dim,) on all the data.

    A model that subsamples by itself cannot take all its rows at once; there it is the mean
    over disjoint batches, the rows that fill no batch left out.
    """
    if not (isinstance(target, ModelTarget) and target.subsamples_itself):
        return target.log_density
    n = cast(int, target.batch_size)
    batches = cast(int, target.num_data) // n
    leaves = tuple(x[: batches * n].unflatten(0, (batches, n)) for x in target.leaves)

    def mean(position: Tensor) -> Tensor:
        values = [
            target.log_density(position, tuple(x[i] for x in leaves)) for i in range(batches)
        ]
        return torch.stack(values).mean()

    return mean


def climb(log_density: Callable[[Tensor], Tensor], position: Tensor) -> Mode:
    """Ascend from `position`; a result that has not converged is returned as it is.

    Raises:
        ValueError: if the log density or its gradient is not finite at the start.
    """
    ascent = _Ascent(log_density, position)
    for _ in range(_ROUNDS):
        ascent.lbfgs()
        found = ascent.result()
        if found.converged:
            return found
        ascent.adam()
    return ascent.result()


class _Ascent:
    """Optimisers taking turns; the best finite point so far is kept."""

    def __init__(self, log_density: Callable[[Tensor], Tensor], position: Tensor) -> None:
        self._log_density = log_density
        self._count = 0
        self._best = position.detach().clone()
        self._value = -float("inf")
        self._gradient = torch.zeros_like(self._best)
        self._evaluate(self._best)
        if not math.isfinite(self._value):
            raise ValueError(
                "the log density or its gradient is not finite at the start of the search for "
                "the mode. Pass another `init`."
            )

    def lbfgs(self) -> None:
        leaf = self._best.clone().requires_grad_()
        optimiser = torch.optim.LBFGS(
            [leaf],
            max_iter=_ITERATIONS,
            tolerance_grad=1e-9,
            tolerance_change=1e-12,
            history_size=50,
            line_search_fn="strong_wolfe",
        )
        self._run(optimiser.step, leaf)

    def adam(self) -> None:
        leaf = self._best.clone().requires_grad_()
        optimiser = torch.optim.Adam([leaf], lr=_ADAM_RATE)

        def steps(closure: Callable[[], float]) -> None:
            for _ in range(_ADAM_STEPS):
                if not closure() < float("inf"):
                    break
                optimiser.step()

        self._run(steps, leaf)

    def result(self) -> Mode:
        norm = float(self._gradient.norm())
        return Mode(self._best, self._value, norm, self._gain(norm), self._count)

    def _run(self, steps: Callable[[Callable[[], float]], object], leaf: Tensor) -> None:
        def closure() -> float:
            value, leaf.grad = self._evaluate(leaf.detach())
            return -value

        steps(closure)

    def _evaluate(self, position: Tensor) -> tuple[float, Tensor]:
        """Log density, −inf where it or its gradient is not finite, and minus the gradient."""
        self._count += 1
        leaf = position.detach().clone().requires_grad_()
        try:
            with torch.enable_grad():
                value = self._log_density(leaf)
                (gradient,) = torch.autograd.grad(value, leaf)
        except LinAlgError:
            return -float("inf"), torch.zeros_like(position)
        if not bool(value.isfinite() & gradient.isfinite().all()):
            return -float("inf"), torch.zeros_like(position)
        value = value.detach()
        if float(value) >= self._value:
            self._value, self._best, self._gradient = float(value), leaf.detach(), gradient
        return float(value), -gradient

    def _gain(self, norm: float) -> float:
        if norm == 0:
            return 0.0
        dim = len(self._best)
        if dim <= DENSE_DIM:
            try:
                matrix = negative_hessian(self._log_density, self._best)
            except ValueError:  # it is not finite
                return float("inf")
            except RuntimeError:  # it cannot be vectorised
                return self._gain_along_gradient(norm)
            self._count += 2 * dim
            eps = torch.finfo(self._best.dtype).eps
            return _newton_gain(matrix, self._gradient.double().cpu(), eps)
        return self._gain_along_gradient(norm)

    def _gain_along_gradient(self, norm: float) -> float:
        """½(gᵀg)² / (−gᵀHg)."""
        unit = self._gradient / norm
        leaf = self._best.clone().requires_grad_()
        with torch.enable_grad():
            value = self._log_density(leaf)
            (gradient,) = torch.autograd.grad(value, leaf, create_graph=True)
            slope = gradient @ unit
            if not slope.requires_grad:  # a linear density
                return float("inf")
            (curved,) = torch.autograd.grad(slope, leaf)
        self._count += 2
        curvature = -float(curved @ unit)
        return 0.5 * norm**2 / curvature if curvature > 0 else float("inf")


def _newton_gain(matrix: Tensor, gradient: Tensor, eps: float) -> float:
    """½ gᵀH⁻¹g of the curvature H, scaled to a unit diagonal; infinite at a saddle.

    The scaling resolves directions of very different curvature, as deep in a funnel.
    """
    diagonal = matrix.diagonal()
    scale = torch.where(diagonal > 0, diagonal, 1.0).rsqrt()
    values, vectors = torch.linalg.eigh(scale[:, None] * matrix * scale)
    resolution = 10 * len(matrix) ** 0.5 * eps * float(values.abs().max().clamp(min=1e-300))
    if float(values[0]) < -resolution:
        return float("inf")
    along = vectors.mT @ (scale * gradient)
    return float((along.square() / values.clamp(min=resolution)).sum() / 2)
