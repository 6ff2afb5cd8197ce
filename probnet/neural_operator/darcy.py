"""Darcy flow on the unit square: bilinear elements, banded Cholesky, energy and dual norm."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, cached_property
from typing import cast

import torch
from torch import Tensor

from inference._checks import check_choice, check_finite, check_integer
from probnet._checks import Values, as_tensor, check_shape
from probnet.neural_operator.adjoint import AdjointSolve
from probnet.neural_operator.banded import solve_stiffness
from probnet.neural_operator.problem import Problem
from probnet.pde import Dirichlet
from probnet.pde.functions import values_at


class Darcy2D(Problem):
    r"""-∇·(a∇u) = f on the unit square, u = g on its boundary; the input is a > 0.

    a is constant in each cell of a mesh of nx x ny rectangles, u is bilinear there (Q1). An
    input on a grid of nodes fills each cell with the value of the node nearest to its centre:
    the same convention in labels, physics and plots. The discrete solution minimises

        J(u) = ½ ∫ a|∇u|² - ∫ f u,   J(u) - J(u*) = ½ ‖u - u*‖²_a,

    over nodal values with the boundary data; all integrals are exact.

    Args:
        source: f, a number, or one per cell, shape (nx, ny).
        mesh: (nx, ny), cells along x and y, each >= 2.
        boundary: data on all faces, exact: a number or a function of (x, y), which is then
            also how the data are continued into the domain.
        physics: what `loss` is: `"energy"` for J, `"dual_norm"` for ½ rᵀM⁻¹r with the residual
            r = A(a)u - F at the inner nodes and M the stiffness of the Laplacian.

    Raises:
        ValueError: on an argument out of range.
        TypeError: if `boundary` is not a `Dirichlet`.

    Example:
        >>> pde = Darcy2D(source=10.0, mesh=(56, 56), boundary=Dirichlet(0.0))
        >>> pde.solve(torch.full((56, 56), 7.5)).shape
        torch.Size([57, 57])
    """

    num_dims = 2
    lower, upper = (0.0, 0.0), (1.0, 1.0)

    def __init__(
        self,
        source: float | Values = 10.0,
        mesh: tuple[int, int] = (56, 56),
        boundary: Dirichlet | None = None,
        *,
        physics: str = "energy",
    ) -> None:
        self.mesh = (check_integer("mesh[0]", mesh[0], 2), check_integer("mesh[1]", mesh[1], 2))
        self.physics = check_choice("physics", physics, ("energy", "dual_norm"))
        self.variational = physics == "energy"
        self.boundary = _checked_boundary(Dirichlet(0.0) if boundary is None else boundary)
        self.source = check_finite("source", as_tensor("source", source))
        if self.source.ndim and tuple(self.source.shape) != self.mesh:
            raise ValueError(
                f"`source` must be a number or have one value per cell, shape {self.mesh}; "
                f"got {tuple(self.source.shape)}."
            )
        self.solution_shape = (self.mesh[0] + 1, self.mesh[1] + 1)
        self._pooling = 1

    @property
    def nodes(self) -> Tensor:
        """Corners of the cells, ((nx + 1)(ny + 1), 2), y running fastest."""
        axes = [torch.linspace(0, 1, n, dtype=torch.float64) for n in self.solution_shape]
        return torch.cartesian_prod(*axes)

    def halved(self) -> Darcy2D:
        """The same problem on cells twice as long, filled by geometric means of four.

        Raises:
            ValueError: if a number of cells is odd.
        """
        if self.mesh[0] % 2 or self.mesh[1] % 2:
            raise ValueError(f"`mesh` must have even numbers of cells; got {self.mesh}.")
        source = self.source
        if source.ndim:
            source = _blocks(source, 2).mean((-3, -1))
        half = Darcy2D(
            source, (self.mesh[0] // 2, self.mesh[1] // 2), self.boundary, physics=self.physics
        )
        half._pooling = 2 * self._pooling
        return half

    def coefficients(self, inputs: Tensor) -> Tensor:
        """Cell values `(*batch, nx, ny)` of the nearest input node, in the dtype of `inputs`.

        Args:
            inputs: a at nodes that span the square, shape `(*batch, gx, gy)`.
        """
        if inputs.ndim < 2 or min(inputs.shape[-2:]) < 2:
            raise ValueError(
                f"`inputs` must have shape (*batch, gx, gy), values of a at the nodes of a "
                f"grid of at least 2 x 2; got {tuple(inputs.shape)}."
            )
        sizes = tuple(zip(self.mesh, inputs.shape[-2:], strict=True))
        if self._pooling == 1:
            rows, columns = (_nearest(n, g).to(inputs.device) for n, g in sizes)
            return inputs[..., rows[:, None], columns]
        logs = inputs.log()
        left, right = (_shares(n, g, self._pooling).to(logs) for n, g in sizes)
        return (left @ logs @ right.T).exp()

    def check_coefficients(self, name: str, cells: Values) -> Tensor:
        """Return cell values `(*batch, nx, ny)` as float64, or raise unless finite and > 0."""
        a = check_finite(name, as_tensor(name, cells))
        if tuple(a.shape[-2:]) != self.mesh:
            raise ValueError(
                f"`{name}` must have shape (*batch, {self.mesh[0]}, {self.mesh[1]}), one value "
                f"per cell; got {tuple(a.shape)}. Values at nodes become cell values by "
                f"`coefficients`."
            )
        if not bool((a > 0).all()):
            raise ValueError(
                f"`{name}` must be > 0 everywhere, for the equation to be elliptic; the "
                f"smallest value is {float(a.min()):.4g}."
            )
        return a

    def solve(self, coefficients: Values) -> Tensor:
        """Nodal values `(*batch, nx + 1, ny + 1)` by banded Cholesky, differentiable once.

        Args:
            coefficients: a in each cell, shape `(*batch, nx, ny)`, > 0; its gradient costs one
                more solve.
        """
        a = self.check_coefficients("coefficients", coefficients)
        u = cast(Tensor, AdjointSolve.apply(a.reshape(-1, *self.mesh), self))
        return u.reshape(*a.shape[:-2], *self.solution_shape)

    def solve_inside(self, coefficients: Tensor, right: Tensor) -> Tensor:
        """The u at inner nodes with A(a)u = right, zero on the boundary; without gradient.

        Args:
            coefficients: a in each cell, shape (B, nx, ny), float64, on the CPU, not checked.
            right: shape (B, nx - 1, ny - 1).
        """
        return torch.from_numpy(solve_stiffness(coefficients.numpy(), right.numpy()))

    def loss(self, values: Tensor, coefficients: Tensor) -> Tensor:
        """The energy J(u), or ½ rᵀM⁻¹r, shape (B,); see `Problem.loss`."""
        u = values.reshape(-1, *self.solution_shape)
        a = coefficients.to(u)
        if self.physics == "energy":
            return self.energy(u, a)
        return self.dual_norm_squared(self.residual(u, a)) / 2

    def energy(self, values: Tensor, coefficients: Tensor) -> Tensor:
        """J(u) of nodal values `(*batch, nx + 1, ny + 1)`, shape `(*batch,)`."""
        along_x, along_y = values.diff(dim=-2), values.diff(dim=-1)
        e0, e1 = along_x[..., :-1], along_x[..., 1:]
        g0, g1 = along_y[..., :-1, :], along_y[..., 1:, :]
        ratio = self.mesh[0] / self.mesh[1]
        slopes = ratio * (e0 * e0 + e0 * e1 + e1 * e1) + (g0 * g0 + g0 * g1 + g1 * g1) / ratio
        work = (self.load.to(values) * values).sum((-2, -1))
        return (coefficients * slopes).sum((-2, -1)) / 6 - work

    def residual(self, values: Tensor, coefficients: Tensor) -> Tensor:
        """A(a)u - F at all nodes, shape `(*batch, nx + 1, ny + 1)`; zero inside if u solves."""
        return self.stiffness_product(values, coefficients) - self.load.to(values)

    def stiffness_product(self, values: Tensor, coefficients: Tensor) -> Tensor:
        """A(a)u at all nodes, shape `(*batch, nx + 1, ny + 1)`."""
        along_x, along_y = values.diff(dim=-2), values.diff(dim=-1)
        ratio = self.mesh[0] / self.mesh[1]
        a = coefficients
        e0, e1 = along_x[..., :-1], along_x[..., 1:]
        g0, g1 = along_y[..., :-1, :], along_y[..., 1:, :]
        # Derivatives of ½a∫|∇u|² by the differences along the cell's four edges.
        low, high = ratio * a * (2 * e0 + e1) / 6, ratio * a * (e0 + 2 * e1) / 6
        left, right = a * (2 * g0 + g1) / (6 * ratio), a * (g0 + 2 * g1) / (6 * ratio)
        pad = torch.nn.functional.pad
        flux_x = pad(low, (0, 1)) + pad(high, (1, 0))
        flux_y = pad(left, (0, 0, 0, 1)) + pad(right, (0, 0, 1, 0))
        out = pad(flux_x, (0, 0, 1, 0)) - pad(flux_x, (0, 0, 0, 1))
        return out + pad(flux_y, (1, 0)) - pad(flux_y, (0, 1))

    def dual_norm_squared(self, residual: Tensor) -> Tensor:
        """The square rᵀM⁻¹r over the inner nodes, M the Laplacian's stiffness."""
        sines_x, sines_y, inverse = (part.to(residual) for part in self._spectrum)
        modes = sines_x @ residual[..., 1:-1, 1:-1] @ sines_y
        return (modes.square() * inverse).sum((-2, -1))

    def precondition(self, residual: Tensor) -> Tensor:
        """M⁻¹r at all nodes, zero on the boundary, by sine transforms."""
        sines_x, sines_y, inverse = (part.to(residual) for part in self._spectrum)
        modes = inverse * (sines_x @ residual[..., 1:-1, 1:-1] @ sines_y)
        return torch.nn.functional.pad(sines_x @ modes @ sines_y, (1, 1, 1, 1))

    def mollifier(self, points: Tensor) -> Tensor:
        """16 x(1 - x) y(1 - y)."""
        return 16 * (points * (1 - points)).prod(-1)

    def lifting(self, points: Tensor) -> Tensor:
        """The boundary data, continued by their own formula."""
        where = points.to(torch.float64).unbind(-1)
        return values_at("boundary", self.boundary.value, where).to(points)

    def observation_operator(self, points: Tensor) -> Callable[[Tensor], Tensor]:
        """Bilinear interpolation at points (n, 2); see `Problem.observation_operator`."""
        scaled = self.check_points("points", points) * torch.tensor(
            self.mesh, dtype=torch.float64
        )
        cell = torch.minimum(scaled.long(), torch.tensor(self.mesh) - 1)
        step = self.solution_shape[1]
        first, (s, t) = cell @ torch.tensor([step, 1]), (scaled - cell).T
        corners = torch.stack([first, first + 1, first + step, first + step + 1])
        weights = torch.stack([(1 - s) * (1 - t), (1 - s) * t, s * (1 - t), s * t])

        def observe(values: Tensor) -> Tensor:
            check_shape("values", values.shape[-2:], self.solution_shape, "one per node")
            at_corners = values.flatten(-2)[..., corners.to(values.device)]
            return (at_corners * weights.to(values)).sum(-2)

        return observe

    @cached_property
    def is_homogeneous(self) -> bool:
        """Whether the lifting is zero at all nodes."""
        return not bool(self.lifted.any())

    @cached_property
    def load(self) -> Tensor:
        """∫ f φ_i at all nodes: a quarter of each neighbouring cell's integral."""
        quarter = (self.source.expand(self.mesh) / (4 * self.mesh[0] * self.mesh[1])).cpu()
        pad = torch.nn.functional.pad
        shifts = [(i, 1 - i, j, 1 - j) for i in (0, 1) for j in (0, 1)]
        return torch.stack([pad(quarter, shift) for shift in shifts]).sum(0)

    @cached_property
    def lifted(self) -> Tensor:
        """The lifting at the nodes, (nx + 1, ny + 1)."""
        values = self.lifting(self.nodes).reshape(self.solution_shape)
        return check_finite("boundary", values.detach())

    @cached_property
    def _spectrum(self) -> tuple[Tensor, Tensor, Tensor]:
        """Sine vectors along x and y, orthonormal, and 1/eigenvalues of M."""
        (sines_x, stiff_x, mass_x), (sines_y, stiff_y, mass_y) = map(_line, self.mesh)
        eigenvalues = stiff_x[:, None] * mass_y + mass_x[:, None] * stiff_y
        return sines_x, sines_y, 1 / eigenvalues


