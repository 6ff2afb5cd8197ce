"""The equation on a tensor grid: one Sylvester solve (d = 2), or its analogue in d = 1, 3.

With exact data the stationary point of the objective of Fang et al. (ICLR 2024) solves
Σ_α a_α ⊗_j D_j^(α_j) u = f on the nodes where the equation holds, the faces eliminated. The
separable part of the operator, Σ_j A_j along axis j, is inverted by `KroneckerSum`; the rest,
if any, by GMRES preconditioned with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, gmres
from torch import Tensor

from probnet.gp_pde.axis import GridAxis
from probnet.linalg import KroneckerSum, mode_product
from probnet.pde import MultiIndex

_TARGET = 1e-12  # relative residual of the linear system
_ACCEPTABLE = 1e-8
_GMRES_RTOL, _GMRES_RESTART, _OUTER = 1e-6, 60, 8


class GridOperator:
    """A linear operator on a grid with eliminated faces, factorised once.

    Args:
        axes: of the grid.
        coefficients: a_α on the grid, by multi-index.

    Attributes:
        separable: the part that is inverted directly.
        exact: whether that part is the whole operator.
        num_iterations: GMRES iterations so far.
        unsolved: the largest relative residual at which a solve gave up; 0 if none did.
    """

    def __init__(
        self, axes: Sequence[GridAxis], coefficients: Mapping[MultiIndex, Tensor]
    ) -> None:
        self.axes, self.coefficients = list(axes), dict(coefficients)
        self.num_iterations, self.unsolved = 0, 0.0
        matrices, shift, self.exact = self._split()
        self.separable = KroneckerSum(matrices, shift)

    def apply(self, u: Tensor) -> Tensor:
        """Σ_α a_α ∂^α u at every node."""
        total = torch.zeros_like(u)
        for alpha, coefficient in self.coefficients.items():
            term = u
            for axis, order in enumerate(alpha):
                if order:
                    term = mode_product(self.axes[axis].derivatives[order], term, axis)
            total = total + coefficient * term
        return total

    def extend(self, v: Tensor, faces: Sequence[Tensor | None]) -> Tensor:
        """Values at every node from those at kept nodes and the data of the faces.

        Args:
            v: shape of the kept grid.
            faces: per axis its data, the grid's shape with that axis replaced by its
                conditions; `None` for zero.
        """
        for j in range(len(self.axes) - 1, -1, -1):
            axis = self.axes[j]
            v = mode_product(axis.extension, v, j)
            data = faces[j]
            if data is not None:
                for k in range(j):
                    data = data.index_select(k, self.axes[k].kept)
                v = v + mode_product(axis.lift, data, j)
        return v

    def restrict(self, u: Tensor) -> Tensor:
        """Values at the kept nodes."""
        for j, axis in enumerate(self.axes):
            u = u.index_select(j, axis.kept)
        return u

    def solve(
        self, source: Tensor, faces: Sequence[Tensor | None], *, target: float = _TARGET
    ) -> Tensor:
        """U on the grid with L u = source at kept nodes and the data of the faces.

        Args:
            source: on the grid.
            faces: as for `extend`.
            target: relative residual to reach.
        """
        kept_shape = [len(axis.kept) for axis in self.axes]
        u = self.extend(torch.zeros(kept_shape, dtype=torch.float64), faces)
        none = [None] * len(self.axes)
        scale = float(torch.linalg.norm(self.restrict(source))) + float(
            torch.linalg.norm(self.restrict(self.apply(u)))
        )
        if scale == 0:
            return u
        best, reached = u, math.inf
        for _ in range(_OUTER):
            residual = self.restrict(source - self.apply(u))
            size = float(torch.linalg.norm(residual)) / scale
            if not size < reached:
                break
            slow, best, reached = size > 0.5 * reached, u, size
            if size < target or slow:
                break
            u = u + self.extend(self._correct(residual, max(target, _GMRES_RTOL)), none)
        if reached > max(_ACCEPTABLE, target):
            self.unsolved = max(self.unsolved, reached)
        return best

    def _correct(self, residual: Tensor, rtol: float) -> Tensor:
        if self.exact:
            return self.separable.solve(residual, refinements=1)
        shape, none = residual.shape, [None] * len(self.axes)

        def precondition(y: Tensor) -> Tensor:
            return self.separable.solve(y, refinements=0)

        def matvec(flat: NDArray[np.float64]) -> NDArray[np.float64]:
            y = precondition(torch.from_numpy(flat.copy()).reshape(shape))
            return self.restrict(self.apply(self.extend(y, none))).reshape(-1).numpy()

        def count(_: float) -> None:
            self.num_iterations += 1

        n = residual.numel()
        y, _ = gmres(
            LinearOperator((n, n), matvec=matvec, dtype=float),  # pyright: ignore[reportCallIssue] - a class by its __new__
            residual.reshape(-1).numpy(),
            rtol=rtol,
            restart=_GMRES_RESTART,
            maxiter=5,
            callback=count,
            callback_type="pr_norm",
        )
        return precondition(torch.from_numpy(y).reshape(shape))

    def _split(self) -> tuple[list[Tensor], float, bool]:
        """A_j per axis, the shift, and whether they are the whole operator."""
        dim, exact, shift = len(self.axes), True, 0.0
        weights: list[list[tuple[int, Tensor]]] = [[] for _ in range(dim)]
        for alpha, coefficient in self.coefficients.items():
            along = [axis for axis, order in enumerate(alpha) if order]
            if len(along) > 1:
                exact = False
                continue
            axis = along[0] if along else 0
            others = [k for k in range(dim) if k != axis]
            mean = coefficient.mean(others) if others else coefficient
            shape = [-1 if k == axis else 1 for k in range(dim)]
            size = float(coefficient.abs().max())
            exact &= float((coefficient - mean.reshape(shape)).abs().max()) <= 1e-14 * size
            if not along and float(mean.max() - mean.min()) <= 1e-14 * size:
                shift = float(mean[0])
            else:
                weights[axis].append((alpha[axis], mean))
        matrices: list[Tensor] = []
        known: dict[object, Tensor] = {}
        for axis, terms in zip(self.axes, weights, strict=True):
            key = (id(axis), tuple((order, tuple(w.tolist())) for order, w in terms))
            if key not in known:
                total = torch.zeros(len(axis), len(axis), dtype=torch.float64)
                for order, weight in terms:
                    total = total + weight[:, None] * axis.derivatives[order]
                known[key] = (total @ axis.extension)[axis.kept]
            matrices.append(known[key])
        return matrices, shift, exact


@dataclass(frozen=True)
class GridEvidence:
    """Evidence of a prior on a grid.

    Attributes:
        nll: negative log density of the data, amplitude profiled out.
        amplitude: s², by which the prior variance is multiplied.
    """

    nll: float
    amplitude: float


def grid_evidence(operator: GridOperator, u: Tensor) -> GridEvidence:
    """Evidence of the data whose solution on the grid is u, by the change of variables.

    NLL = ½ M log s² + ½ log|C| + log|det L|, s² = uᵀ C⁻¹ u / M. Where the operator is not
    separable, its determinant is that of the separable part.
    """
    count = u.numel()
    z, half_log_det = u, 0.0
    log_det = operator.separable.log_abs_det
    before = 1
    for j, axis in enumerate(operator.axes):
        flat = z.movedim(j, 0)
        z = axis.factor.half_solve(flat.contiguous()).movedim(0, j)
        half_log_det += 0.5 * count / len(axis) * axis.factor.log_det
        after = math.prod(len(a) for a in operator.axes[j + 1 :])
        log_det += before * after * axis.log_abs_det
        before *= len(axis.kept)
    amplitude = float((z**2).sum()) / count or 1.0  # zero data leave the prior as it is
    nll = 0.5 * count * math.log(amplitude) + half_log_det + log_det
    return GridEvidence(nll, amplitude)
