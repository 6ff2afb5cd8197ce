"""The law of a network's error between any points, from exact solutions of a few inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from probnet.neural_operator.problem import Problem

_NUM_MODES = 16


@dataclass(frozen=True, eq=False)
class SolutionError:
    r"""e ~ N(0, EᵀE + diag r): second moments of û - u* at the nodes of the mesh.

    E holds the leading right singular vectors of V errors, scaled, and r what they leave of
    the mean squares, so that the marginal variances are the mean squared errors. There is no
    mean: what is known of a bias is in the moments, and û is the network's own.

    Attributes:
        modes: E, shape (r, num_nodes) or (r, num_nodes, c).
        rest: r, shape (num_nodes,) or (num_nodes, c).
    """

    modes: Tensor
    rest: Tensor

    @staticmethod
    def of(errors: Tensor) -> SolutionError:
        """The law of errors (V, num_nodes) or (V, num_nodes, c)."""
        flat = errors.flatten(1) / len(errors) ** 0.5
        _, values, vectors = torch.linalg.svd(flat, full_matrices=False)
        modes = (values[:, None] * vectors)[:_NUM_MODES]
        rest = (flat.square().sum(0) - modes.square().sum(0)).clamp_min(0)
        return SolutionError(
            modes.reshape(-1, *errors.shape[1:]), rest.reshape(errors.shape[1:])
        )

    def at(self, problem: Problem, points: Tensor) -> tuple[Tensor, Tensor]:
        """E and r at points (n, d), by interpolation of E and √r."""
        observe = problem.observation_operator(points)

        def interpolated(values: Tensor) -> Tensor:
            shape = (len(values), *problem.solution_shape, *values.shape[2:])
            return observe(values.reshape(shape))

        return interpolated(self.modes), interpolated(self.rest.sqrt()[None])[0].square()

    def scale(self, problem: Problem, points: Tensor) -> Tensor:
        """Standard deviations at points (n, d), shape (n,) or (n, c)."""
        modes, rest = self.at(problem, points)
        return (modes.square().sum(0) + rest).sqrt()
