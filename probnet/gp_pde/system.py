"""One linear problem on a tensor grid, as tensors: what a solve, its errors and a file need."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from probnet.gp_pde.axis import GridAxis, build_axis
from probnet.gp_pde.discretisation import Discretisation
from probnet.gp_pde.grid import GridOperator
from probnet.gp_pde.prior import AxisPrior
from probnet.linalg import mode_product
from probnet.pde import MultiIndex


@dataclass(frozen=True, eq=False)
class GridSystem:
    """Σ_α a_α ∂^α u = right with data on faces, and the prior on the grid.

    Attributes:
        nodes: per axis.
        prior: per axis.
        nugget: ε.
        orders: per axis the orders of the derivatives given at its lower and upper face.
        coefficients: a_α on the grid.
        right: on the grid.
        faces: per axis its conditions stacked along that axis.
    """

    nodes: tuple[Tensor, ...]
    prior: tuple[AxisPrior, ...]
    nugget: float
    orders: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    coefficients: Mapping[MultiIndex, Tensor]
    right: Tensor
    faces: tuple[Tensor | None, ...]

    @cached_property
    def axes(self) -> list[GridAxis]:
        """The grid's axes; equal ones are one object, factorised once."""
        found: list[GridAxis] = []
        for j, (nodes, prior, orders) in enumerate(
            zip(self.nodes, self.prior, self.orders, strict=True)
        ):
            twins = (
                found[k]
                for k in range(j)
                if self.prior[k] is prior
                and self.orders[k] == orders
                and torch.equal(self.nodes[k], nodes)
            )
            found.append(next(twins, None) or build_axis(nodes, prior, self.nugget, *orders))
        return found

    @cached_property
    def operator(self) -> GridOperator:
        """The operator, factorised."""
        return GridOperator(self.axes, self.coefficients)

    def solve(self) -> Tensor:
        """U on the grid."""
        return self.operator.solve(self.right, self.faces)

    def subset(self, keep: Sequence[Tensor]) -> GridSystem:
        """The same problem on some of the nodes.

        Args:
            keep: per axis the numbers of the nodes.
        """
        return replace(
            self,
            nodes=tuple(n[k] for n, k in zip(self.nodes, keep, strict=True)),
            coefficients={a: _subgrid(c, keep) for a, c in self.coefficients.items()},
            right=_subgrid(self.right, keep),
            faces=tuple(
                None if f is None else _subgrid(f, [*keep[:j], None, *keep[j + 1 :]])
                for j, f in enumerate(self.faces)
            ),
        )

    def with_slope(self, slope: Tensor, right: Tensor) -> GridSystem:
        """The operator plus `slope` * u, and another right-hand side."""
        if not bool(slope.any()):
            changed = replace(self, right=right)
            for name in ("axes", "operator"):  # unchanged: keep what is factorised
                if name in self.__dict__:
                    changed.__dict__[name] = self.__dict__[name]
            return changed
        zero = (0,) * len(self.nodes)
        coefficients = dict(self.coefficients)
        coefficients[zero] = coefficients.get(zero, torch.zeros_like(slope)) + slope
        changed = replace(self, coefficients=coefficients, right=right)
        changed.__dict__["axes"] = self.axes
        return changed


def grid_system(
    problem: Discretisation, prior: Sequence[AxisPrior], nugget: float
) -> GridSystem:
    """The linear part of a problem as a system."""
    orders = tuple(
        tuple(tuple(problem.face_orders(axis, upper=upper)) for upper in (False, True))
        for axis in range(problem.pde.dim)
    )
    return GridSystem(
        problem.nodes,
        tuple(prior),
        nugget,
        orders,  # pyright: ignore[reportArgumentType] - two faces each
        problem.coefficients,
        problem.source,
        tuple(problem.face_tensors()),
    )


def interpolate(
    axes: Sequence[GridAxis], fields: Tensor, x: Tensor, order: MultiIndex | None = None
) -> Tensor:
    """∂^order of the conditional mean of fields `(s, *grid)` at points `(n, d)`: `(s, n)`.

    Points that lie on a tensor grid of their own are evaluated there at the cost of its axes.
    """
    orders = order or (0,) * len(axes)
    distinct = [torch.unique(column, return_inverse=True) for column in x.unbind(1)]
    total = 1
    for values, _ in distinct:
        total *= len(values)
    columns = [values for values, _ in distinct] if total <= 4 * len(x) else list(x.unbind(1))
    weights = [
        axis.factor.solve(axis.interpolation(column, p).mT.contiguous()).mT
        for axis, column, p in zip(axes, columns, orders, strict=True)
    ]
    if total <= 4 * len(x):
        for j, weight in enumerate(weights):
            fields = mode_product(weight.contiguous(), fields, j + 1)
        index = tuple(inverse for _, inverse in distinct)
        return fields[(slice(None), *index)]
    return torch.cat(
        [_scattered(fields, [w[piece] for w in weights]) for piece in _chunks(len(x), fields)],
        dim=1,
    )


def _scattered(fields: Tensor, weights: Sequence[Tensor]) -> Tensor:
    n, s = len(weights[0]), len(fields)
    found = mode_product(weights[0].contiguous(), fields, 1)  # (s, n, M₂, ...)
    for weight in weights[1:]:
        flat = found.reshape(s, n, weight.shape[1], -1)
        found = torch.einsum("snmr,nm->snr", flat, weight)
    return found.reshape(s, n)


def _chunks(n: int, fields: Tensor) -> list[slice]:
    size = max(1, 4_000_000 * fields.shape[1] // fields.numel())
    ends = [*range(0, n, size), n]
    return [slice(a, b) for a, b in itertools.pairwise(ends)]


def _subgrid(values: Tensor, keep: Sequence[Tensor | None]) -> Tensor:
    for axis, index in enumerate(keep):
        if index is not None:
            values = values.index_select(axis, index)
    return values
