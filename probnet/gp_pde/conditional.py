"""The exact conditional covariance on a grid, by preconditioned conjugate gradients.

The rows of a grid problem, one per node, have the covariance G = Σ_αβ a_α (⊗_j (-1)^β_j
K_j^(α_j+β_j)) a_β, which is applied axis by axis and never formed. The preconditioner
eliminates the conditions on faces, whose block is small and dense. In the block of the equation
it replaces the operator by a sum over axes A_j, diagonalises Cov(A_j u) against Cov(u) on every
axis, V_j Λ_j V_jᵀ against V_j V_jᵀ, and takes (⊗ V_j) (Σ_j Λ_j^½)² (⊗ V_j)ᵀ. (The inverse of
the grid's own solve is of no use: it knows nothing of the variance that derivatives still have
where the values at the nodes are given.)
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from probnet.gp_pde.checks import SolverWarning
from probnet.gp_pde.dense import MAX_ROWS
from probnet.gp_pde.rows import Rows, covariance, variance
from probnet.gp_pde.system import GridSystem
from probnet.linalg import EquilibratedCholesky, mode_product
from probnet.pde import MultiIndex
from probnet.pde.functions import mesh

_TOLERANCE, _ACCEPTABLE, _MAX_ITERATIONS = 1e-7, 1e-5, 500
_NUGGET = 1e-10  # of the rows


class GridConditional:
    """Conditions u exactly on the rows of a grid problem, without a dense matrix.

    Args:
        system: the problem, its right-hand side and faces included.

    Attributes:
        rows: one per node: the equation, or the condition that has eliminated the node.

    Raises:
        ValueError: if the nodes on faces are more than a dense matrix can be factorised for.
    """

    def __init__(self, system: GridSystem) -> None:
        self.system = system
        self.rows, self._interior = _rows(system)
        if int((~self._interior).sum()) > MAX_ROWS:
            raise ValueError(
                f"`grid` has {int((~self._interior).sum())} nodes on faces; the exact "
                f"conditional covariance takes at most {MAX_ROWS}. Take fewer nodes."
            )
        self._shape = tuple(len(nodes) for nodes in system.nodes)
        self._fields = {a: c.reshape(self._shape) for a, c in self.rows.coefficients.items()}
        top = [2 * max(alpha[j] for alpha in self._fields) for j in range(len(self._shape))]
        self._tables = [
            prior.derivatives(nodes[:, None] - nodes, order)
            for prior, nodes, order in zip(system.prior, system.nodes, top, strict=True)
        ]
        self._scale = variance(self.rows, system.prior).sqrt()[:, None]
        faces = self.rows[~self._interior]
        self._faces = faces if len(faces) else None
        if self._faces is not None:
            gram = covariance(self._faces, self._faces, system.prior)
            self._face_factor = EquilibratedCholesky(gram, _NUGGET)
        self._vectors, self._values = _axis_factors(system, self._tables)

    def gram(self, y: Tensor) -> Tensor:
        """G y + ε diag(G) y for y of shape `(n, s)`."""
        fields = y.mT.reshape(-1, *self._shape)
        total = torch.zeros_like(fields)
        for beta, b in self._fields.items():
            for alpha, a in self._fields.items():
                term = b * fields
                for j, (p, q) in enumerate(zip(alpha, beta, strict=True)):
                    term = mode_product((-1) ** q * self._tables[j][p + q], term, j + 1)
                total = total + a * term
        return total.reshape(y.shape[1], -1).mT + _NUGGET * self._scale**2 * y

    def covariance(self, x: Tensor) -> Tensor:
        """Covariance of u at points `(m, d)`, given the rows: `(m, m)`.

        Warns:
            SolverWarning: if conjugate gradients have not converged.
        """
        scale, points = self._scale, Rows.points(x)
        half = self._cross(x) / scale
        solved, residual = _conjugate_gradients(
            lambda y: self.gram(y / scale) / scale,
            lambda y: scale * self._precondition(scale * y),
            half,
        )
        if residual > _ACCEPTABLE:
            warnings.warn(
                f"conjugate gradients have not converged, at a relative residual of "
                f"{residual:.1e}: the conditional covariance is too large. Take fewer nodes or "
                f"a rougher prior.",
                SolverWarning,
                stacklevel=2,
            )
        found = covariance(points, points, self.system.prior) - half.mT @ solved
        return (found + found.mT) / 2

    def _cross(self, x: Tensor) -> Tensor:
        """Cov(row, u(x)), shape `(n, m)`."""
        total = torch.zeros(len(x), *self._shape, dtype=torch.float64)
        for alpha, a in self._fields.items():
            term = a.expand_as(total)
            for j, order in enumerate(alpha):
                lag = self.system.nodes[j] - x[:, j, None]
                table = self.system.prior[j].derivatives(lag, order)[order]
                shape = [1] * len(self._shape)
                shape[j] = -1
                term = term * table.reshape(len(x), *shape)
            total = total + term
        return total.reshape(len(x), -1).mT

    def _precondition(self, y: Tensor) -> Tensor:
        """G⁻¹ y, nearly."""
        inside = self._interior
        if self._faces is None:
            return self._equation_inverse(y)
        found = torch.empty_like(y)
        known = self._face_factor.solve(y[~inside])
        found[inside] = self._equation_inverse(y[inside] - self._coupling(known)[inside])
        spread = torch.zeros_like(y)
        spread[inside] = found[inside]
        found[~inside] = self._face_factor.solve(y[~inside] - self.gram(spread)[~inside])
        return found

    def _coupling(self, on_faces: Tensor) -> Tensor:
        spread = torch.zeros(len(self._interior), on_faces.shape[1], dtype=torch.float64)
        spread[~self._interior] = on_faces
        return self.gram(spread)

    def _equation_inverse(self, y: Tensor) -> Tensor:
        kept = [len(values) for values in self._values]
        found = y.mT.reshape(-1, *kept)
        for j, vectors in enumerate(self._vectors):
            found = mode_product(vectors, found, j + 1)
        total = torch.zeros((), dtype=torch.float64)
        for values in self._values:
            total = total[..., None] + values.sqrt()
        found = found / (total**2 + _NUGGET * float(self._scale.max()) ** 2)
        for j, vectors in enumerate(self._vectors):
            found = mode_product(vectors.mT, found, j + 1)
        return found.reshape(y.shape[1], -1).mT


def _conjugate_gradients(
    matvec: Callable[[Tensor], Tensor], precondition: Callable[[Tensor], Tensor], b: Tensor
) -> tuple[Tensor, float]:
    """Solutions for the columns of b, and the largest relative residual.

    GPyTorch's `linear_cg` stops at 1e-5 here: its absolute thresholds suit unit scales.
    """
    x, residual = torch.zeros_like(b), b
    z = precondition(residual)
    direction, size = z, (residual * z).sum(0)
    norm = torch.linalg.norm(b, dim=0).clamp_min(1e-300)
    reached = 1.0
    for _ in range(_MAX_ITERATIONS):
        image = matvec(direction)
        step = size / (direction * image).sum(0)
        x, residual = x + step * direction, residual - step * image
        reached = float((torch.linalg.norm(residual, dim=0) / norm).max())
        if not reached > _TOLERANCE:
            break
        z = precondition(residual)
        before, size = size, (residual * z).sum(0)
        direction = z + size / before * direction
    return x, reached


def _axis_factors(
    system: GridSystem, tables: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """V_j⁻¹ and the diagonal of Λ_j on the kept nodes of every axis."""
    vectors: list[Tensor] = []
    values: list[Tensor] = []
    for j, (axis, table) in enumerate(zip(system.axes, tables, strict=True)):
        weights: dict[int, float] = {}
        for alpha, a in system.coefficients.items():
            if sum(alpha) == alpha[j] and (alpha[j] or j == 0):
                weights[alpha[j]] = float(a.mean())
        gram = torch.zeros_like(table[0])
        for p, a in weights.items():
            for q, b in weights.items():
                gram = gram + a * b * (-1) ** q * table[p + q]
        kept = axis.kept
        factor = EquilibratedCholesky(table[0][kept][:, kept], _NUGGET)
        half = factor.half_solve(gram[kept][:, kept])
        whitened = factor.half_solve(half.mT.contiguous())
        eigenvalues, rotation = torch.linalg.eigh((whitened + whitened.mT) / 2)
        values.append(eigenvalues.clamp_min(0))
        vectors.append(rotation.mT @ factor.half_solve(torch.eye(len(kept)).to(rotation)))
    return vectors, values


def _rows(system: GridSystem) -> tuple[Rows, Tensor]:
    """The equation at kept nodes, conditions elsewhere; and a mask of the former.

    The first axis owns the corners, as in `GridOperator.extend`.
    """
    points = mesh(system.nodes)
    free = torch.ones_like(points[0], dtype=torch.bool)
    fields: dict[MultiIndex, Tensor] = {}
    values = system.right.clone()
    for j, (ends, face) in enumerate(zip(system.orders, system.faces, strict=True)):
        for number, (node, order) in enumerate(_conditions(ends)):
            here = torch.zeros_like(free)
            here.select(j, node).fill_(True)
            here &= free
            alpha = tuple(order * int(k == j) for k in range(len(points)))
            fields[alpha] = fields.get(alpha, torch.zeros_like(values)) + here
            if face is not None:
                values = torch.where(here, face.select(j, number).unsqueeze(j), values)
            free &= ~here
    for alpha, a in system.coefficients.items():
        fields[alpha] = fields.get(alpha, torch.zeros_like(values)) + a * free
    flat = {alpha: field.reshape(-1) for alpha, field in fields.items()}
    x = torch.stack([p.reshape(-1) for p in points], dim=1)
    noise = torch.zeros(math.prod(values.shape), dtype=torch.float64)
    return Rows(x, flat, values.reshape(-1), noise), free.reshape(-1)


def _conditions(ends: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """(node, order) of every condition on an axis, in the order of its face data."""
    lower, upper = ends
    return [*((0, order) for order in lower), *((-1, order) for order in upper)]
