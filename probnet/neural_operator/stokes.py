"""Stokes flow around a cylinder: Taylor–Hood elements, one factorisation, the dual norm."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import skfem
import torch
from scipy.sparse import block_array, csc_array
from scipy.sparse.linalg import splu
from torch import Tensor

from inference._checks import check_finite, check_integer, check_positive
from probnet._checks import Values, as_tensor
from probnet.neural_operator.channel import CENTRE, HEIGHT, LENGTH, RADIUS, channel_mesh
from probnet.neural_operator.problem import Problem

_ENTRANCE = 0.4  # where the cylinder begins, and the lifted inflow has become a parabola


class Stokes(Problem):
    r"""-μΔw + ∇p = 0, ∇·w = 0 in a channel with a cylinder; the input is the inflow a(y).

    The channel is [0, 2] x [0, 1] without the disc of centre (0.5, 0.6) and radius 0.1. The
    velocity w = (u, v) is (a, 0) at x = 0 and zero on the walls and the cylinder; at x = 2
    nothing is done, μ∂w/∂x = (p, 0), which a parallel flow with p = 0 there satisfies. Velocity
    is quadratic, pressure linear in each triangle, those at the cylinder are curved.

    A solution has three components (u, v, p) at the nodes of the quadratic elements. Only
    the corners of triangles carry pressure: at the midpoints of edges `loss` ignores it and
    `solve` returns the mean of the edge's ends. With the residuals r = μAw - Bᵀp of momentum
    at the free nodes and d = Bw of mass, `loss` is

        ½ (rᵀ(μA)⁻¹r + μ dᵀM⁻¹d),

    A the stiffness of the Laplacian, M the mass of linear elements: by the inf-sup condition
    it lies between constants, which no mesh changes, times μ‖∇(w - w_h)‖² + ‖p - p_h‖²/μ.

    `ansatz` turns the inflow into a parabola of the same flux Q and continues its pressure
    12μQ(2 - x): the network learns what the cylinder does, its pressure in units of 12μ.

    Args:
        viscosity: μ > 0.
        num_cells: n, edges along a side, 0.4 long, of the square around the cylinder; even,
            >= 4. The default has 1438 nodes.

    Raises:
        ValueError: on an argument out of range.

    Example:
        >>> pde = Stokes(num_cells=4)
        >>> y = torch.linspace(0, 1, 256, dtype=torch.float64)
        >>> pde.solve(pde.coefficients(torch.sin(torch.pi * y))).shape
        torch.Size([688, 3])
    """

    num_dims = 2
    num_components = 3
    lower, upper = (0.0, 0.0), (LENGTH, HEIGHT)
    variational = False

    def __init__(self, viscosity: float = 0.01, num_cells: int = 6) -> None:
        self.viscosity = check_positive("viscosity", viscosity)
        self.num_cells = check_integer("num_cells", num_cells, 4)
        if num_cells % 2:
            raise ValueError(f"`num_cells` must be even; got {num_cells}.")
        self._basis = skfem.Basis(channel_mesh(num_cells), skfem.ElementTriP2(), intorder=5)
        self.solution_shape = (int(self._basis.N),)
        self.num_given_values = len(self._inlet)
        self._converted: dict[tuple[torch.dtype, torch.device], tuple[Tensor, ...]] = {}

    @property
    def nodes(self) -> Tensor:
        """Corners of the triangles, then midpoints of their edges, (num_nodes, 2)."""
        return torch.from_numpy(self._basis.doflocs.T.copy())

    @property
    def num_pressures(self) -> int:
        """How many of the nodes, the first ones, carry pressure."""
        return int(self._basis.mesh.nvertices)

    def refined(self) -> Stokes:
        """The same problem with edges half as long, an independent check of this one."""
        return Stokes(self.viscosity, 2 * self.num_cells)

    def coefficients(self, inputs: Tensor) -> Tensor:
        """Inflow at the mesh's nodes of x = 0, by linear interpolation, `(*batch, num_inlet)`.

        Args:
            inputs: a at equidistant nodes of [0, 1], both ends included, shape `(*batch, g)`,
                zero at the ends.

        Raises:
            ValueError: if an input is not zero at the ends, to 1e-4 of its largest value.
        """
        if inputs.ndim < 1 or inputs.shape[-1] < 3:
            raise ValueError(
                f"`inputs` must have shape (*batch, g), values at g >= 3 nodes of [0, 1]; got "
                f"{tuple(inputs.shape)}."
            )
        check_finite("inputs", inputs)
        ends = inputs[..., [0, -1]].abs().amax(-1)
        if bool((ends > 1e-4 * inputs.abs().amax(-1)).any()):
            raise ValueError(
                "`inputs` must be zero at y = 0 and y = 1, as the velocity on the walls is; "
                f"the largest value there is {float(ends.max()):.4g}."
            )
        return self.given_values(inputs)

    def given_values(self, inputs: Tensor) -> Tensor:
        """`coefficients` without a check; see `Problem.given_values`."""
        grid = torch.linspace(0, HEIGHT, inputs.shape[-1], dtype=torch.float64)
        return inputs @ _linear(grid, self.nodes[self._inlet, 1]).T.to(inputs)

    def solve(self, coefficients: Values) -> Tensor:
        """Nodal values `(*batch, num_nodes, 3)`, linear in the inflow, with its gradient.

        Args:
            coefficients: inflow at the nodes of x = 0, shape `(*batch, num_inlet)`.
        """
        inflow = check_finite("coefficients", as_tensor("coefficients", coefficients))
        if inflow.ndim < 1 or inflow.shape[-1] != len(self._inlet):
            raise ValueError(
                f"`coefficients` must have shape (*batch, {len(self._inlet)}), the inflow at "
                f"the mesh's nodes; got {tuple(inflow.shape)}. `coefficients` makes them of "
                f"inputs."
            )
        return (inflow @ self._response.to(inflow.device)).unflatten(-1, (-1, 3))

    def loss(self, values: Tensor, coefficients: Tensor) -> Tensor:
        """½ (rᵀ(μA)⁻¹r + μ dᵀM⁻¹d), shape (B,); see `Problem.loss`.

        The inflow is that of `values`, which `ansatz` took from `coefficients`.
        """
        del coefficients
        flat = values.reshape(-1, 3 * self.solution_shape[0])
        operator, laplace, mass = self._physics_like(flat)
        residual = torch.sparse.mm(operator, flat.T).T
        momentum = residual[:, : 2 * len(laplace)].unflatten(-1, (2, -1))
        divergence = residual[:, 2 * len(laplace) :]
        return _half_square(momentum, laplace).sum(-1) + _half_square(divergence, mass)

    def flux(self, values: Tensor, x: float) -> Tensor:
        """∫ u dy over the inlet (x = 0) or the outlet (x = 2), `(*batch,)` of nodal values."""
        if x not in (0, LENGTH):
            raise ValueError(f"`x` must be 0 or {LENGTH:g}; got {x!r}.")
        return values[..., 0] @ self._fluxes[int(x > 0)].to(values)

    def mollifier(self, points: Tensor) -> Tensor:
        """Zero on inlet, walls and cylinder for u and v; 12μ for p; shape (n, 3)."""
        x, y = points.unbind(-1)
        m = 4 * y * (1 - y) * x / (x + 0.2) * _off_cylinder(points)
        return torch.stack([m, m, torch.full_like(m, 12 * self.viscosity)], dim=-1)

    def lifting(self, points: Tensor) -> Tensor:
        """Zero, shape (n, 3); the inflow enters in `ansatz`."""
        return points.new_zeros(len(points), 3)

    def ansatz(self, points: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """The map from U (B, n, 3) to m U plus an inflow that becomes a parabola."""
        m = self.mollifier(points)
        x, y = points.double().unbind(-1)
        inlet = self.nodes[self._inlet, 1].to(x)
        share = (1 - x / _ENTRANCE).clamp_min(0)
        share = share.square() * (3 - 2 * share)
        flux = self._fluxes[0][self._inlet].to(x)
        parabola = (1 - share) * 6 * y * (1 - y) * _off_cylinder(points.double())
        along = share[:, None] * _quadratic(inlet, y) + parabola[:, None] * flux
        pressure = 12 * self.viscosity * (LENGTH - x)[:, None] * flux
        given = torch.stack([along, torch.zeros_like(along), pressure], dim=1)  # (n, 3, inlet)
        given = given.flatten(0, 1).T

        def candidate(network: Tensor, coefficients: Tensor) -> Tensor:
            g = (coefficients.to(network) @ given.to(network)).unflatten(-1, (-1, 3))
            return m.to(network) * network + g

        return candidate

    def observation_operator(self, points: Tensor) -> Callable[[Tensor], Tensor]:
        """The finite-element functions (u, v, p) at points (n, 2), shape `(*batch, n, 3)`."""
        where = self.check_points("points", points).detach().cpu().numpy().T
        quadratic = torch.from_numpy(self._basis.probes(where).toarray())
        linear = torch.from_numpy(self._pressure_basis.probes(where).toarray())

        def observe(values: Tensor) -> Tensor:
            velocity = quadratic.to(values) @ values[..., :2]
            pressure = linear.to(values) @ values[..., : self.num_pressures, 2:]
            return torch.cat([velocity, pressure], dim=-1)

        return observe

    def check_points(self, name: str, points: Tensor) -> Tensor:
        """Return points as a float64 matrix, or raise if one is not in the fluid."""
        matrix = super().check_points(name, points)
        inside = (matrix - matrix.new_tensor(CENTRE)).norm(dim=-1) < RADIUS * (1 - 1e-9)
        if inside.any():
            first = int(inside.int().argmax())
            raise ValueError(
                f"`{name}` must lie outside the cylinder; {int(inside.sum())} of {len(matrix)} "
                f"do not (first: row {first}, {matrix[first].tolist()})."
            )
        return matrix

    @cached_property
    def _pressure_basis(self) -> Any:
        return self._basis.with_element(skfem.ElementTriP1())

    @cached_property
    def _inlet(self) -> Tensor:
        """Numbers of the nodes of x = 0, by increasing y."""
        at = torch.nonzero(self.nodes[:, 0] == 0)[:, 0]
        return at[self.nodes[at, 1].argsort()]

    @cached_property
    def _free(self) -> np.ndarray:
        """Numbers of the nodes where the velocity is not given."""
        x, y = self._basis.doflocs
        off_wall = (x > 0) & (y > 1e-12) & (y < HEIGHT - 1e-12)
        return np.flatnonzero(off_wall & (_radius(x, y) > RADIUS * (1 + 1e-9)))

    @cached_property
    def _matrices(self) -> tuple[csc_array, csc_array, csc_array, csc_array]:
        """A (all nodes), B along x and along y (pressures by nodes), and M."""

        def assemble(form: Callable[..., Any], trial: Any, test: Any) -> csc_array:
            return csc_array(skfem.BilinearForm(form).assemble(trial, test))

        w, p = self._basis, self._pressure_basis
        return (
            assemble(lambda u, v, _: (u.grad * v.grad).sum(0), w, w),
            assemble(lambda u, q, _: u.grad[0] * q, w, p),
            assemble(lambda u, q, _: u.grad[1] * q, w, p),
            assemble(lambda u, q, _: u * q, p, p),
        )

    @cached_property
    def _system(self) -> csc_array:
        """Rows: momentum of u and of v at the free nodes, mass; columns: u, v, p, by node."""
        stiffness, along_x, along_y, _ = self._matrices
        free, mu = self._free, self.viscosity
        return csc_array(
            block_array(
                [
                    [mu * stiffness[free], None, -along_x[:, free].T],
                    [None, mu * stiffness[free], -along_y[:, free].T],
                    [along_x, along_y, None],
                ]
            )
        )

    @cached_property
    def _response(self) -> Tensor:
        """Solutions of unit inflows at single nodes of the inlet, (num_inlet, 3 num_nodes)."""
        n, free, inlet = self.solution_shape[0], self._free, self._inlet.numpy()
        unknown = np.concatenate([free, n + free, 2 * n + np.arange(self.num_pressures)])
        solutions = np.zeros((2 * n + self.num_pressures, len(inlet)))
        solutions[inlet, np.arange(len(inlet))] = 1
        right = -(self._system @ solutions)
        solutions[unknown] = splu(csc_array(self._system[:, unknown])).solve(right)
        u, v, p = solutions[:n], solutions[n : 2 * n], solutions[2 * n :]
        columns = np.stack([u, v, self._spread @ p], axis=1)  # (n, 3, inlet)
        return torch.from_numpy(columns.reshape(3 * n, -1).T.copy())

    @cached_property
    def _spread(self) -> csc_array:
        """From pressures at the corners to all nodes: means of the ends at the midpoints."""
        count = self.num_pressures
        mesh: Any = self._basis.mesh
        edges = np.arange(count, self.solution_shape[0])
        rows = np.concatenate([np.arange(count), edges, edges])
        columns = np.concatenate([np.arange(count), *mesh.facets])
        weights = np.concatenate([np.ones(count), np.full(2 * len(edges), 0.5)])
        return csc_array((weights, (rows, columns)), shape=(self.solution_shape[0], count))

    @cached_property
    def _physics(self) -> tuple[Tensor, Tensor, Tensor]:
        """The residual's sparse operator on values by node; (μA)⁻¹ at free nodes; μM⁻¹."""
        n, free = self.solution_shape[0], self._free
        system: Any = self._system.tocoo()
        rows, columns = system.coords
        operator = torch.sparse_coo_tensor(
            torch.from_numpy(np.stack([rows, 3 * (columns % n) + columns // n])),
            torch.from_numpy(system.data),
            (system.shape[0], 3 * n),
            check_invariants=True,
        ).coalesce()
        stiffness = self.viscosity * self._matrices[0][free][:, free].toarray()
        mass = self._matrices[3].toarray() / self.viscosity
        return operator, _inverse(stiffness), _inverse(mass)

    def _physics_like(self, values: Tensor) -> tuple[Tensor, ...]:
        """`_physics` in the dtype and on the device of values, kept for the next call."""
        key = (values.dtype, values.device)
        if key not in self._converted:
            self._converted[key] = tuple(part.to(values) for part in self._physics)
        return self._converted[key]

    @cached_property
    def _fluxes(self) -> tuple[Tensor, Tensor]:
        """Weights (num_nodes,) of ∫ u dy over the inlet and over the outlet."""

        def weights(x: float) -> Tensor:
            facets = self._basis.mesh.facets_satisfying(
                lambda at: np.abs(at[0] - x) < 1e-9, boundaries_only=True
            )
            form = skfem.LinearForm(lambda v, _: v)
            return torch.from_numpy(form.assemble(self._basis.boundary(facets)))

        return weights(0.0), weights(LENGTH)


class _HalfSquare(torch.autograd.Function):
    """½ rᵀPr of rows r and a symmetric P: the product Pr is its gradient, computed once."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, inverse: Tensor) -> Tensor:
        product = residual @ inverse
        ctx.save_for_backward(product)
        return (residual * product).sum(-1) / 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor, None]:
        (product,) = ctx.saved_tensors
        return grads[0][..., None] * product, None


def _half_square(residual: Tensor, inverse: Tensor) -> Tensor:
    return _HalfSquare.apply(residual, inverse)  # pyright: ignore


def _inverse(matrix: np.ndarray) -> Tensor:
    return torch.cholesky_inverse(torch.linalg.cholesky(torch.from_numpy(matrix)))


def _radius(x: Any, y: Any) -> Any:
    return ((x - CENTRE[0]) ** 2 + (y - CENTRE[1]) ** 2) ** 0.5


def _off_cylinder(points: Tensor) -> Tensor:
    """1 - (r/ρ)², ρ the distance from the centre: zero on the cylinder."""
    squared = (points - points.new_tensor(CENTRE)).square().sum(-1)
    return (1 - RADIUS**2 / squared).clamp_min(0)


def _linear(nodes: Tensor, y: Tensor) -> Tensor:
    """Matrix (n, num_nodes) of linear interpolation from increasing nodes."""
    cell = (torch.searchsorted(nodes, y.contiguous()) - 1).clamp(0, len(nodes) - 2)
    share = (y - nodes[cell]) / (nodes[cell + 1] - nodes[cell])
    matrix = torch.zeros(len(y), len(nodes), dtype=y.dtype, device=y.device)
    row = torch.arange(len(y), device=y.device)
    matrix[row, cell] = 1 - share
    matrix[row, cell + 1] = share
    return matrix


def _quadratic(nodes: Tensor, y: Tensor) -> Tensor:
    """Matrix (n, num_nodes) of the finite-element inflow: edges are pairs of cells."""
    ends = nodes[::2].contiguous()
    edge = (torch.searchsorted(ends, y.contiguous()) - 1).clamp(0, len(ends) - 2)
    s = (y - ends[edge]) / (ends[edge + 1] - ends[edge])
    matrix = torch.zeros(len(y), len(nodes), dtype=y.dtype, device=y.device)
    row = torch.arange(len(y), device=y.device)
    matrix[row, 2 * edge] = (1 - s) * (1 - 2 * s)
    matrix[row, 2 * edge + 1] = 4 * s * (1 - s)
    matrix[row, 2 * edge + 2] = s * (2 * s - 1)
    return matrix