def _line(cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sine vectors of the inner nodes of [0, 1]; eigenvalues of the 1-D stiffness and mass."""
    k = torch.arange(1, cells, dtype=torch.float64)
    sines = math.sqrt(2 / cells) * torch.sin(math.pi / cells * k[:, None] * k)
    cosine = torch.cos(math.pi * k / cells)
    return sines, 2 * cells * (1 - cosine), (2 + cosine) / (3 * cells)


@cache
@torch.inference_mode(False)  # what is kept serves calls with gradients too
def _nearest(cells: int, nodes: int) -> Tensor:
    """Of equal cells of a line the nearest of nodes that span it, the upper of two as near."""
    return ((2 * torch.arange(cells) + 1) * (nodes - 1) + cells) // (2 * cells)


@cache
@torch.inference_mode(False)
def _shares(blocks: int, nodes: int, size: int) -> Tensor:
    """Every node's share (columns) of blocks (rows) of `size` cells that `_nearest` fills."""
    filled = torch.nn.functional.one_hot(_nearest(blocks * size, nodes), nodes).double()
    return filled.unflatten(0, (blocks, size)).mean(1)


def _blocks(cells: Tensor, size: int) -> Tensor:
    """(..., nx, ny) as (..., nx / size, size, ny / size, size)."""
    nx, ny = cells.shape[-2:]
    return cells.reshape(*cells.shape[:-2], nx // size, size, ny // size, size)


def _checked_boundary(boundary: Dirichlet) -> Dirichlet:
    if type(boundary) is not Dirichlet:
        raise TypeError(
            f"`boundary` must be a probnet.pde.Dirichlet; got {type(boundary).__name__}."
        )
    if boundary.faces != "all" or boundary.noise_sd:
        raise ValueError(
            "`boundary` must hold on all faces and be exact (noise_sd=0): the solution is "
            f"built to satisfy it; got faces={boundary.faces!r}, noise_sd={boundary.noise_sd}."
        )
    if not callable(boundary.value) and not isinstance(boundary.value, int | float):
        raise ValueError(
            "`boundary` must have a number or a function of (x, y) as its value, known "
            f"everywhere in the square; got {type(boundary.value).__name__}."
        )
    return boundary
