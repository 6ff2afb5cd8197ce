"""Likelihoods through the exact solver, and through the solver on coarser meshes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from probnet.neural_operator.delayed_acceptance import Level, LogLikelihood
from probnet.neural_operator.observations import Observations
from probnet.neural_operator.problem import Problem

_MAX_SCREENS = 2
_FEWEST_NODES = 5  # along an axis; a coarser mesh knows nothing of the medium
_STEPS: dict[int, tuple[int, ...]] = {0: (1,), 1: (1, 20), 2: (1, 10, 4)}


def levels(
    problem: Problem,
    observations: Observations,
    decode: Callable[[Tensor], Tensor],
    *,
    screen: bool = True,
) -> list[Level]:
    """Likelihoods on meshes of a quarter and half the resolution, then the exact one.

    Every tenth step is tested on the second mesh and every fortieth on the finest; with two
    meshes every twentieth on the finest.

    Args:
        problem: on the finest mesh.
        observations: y, H and σ.
        decode: positions (chains, dim) to inputs a `(chains, *grid)`.
        screen: `False`: the exact one alone.
    """
    screens = coarser(problem) if screen else []
    found = [likelihood(each, observations, decode, keep=False) for each in screens]
    found.append(likelihood(problem, observations, decode, keep=True))
    steps = _STEPS[len(screens)]
    return [Level(*pair) for pair in zip(found, steps, strict=True)]


def coarser(problem: Problem) -> list[Problem]:
    """The problem on meshes of a quarter and of half the resolution, as far as there are."""
    found: list[Problem] = []
    while len(found) < _MAX_SCREENS:
        halved: Callable[[], Problem] | None = getattr(problem, "halved", None)
        if halved is None:
            break
        try:
            problem = halved()
        except ValueError:
            break
        if min(problem.solution_shape) < _FEWEST_NODES:
            break
        found.insert(0, problem)
    return found


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
        decode: positions (chains, dim) to inputs a `(chains, *grid)`.
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
