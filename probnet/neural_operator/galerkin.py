"""Solutions by projection on a few modes, with an error bound that the residual certifies."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from inference._checks import check_finite, check_integer
from probnet._checks import Values, as_tensor, check_shape
from probnet.neural_operator.darcy import Darcy2D

_RANK_TOLERANCE = 1e-12
_BOUNDARY_TOLERANCE = 1e-5  # single precision


@dataclass(frozen=True, eq=False)
class ProjectedSolution:
    r"""A solution in the span of modes, and how wrong it can be.

    Attributes:
        values: nodal values u, shape `(*batch, nx + 1, ny + 1)`, float64.
        residual_norm: ‖A(a)u - F‖ in the dual norm of the Laplacian, shape `(*batch,)`.
        error_bound: bound of ‖∇(u - u*)‖ / ‖∇u‖ with u* the discrete solution, `(*batch,)`:
            the residual norm over min a, over ‖∇u‖. It holds for every a.
    """

    values: Tensor
    residual_norm: Tensor
    error_bound: Tensor


class GalerkinBasis:
    r"""Modes V that vanish on the boundary; u = g + V c solves VᵀA(a)V c = Vᵀ(F - A(a)g).

    The projection is the best approximation in the energy norm, whatever made the modes:
    snapshots of solutions (`pod`) or functions learned by a network (`from_functions`).

    Args:
        pde: the problem.
        modes: orthonormal nodal values (r, nx + 1, ny + 1), the most important first.

    Raises:
        ValueError: on modes of another shape, or not zero on the boundary.

    Example:
        >>> pde = Darcy2D(mesh=(8, 8))
        >>> snapshots = pde.solve(torch.linspace(1, 2, 5)[:, None, None].expand(5, 8, 8))
        >>> GalerkinBasis.pod(pde, snapshots, num_modes=1).solve(torch.ones(8, 8)).values.shape
        torch.Size([9, 9])
    """

    def __init__(self, pde: Darcy2D, modes: Tensor) -> None:
        _check_nodal(pde, "modes", modes)
        border = modes.clone()
        border[:, 1:-1, 1:-1] = 0
        if bool(border.any()):
            raise ValueError(
                "`modes` must vanish on the boundary: the solution's data come from the "
                "lifting. Multiply learned functions by `pde.mollifier(pde.nodes)`."
            )
        self.pde, self.modes = pde, check_finite("modes", modes.to(torch.float64))

    @property
    def num_modes(self) -> int:
        """Modes in the basis, r."""
        return len(self.modes)

    @classmethod
    def pod(cls, pde: Darcy2D, solutions: Values, num_modes: int) -> GalerkinBasis:
        """Proper orthogonal decomposition: leading right singular vectors of solutions.

        Args:
            pde: the problem.
            solutions: of training inputs, shape (n, nx + 1, ny + 1), n >= num_modes.
            num_modes: r, at least 1 and at most the rank of the solutions.
        """
        snapshots = check_finite("solutions", as_tensor("solutions", solutions))
        _check_nodal(pde, "solutions", snapshots)
        return cls._orthonormal(pde, snapshots - pde.lifted, num_modes, "solutions")

    @classmethod
    def from_functions(cls, pde: Darcy2D, functions: Values) -> GalerkinBasis:
        """The span of functions such as a network's features times the mollifier.

        Args:
            pde: the problem.
            functions: nodal values (r, nx + 1, ny + 1), zero on the boundary; those that are
                linear combinations of others are dropped.
        """
        values = check_finite("functions", as_tensor("functions", functions))
        _check_nodal(pde, "functions", values)
        return cls._orthonormal(pde, values, None, "functions")

    def leading(self, num_modes: int) -> GalerkinBasis:
        """The basis of the first `num_modes` modes."""
        count = check_integer("num_modes", num_modes, 1)
        if count > self.num_modes:
            raise ValueError(f"`num_modes` must be at most {self.num_modes}; got {count}.")
        return GalerkinBasis(self.pde, self.modes[:count])

    def solve(self, coefficients: Values) -> ProjectedSolution:
        """Project onto the modes: one dense Cholesky of size r per input, float64, batched.

        Args:
            coefficients: a in each cell, shape `(*batch, nx, ny)`, > 0.
        """
        a = self.pde.check_coefficients("coefficients", coefficients)
        flat = a.reshape(-1, *self.pde.mesh)
        lifted = self.pde.lifted
        values = torch.stack([self._solve_one(cells, lifted) for cells in flat])
        return certify(self.pde, values.reshape(*a.shape[:-2], *self.pde.solution_shape), a)

    def _solve_one(self, cells: Tensor, lifted: Tensor) -> Tensor:
        """One input at a time: the products A(a)V of a batch would not fit in cache."""
        modes = self.modes.flatten(1)
        matrix = modes @ self.pde.stiffness_product(self.modes, cells).flatten(1).T
        right = -modes @ self.pde.residual(lifted, cells).flatten()
        weights = torch.cholesky_solve(right[:, None], torch.linalg.cholesky(matrix))[:, 0]
        return lifted + (weights @ modes).reshape(self.pde.solution_shape)

    @classmethod
    def _orthonormal(
        cls, pde: Darcy2D, functions: Tensor, num_modes: int | None, name: str
    ) -> GalerkinBasis:
        _, sizes, vectors = torch.linalg.svd(functions.flatten(1), full_matrices=False)
        rank = int((sizes > _RANK_TOLERANCE * sizes[0]).sum())
        count = rank if num_modes is None else check_integer("num_modes", num_modes, 1)
        if count > rank or not rank:
            raise ValueError(
                f"`num_modes` must be at most the rank of `{name}`, {rank}; got {count}."
            )
        modes = vectors[:count].reshape(count, *pde.solution_shape)
        inner = torch.zeros_like(modes)
        inner[:, 1:-1, 1:-1] = modes[:, 1:-1, 1:-1]
        # Vectors of the span inherit zeros on the boundary up to rounding; more is an error.
        if float((modes - inner).abs().max()) < 1e-9:
            modes = inner
        return cls(pde, modes)


def certify(pde: Darcy2D, values: Tensor, coefficients: Values) -> ProjectedSolution:
    """Bound the error of any candidate with the right boundary values, without solving.

    With e = u - u*: min(a) ‖∇e‖² <= eᵀA(a)e = eᵀr <= ‖∇e‖ ‖r‖, the dual norm of r.

    Args:
        pde: the problem.
        values: nodal values `(*batch, nx + 1, ny + 1)`.
        coefficients: a in each cell, shape `(*batch, nx, ny)`, > 0.

    Raises:
        ValueError: if the values on the boundary are not the data: the residual inside, and
            with it the bound, does not see them.
    """
    a = pde.check_coefficients("coefficients", coefficients)
    u = _check_boundary(pde, values.to(torch.float64))
    residual_norm = pde.dual_norm_squared(pde.residual(u, a)).sqrt()
    ones = torch.ones(pde.mesh, dtype=torch.float64)
    slope = (u * pde.stiffness_product(u, ones)).sum((-2, -1)).sqrt()
    error_bound = residual_norm / a.amin((-2, -1)) / slope
    exact = residual_norm == 0  # so is u = 0, whose relative error would be 0/0
    return ProjectedSolution(u, residual_norm, torch.where(exact, 0.0, error_bound))


def refine(
    pde: Darcy2D, values: Tensor, coefficients: Values, num_steps: int
) -> ProjectedSolution:
    """Conjugate gradients from a guess, such as a network's, preconditioned by the Laplacian.

    The error in the energy norm shrinks per step at least by (√κ - 1)/(√κ + 1) on average, κ =
    max a / min a, on every mesh.

    Args:
        pde: the problem.
        values: guess, nodal values `(*batch, nx + 1, ny + 1)` with the boundary data.
        coefficients: a in each cell, shape `(*batch, nx, ny)`, > 0.
        num_steps: >= 0.
    """
    check_integer("num_steps", num_steps, 0)
    a = pde.check_coefficients("coefficients", coefficients)
    u = _check_boundary(pde, values.to(torch.float64))
    residual = -_inner(pde.residual(u, a))
    direction = preconditioned = pde.precondition(residual)
    size = _dot(residual, preconditioned)
    for _ in range(num_steps):
        image = _inner(pde.stiffness_product(direction, a))
        # A solved case has residual 0: its steps are 0 rather than 0/0.
        length = size / _dot(direction, image).clamp_min(torch.finfo(u.dtype).tiny)
        u = u + length * direction
        residual = residual - length * image
        preconditioned = pde.precondition(residual)
        previous, size = size, _dot(residual, preconditioned)
        ratio = size / previous.clamp_min(torch.finfo(u.dtype).tiny)
        direction = preconditioned + ratio * direction
    return certify(pde, u, a)


def _check_nodal(pde: Darcy2D, name: str, values: Tensor) -> None:
    if values.ndim != 3 or tuple(values.shape[1:]) != pde.solution_shape or not len(values):
        raise ValueError(
            f"`{name}` must have shape (n, {pde.solution_shape[0]}, {pde.solution_shape[1]}), "
            f"nodal values; got {tuple(values.shape)}."
        )


def _check_boundary(pde: Darcy2D, values: Tensor) -> Tensor:
    check_shape("values", values.shape[-2:], pde.solution_shape, "one per node")
    off = values - pde.lifted
    worst = float((off - _inner(off)).abs().max())
    if not worst <= _BOUNDARY_TOLERANCE * max(1.0, float(pde.lifted.abs().max())):
        raise ValueError(
            f"`values` must have the problem's data on the boundary; they differ by up to "
            f"{worst:.3g}. Those of a network do, after `pde.ansatz(pde.nodes)`."
        )
    return values


def _inner(values: Tensor) -> Tensor:
    return torch.nn.functional.pad(values[..., 1:-1, 1:-1], (1, 1, 1, 1))


def _dot(left: Tensor, right: Tensor) -> Tensor:
    return (left * right).sum((-2, -1), keepdim=True)
