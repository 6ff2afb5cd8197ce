"""The posterior mode in unconstrained space."""

from __future__ import annotations

import torch
from torch import Tensor

from inference.errors import warn
from inference.targets import Target

_ADAM_STEPS = 300
_ADAM_RATE = 0.05
_ITERATIONS = 500
_FLAT = 1e-3  # of a gradient's norm, relative to the number of parameters


def find_mode(target: Target, start: Tensor) -> Tensor:
    """A local maximum of the full-data log density, from `start`; both of shape (dim,).

    Adam first, which is safe far away, then L-BFGS with a strong-Wolfe line search.

    Raises:
        ValueError: if the log density grows without bound or has no finite gradient on the way.
    """
    best = climb(target, _approach(target, start))
    value, gradient = _value_and_gradient(target, best)
    if not bool(torch.isfinite(value) & torch.isfinite(gradient).all()):
        raise ValueError(
            "no mode was found: the log density or its gradient is not finite where the search "
            "ended. Start elsewhere with `init`, or leave control variates off."
        )
    steepness = float(torch.linalg.vector_norm(gradient)) / (1 + abs(float(value)))
    if steepness > _FLAT:
        warn(
            f"the search for the mode ended where the gradient is not zero (norm "
            f"{float(torch.linalg.vector_norm(gradient)):.2g}): the log density may be "
            "unbounded, as that of a hierarchical model with a free scale."
        )
    return best


def climb(target: Target, start: Tensor) -> Tensor:
    """The end of an L-BFGS ascent from `start` (dim,); `start` itself if it went astray."""
    location = start.detach().clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [location],
        max_iter=_ITERATIONS,
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = -target.log_density(location)
        loss.backward()
        return loss

    with torch.enable_grad():
        before = float(closure().detach())
        optimiser.step(closure)
        after = float(closure().detach())
    return location.detach() if after <= before else start.detach().clone()


def _approach(target: Target, start: Tensor) -> Tensor:
    """The best position of a short run of Adam."""
    location = start.detach().clone().requires_grad_()
    optimiser = torch.optim.Adam([location], lr=_ADAM_RATE)
    best, best_value = start.detach().clone(), -float("inf")
    with torch.enable_grad():
        for _ in range(_ADAM_STEPS):
            optimiser.zero_grad()
            value = target.log_density(location)
            if float(value.detach()) > best_value:
                best, best_value = location.detach().clone(), float(value.detach())
            (-value).backward()
            optimiser.step()
    return best


def _value_and_gradient(target: Target, position: Tensor) -> tuple[Tensor, Tensor]:
    location = position.detach().clone().requires_grad_()
    with torch.enable_grad():
        value = target.log_density(location)
        (gradient,) = torch.autograd.grad(value, location)
    return value.detach(), gradient
