"""Likelihoods through the exact solver, and through the solver on a coarser mesh."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from probnet.neural_operator.delayed_acceptance import LogLikelihood
from probnet.neural_operator.observations import Observations
from probnet.neural_operator.problem import Problem


def coarser(problem: Problem) -> list[Problem]:
    """The problem on the mesh of half the resolution; none where the mesh cannot be halved."""
    halved: Callable[[], Problem] | None = getattr(problem, "halved", None)
    if halved is None:
        return []
    try:
        return [halved()]
    except ValueError:
        return []


def likelihood(
    problem: Problem,
    observations: Observations,
    decode: Callable[[Tensor], Tensor],
    *,
    keep: bool,
) -> LogLikelihood:
    """ℓ(x) = -|y - H G(a(x))|²/2σ² by the solver; by-products are its nodal values, or none.

    Args:
        problem: G.
        observations: y, H and σ.
        decode: positions (chains, dim) to inputs a (chains, *grid).
        keep: return solutions.
    """
    observe = problem.observation_operator(observations.sensors)

    @torch.no_grad()  # a network that decodes has parameters; chains ask for values alone
    def evaluate(positions: Tensor) -> tuple[Tensor, Tensor]:
        inputs = decode(positions)
        u = problem.solve(problem.coefficients(inputs))
        value = observations.log_likelihood(observe(u))
        return value, u.flatten(1) if keep else u.new_empty(len(u), 0)

    return evaluate
