"""The equation and its conditions on a tensor grid: values, rows, and what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probnet.gp_pde.axis import grid_nodes
from probnet.gp_pde.rows import Rows
from probnet.pde import PDE, Condition, MultiIndex, Observations
from probnet.pde.conditions import FaceData, face_points, face_values, resolve
from probnet.pde.functions import mesh

MIN_NODES = 8
_CORNER_TOLERANCE = 1e-8


@dataclass(frozen=True, eq=False)
class Face:
    """One condition on one face, evaluated.

    Attributes:
        data: which face, order and noise.
        values: on the nodes of the face: the grid's shape without the face's axis.
    """

    data: FaceData
    values: Tensor


@dataclass(frozen=True, eq=False)
class Discretisation:
    """An equation on a grid.

    Attributes:
        pde: the equation.
        nodes: per axis.
        periodic: numbers of the periodic axes.
        coefficients: a_α on the grid; zero terms left out.
        source: f on the grid.
        faces: conditions on faces.
        observations: values inside, if any.
    """

    pde: PDE
    nodes: tuple[Tensor, ...]
    periodic: frozenset[int]
    coefficients: Mapping[MultiIndex, Tensor]
    source: Tensor
    faces: tuple[Face, ...]
    observations: Observations | None = None

    @property
    def lengths(self) -> list[float]:
        """Length of every axis."""
        return [high - low for low, high in self.pde.domain]

    @property
    def spacings(self) -> list[float]:
        """Distance of the nodes of every axis."""
        return [float(nodes[1] - nodes[0]) for nodes in self.nodes]

    @property
    def shape(self) -> tuple[int, ...]:
        """Nodes per axis."""
        return tuple(len(nodes) for nodes in self.nodes)

    @property
    def noisy(self) -> bool:
        """Whether any of the data has noise."""
        noises = [self.pde.source_noise_sd, *(face.data.noise_sd for face in self.faces)]
        return self.observations is not None or any(noise > 0 for noise in noises)

    def period(self, axis: int) -> float | None:
        """The period of an axis, if it has one."""
        return self.lengths[axis] if axis in self.periodic else None

    def face_orders(self, axis: int, *, upper: bool) -> list[int]:
        """Orders of the derivatives given at one face, ascending."""
        return sorted(
            face.data.order
            for face in self.faces
            if (face.data.axis, face.data.upper) == (axis, upper)
        )

    def face_tensors(self) -> list[Tensor | None]:
        """Per axis its conditions stacked along that axis: lower faces first, by order."""
        found: list[Tensor | None] = []
        for axis in range(self.pde.dim):
            mine = sorted(
                (face for face in self.faces if face.data.axis == axis),
                key=lambda face: (face.data.upper, face.data.order),
            )
            values = [face.values for face in mine]
            found.append(torch.stack(values, dim=axis) if values else None)
        return found

    def rows(self, slope: Tensor, right: Tensor) -> Rows:
        """Everything that is known about u, for the operator plus `slope` * u = `right`.

        Equation rows come first, one per node, in the order of the flattened grid.
        """
        dim, zero = self.pde.dim, (0,) * self.pde.dim
        coefficients = dict(self.coefficients)
        coefficients[zero] = coefficients.get(zero, torch.zeros_like(slope)) + slope
        noise = torch.full((right.numel(),), self.pde.source_noise_sd**2, dtype=torch.float64)
        parts = [
            Rows(
                torch.cartesian_prod(*self.nodes).reshape(-1, dim),
                {order: a.reshape(-1) for order, a in coefficients.items()},
                right.reshape(-1),
                noise,
            )
        ]
        seen: set[tuple[float, ...]] = set()
        for face in self.faces:
            order = tuple(face.data.order * int(j == face.data.axis) for j in range(dim))
            x = face_points(face.data, self.nodes)
            new = torch.ones(len(x), dtype=torch.bool)
            if not any(order):  # a corner belongs to several faces, and is one value
                keys = [tuple(point) for point in x.tolist()]
                new = torch.tensor([key not in seen for key in keys])
                seen.update(keys)
            values = face.values.reshape(-1)[new]
            variance = torch.full_like(values, face.data.noise_sd**2)
            parts.append(Rows(x[new], {order: torch.ones_like(values)}, values, variance))
        if self.observations is not None:
            data = self.observations
            x, y = torch.as_tensor(data.x), torch.as_tensor(data.y)
            variance = torch.full_like(y, float(data.noise_sd) ** 2)  # pyright: ignore[reportArgumentType] - a number outside method="nuts"
            parts.append(Rows(x, {zero: torch.ones_like(y)}, y, variance))
        return Rows.concatenate(parts)


def discretise(
    pde: PDE,
    conditions: Condition | Sequence[Condition],
    grid: Sequence[int],
    observations: Observations | None = None,
    unknown: Mapping[str, Tensor] | None = None,
) -> Discretisation:
    """Evaluate an equation and its conditions on a uniform grid.

    Args:
        pde: the equation.
        conditions: on its faces.
        grid: nodes per axis.
        observations: values inside.
        unknown: values of the equation's `Unknown`s.

    Raises:
        ValueError: on what cannot be solved: too few nodes, arrays of another shape, NaN,
            contradictory corners, points outside the box, no condition that fixes u.
    """
    if len(grid) != pde.dim:
        raise ValueError(
            f"`grid` must have {pde.dim} entries, one per axis of the domain; got "
            f"{tuple(grid)}."
        )
    if min(grid) < MIN_NODES:
        raise ValueError(f"`grid` must have at least {MIN_NODES} nodes per axis; got {grid}.")
    faces, periodic = resolve(conditions, pde.axis_names)
    nodes = tuple(
        grid_nodes(low, high, count, periodic=axis in periodic)
        for axis, ((low, high), count) in enumerate(zip(pde.domain, grid, strict=True))
    )
    points = mesh(nodes)
    evaluated = tuple(Face(face, face_values(face, nodes)) for face in faces)
    found = Discretisation(
        pde,
        nodes,
        frozenset(periodic),
        pde.coefficients(points, unknown),
        pde.source_values(points, unknown),
        evaluated,
        observations,
    )
    if not any(sum(order) for order in found.coefficients):
        raise ValueError("`terms` vanish on the grid but for u itself: nothing to solve.")
    _check_corners(found)
    _check_fixed(found)
    if observations is not None:
        if not isinstance(observations.noise_sd, (int, float)):
            raise ValueError(
                "`observations.noise_sd` may be a prior only where unknowns of the equation "
                "are inferred; give a number."
            )
        _check_inside(torch.as_tensor(observations.x), pde)
    return found


def check_square(problem: Discretisation) -> None:
    """Raise unless every axis has as many conditions as derivatives: no more, no fewer."""
    for axis, name in enumerate(problem.pde.axis_names):
        order = max(alpha[axis] for alpha in problem.coefficients)
        ends = [len(problem.face_orders(axis, upper=upper)) for upper in (False, True)]
        given = sum(ends)
        if max(ends) > 1:
            raise ValueError(
                f"`conditions` give two values at one end of axis {name!r}: on grids each face "
                f"takes one. Equations of second order in time are not supported there."
            )
        if axis not in problem.periodic and given != order:
            what = "more" if given < order else "fewer"
            raise ValueError(
                f"`conditions` must number {order} on axis {name!r}, along which the equation "
                f"has order {order}; got {given}. Give {what}: one per face for order 2, the "
                f"inflow or initial face alone for order 1 (Dirichlet(..., faces=[...]), "
                f"Inflow or Initial)."
            )


def _check_corners(problem: Discretisation) -> None:
    """Two exact values at one place must be the same."""
    plain = [f for f in problem.faces if f.data.order == 0 and f.data.noise_sd == 0]
    scale = max((float(f.values.abs().max()) for f in plain), default=0.0)
    for first, second in itertools.combinations(plain, 2):
        if first.data.axis == second.data.axis:
            continue
        a, b = (_at_face(f, other) for f, other in ((first, second), (second, first)))
        gap = float((a - b).abs().max())
        if gap > _CORNER_TOLERANCE * scale:
            raise ValueError(
                f"`conditions` contradict each other where faces meet: {first.data.label} and "
                f"{second.data.label} differ by {gap:.3g}. Give noise_sd, or make them agree."
            )


def _at_face(face: Face, other: Face) -> Tensor:
    axis = other.data.axis - int(other.data.axis > face.data.axis)
    return face.values.select(axis, -1 if other.data.upper else 0)


def _check_fixed(problem: Discretisation) -> None:
    constant_matters = (
        (0,) * problem.pde.dim in problem.coefficients
        or problem.pde.nonlinearity is not None
        or problem.observations is not None
        or any(face.data.order == 0 for face in problem.faces)
    )
    if not constant_matters:
        raise ValueError(
            "`conditions` leave u undetermined up to a constant: the equation has no term in u "
            "and no face gives its value. Add a Dirichlet face or an observation."
        )


def _check_inside(x: Tensor, pde: PDE) -> None:
    if x.shape[1] != pde.dim:
        raise ValueError(
            f"`observations.x` must have {pde.dim} columns, one per axis; got {x.shape[1]}."
        )
    low, high = (
        torch.tensor(ends, dtype=torch.float64) for ends in zip(*pde.domain, strict=True)
    )
    slack = 1e-9 * (high - low)
    outside = ((x < low - slack) | (x > high + slack)).any(1)
    if bool(outside.any()):
        raise ValueError(
            f"`observations.x` must lie in the domain {pde.domain}; {int(outside.sum())} of "
            f"{len(x)} points do not (first: row {int(outside.nonzero()[0])})."
        )
