"""Matrices of separable operators on tensor grids, at the cost of their factors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import scipy.linalg
import torch
from torch import Tensor

_tensordot: Any = torch.tensordot  # annotated with a number of dimensions only

_MAX_CONDITION = 1e8  # of eigenvectors; beyond it Schur vectors are taken
_BATCHED_ENTRIES = 4_000_000  # triangular matrices solved at once


def mode_product(matrix: Tensor, values: Tensor, axis: int) -> Tensor:
    """Apply a matrix `(m, n)` along one axis, of length n, of an array."""
    return _tensordot(matrix, values, ([1], [axis])).movedim(0, axis)


class KroneckerSum:
    """The operator V -> Σ_j A_j V (along axis j) + shift V on a tensor grid, and its inverse.

    Axes are diagonalised, or brought to Schur form where eigenvectors are ill-conditioned
    (Bartels & Stewart, 1972). A matrix that is symmetric under reversal of its rows and
    columns, as derivatives on uniform grids are, falls into two halves first.

    Args:
        matrices: A_j, shape `(n_j, n_j)`.
        shift: a number.

    Attributes:
        spectrum: Σ_j λ_j + shift for every combination of eigenvalues.
        condition: the largest condition number (Frobenius) of the eigenvectors used.
    """

    def __init__(self, matrices: Sequence[Tensor], shift: float = 0.0) -> None:
        self.matrices, self.shift = list(matrices), float(shift)
        factors: dict[int, _Factor] = {}  # axes often share one matrix
        for matrix in self.matrices:
            if id(matrix) not in factors:
                factors[id(matrix)] = _Factor(matrix)
        self._factors = [factors[id(matrix)] for matrix in self.matrices]
        if any(f.eigenvalues.is_complex() for f in self._factors):
            for factor in factors.values():
                factor.to_complex()
        self.condition = max(f.condition for f in self._factors)
        spectrum = torch.full((), self.shift, dtype=self._factors[0].eigenvalues.dtype)
        size = torch.full((), abs(self.shift), dtype=torch.float64)
        for factor in self._factors:
            spectrum = spectrum[..., None] + factor.eigenvalues
            size = size[..., None] + factor.eigenvalues.abs()
        self.spectrum = spectrum
        self._size = size

    @property
    def log_abs_det(self) -> float:
        """Log |det|."""
        return float(self.spectrum.abs().log().sum())

    @property
    def min_abs_eig(self) -> float:
        """The smallest |eigenvalue|."""
        return float(self.spectrum.abs().min())

    @property
    def cancellation(self) -> float:
        """Smallest |Σ_j λ_j + shift| / (Σ_j |λ_j| + |shift|); near zero at a resonance."""
        return float((self.spectrum.abs() / self._size).min())

    def apply(self, values: Tensor) -> Tensor:
        """The operator itself."""
        total = self.shift * values
        for axis, matrix in enumerate(self.matrices):
            total = total + mode_product(matrix, values, axis)
        return total

    def solve(self, values: Tensor, refinements: int = 2) -> Tensor:
        """Its inverse, with passes of iterative refinement."""
        found = self._solve_once(values)
        for _ in range(refinements):
            found = found + self._solve_once(values - self.apply(found))
        return found

    def _solve_once(self, values: Tensor) -> Tensor:
        x = values.to(self.spectrum.dtype)
        for axis, factor in enumerate(self._factors):
            x = mode_product(factor.inverse_vectors, x, axis)
        triangular = [j for j, f in enumerate(self._factors) if f.triangle is not None]
        if not triangular:
            x = x / self.spectrum
        else:
            diagonal = [j for j in range(x.ndim) if j not in triangular]
            order = [*diagonal, *triangular]
            shift = torch.full((1,), self.shift, dtype=x.dtype)
            for j in diagonal:
                shift = (shift[:, None] + self._factors[j].eigenvalues).reshape(-1)
            moved = x.permute(order)
            flat = moved.reshape(len(shift), *moved.shape[len(diagonal) :])
            triangles = [t for f in self._factors if (t := f.triangle) is not None]
            solved = _back_substitute(triangles, shift, flat).reshape(moved.shape)
            x = solved.permute([order.index(j) for j in range(x.ndim)])
        for axis, factor in enumerate(self._factors):
            x = mode_product(factor.vectors, x, axis)
        return x.real if x.is_complex() else x


class _Factor:
    """P Λ P⁻¹ of a matrix, or Z T Zᴴ where P is ill-conditioned; real where it can be."""

    def __init__(self, matrix: Tensor) -> None:
        self.triangle: Tensor | None = None
        eigenvalues, vectors = _eigen(matrix)
        # LAPACK normalises eigenvectors; a defective matrix makes them singular.
        inverse, info = torch.linalg.inv_ex(vectors)
        condition = float(torch.linalg.norm(vectors) * torch.linalg.norm(inverse))
        if int(info) or not condition < _MAX_CONDITION:
            t, z, *_ = scipy.linalg.schur(matrix.numpy(), output="complex")
            self.triangle = torch.from_numpy(t)
            eigenvalues, vectors = self.triangle.diagonal(), torch.from_numpy(z)
            inverse, condition = vectors.mH.contiguous(), math.sqrt(len(t))
        self.eigenvalues, self.vectors, self.inverse_vectors = eigenvalues, vectors, inverse
        self.condition = condition

    def to_complex(self) -> None:
        """Complex numbers throughout, to go with those of another axis."""
        self.eigenvalues, self.vectors, self.inverse_vectors = (
            t.to(torch.complex128)
            for t in (self.eigenvalues, self.vectors, self.inverse_vectors)
        )


def _eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    mirrored = matrix.flip(0, 1)
    if float((matrix - mirrored).abs().max()) > 1e-6 * float(matrix.abs().max()):
        values, vectors = torch.linalg.eig(matrix)
    else:
        # In the basis of even and odd vectors the matrix has two blocks of half its size. What
        # symmetrising changes is made good by the refinement of `KroneckerSum.solve`.
        basis = _parity_basis(len(matrix))
        even = (len(matrix) + 1) // 2
        rotated = basis.mT @ ((matrix + mirrored) / 2) @ basis
        blocks = [torch.linalg.eig(b) for b in (rotated[:even, :even], rotated[even:, even:])]
        values = torch.cat([b[0] for b in blocks])
        vectors = basis.to(values) @ torch.block_diag(*(b[1] for b in blocks))
    if not bool(values.imag.any()):
        values, vectors = values.real.contiguous(), vectors.real.contiguous()
    return values, vectors


def _parity_basis(n: int) -> Tensor:
    """Orthonormal columns: even vectors first, then odd ones."""
    half = n // 2
    identity = torch.eye(half, dtype=torch.float64) / math.sqrt(2)
    middle = torch.zeros(n, n % 2, dtype=torch.float64)
    middle[half : half + n % 2] = 1.0
    gap = torch.zeros(n % 2, half, dtype=torch.float64)
    even = torch.cat([identity, gap, identity.flip(0)])
    odd = torch.cat([identity, gap, -identity.flip(0)])
    return torch.cat([even, middle, odd], dim=1)


def _back_substitute(triangles: Sequence[Tensor], shift: Tensor, values: Tensor) -> Tensor:
    """Solve (T₁ ⊕ T₂ ⊕ ... + shift_b) v_b = r_b for upper triangular T, for all b."""
    if not triangles:
        return values / shift
    triangle, rest = triangles[0], triangles[1:]
    n = len(triangle)
    if not rest and len(shift) * n * n <= _BATCHED_ENTRIES:
        shifted = triangle + shift[:, None, None] * torch.eye(n, dtype=triangle.dtype)
        return torch.linalg.solve_triangular(shifted, values[..., None], upper=True)[..., 0]
    found = torch.zeros_like(values)
    for i in range(n - 1, -1, -1):
        known = _tensordot(found[:, i + 1 :], triangle[i, i + 1 :], ([1], [0]))
        found[:, i] = _back_substitute(rest, shift + triangle[i, i], values[:, i] - known)
    return found
