"""What is known about u besides the equation: on the faces of the box and inside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from inference._checks import check_finite, check_nonnegative, check_positive
from probnet._checks import Values, as_tensor, check_matrix, check_shape
from probnet.pde.functions import Function, mesh, values_at, warn_of_single_precision


@dataclass(frozen=True, eq=False)
class Condition:
    """Values of u, or of a derivative of it, on faces of the box."""


@dataclass(frozen=True, eq=False)
class Dirichlet(Condition):
    """u = g on faces.

    Args:
        value: g: a number, a function of all coordinates, an array over the whole grid (of
            which the faces are used) or, for a single face, over the grid of that face.
        faces: `"all"` or names such as `"x_min"` and `"y_max"`.
        noise_sd: standard deviation of the noise of g; 0 if it is exact.
    """

    value: Function
    faces: str | Sequence[str] = "all"
    noise_sd: float = 0.0
    normal_order: ClassVar[int] = 0

    def __post_init__(self) -> None:
        """Check the noise; faces are checked against the equation."""
        check_nonnegative("noise_sd", self.noise_sd)


@dataclass(frozen=True, eq=False)
class Neumann(Dirichlet):
    """∂u/∂n = g on faces, with the normal n pointing outwards; arguments as for `Dirichlet`."""

    normal_order: ClassVar[int] = 1


@dataclass(frozen=True, eq=False)
class Inflow(Dirichlet):
    """u = g where a flow enters the box; name the faces. Arguments as for `Dirichlet`."""

    def __post_init__(self) -> None:
        """Check that faces are named."""
        super().__post_init__()
        if self.faces == "all":
            raise ValueError(
                "`faces` of Inflow must name the faces where the flow enters, such as "
                "['x_min']; on the others the equation needs no data."
            )


@dataclass(frozen=True, eq=False)
class Periodic(Condition):
    """u and its derivatives agree on opposite faces.

    Args:
        axes: `"all"` or names of axes.
    """

    axes: str | Sequence[str] = "all"


@dataclass(frozen=True, eq=False)
class Initial(Condition):
    """u = u₀ at the start of a time axis, along which the equation is of first order.

    Args:
        value: u₀, as for `Dirichlet`.
        axis: name of the time axis; the last one by default.
        noise_sd: standard deviation of the noise of u₀.
    """

    value: Function
    axis: str | None = None
    noise_sd: float = 0.0

    def __post_init__(self) -> None:
        """Check the noise."""
        check_nonnegative("noise_sd", self.noise_sd)


@dataclass(frozen=True, eq=False)
class Observations:
    """Noisy values of u at points inside the box.

    Args:
        x: points, shape `(n, d)`.
        y: values, shape `(n,)`.
        noise_sd: standard deviation of their noise; a prior makes it a parameter of
            `method="nuts"`.
    """

    x: Values
    y: Values
    noise_sd: float | Distribution

    def __post_init__(self) -> None:
        """Check the data."""
        for name in ("x", "y"):
            warn_of_single_precision(name, getattr(self, name))
        x = check_finite("x", check_matrix("x", self.x))
        y = check_finite("y", as_tensor("y", self.y))
        check_shape("y", y.shape, x.shape[:1], "one value per row of `x`")
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "y", y)
        if not isinstance(self.noise_sd, Distribution):
            check_positive("noise_sd", self.noise_sd)


@dataclass(frozen=True)
class FaceData:
    """One condition on one face, as solvers take it.

    Attributes:
        axis: number of the axis that the face is normal to.
        upper: whether it is the upper of the two.
        order: 0 for u, 1 for the derivative along the axis (not along the outward normal).
        function: its value.
        sign: by which `function` must be multiplied.
        noise_sd: of the values.
        label: for messages.
    """

    axis: int
    upper: bool
    order: int
    function: Function
    sign: float
    noise_sd: float
    label: str


def resolve(
    conditions: Condition | Sequence[Condition], axis_names: Sequence[str]
) -> tuple[list[FaceData], set[int]]:
    """Conditions face by face, and the numbers of the periodic axes.

    Raises:
        TypeError: on something that is not a condition.
        ValueError: on an unknown face or axis, or two conditions of one kind on a face.
    """
    given = [conditions] if isinstance(conditions, Condition) else list(conditions)
    faces: list[FaceData] = []
    periodic: set[int] = set()
    for entry in given:
        if isinstance(entry, Periodic):
            names = axis_names if entry.axes == "all" else _names(entry.axes)
            periodic |= {_axis_number("axes", name, axis_names) for name in names}
        elif isinstance(entry, Initial):
            faces.append(_initial(entry, axis_names))
    for entry in given:
        if isinstance(entry, Dirichlet):
            faces += _on_faces(entry, axis_names, periodic, faces)
        elif not isinstance(entry, (Periodic, Initial)):
            raise TypeError(
                "`conditions` must be Dirichlet, Neumann, Inflow, Initial or Periodic objects "
                f"of probnet.pde; got {entry!r}."
            )
    seen: set[tuple[int, bool, int]] = set()
    for face in faces:
        key = (face.axis, face.upper, face.order)
        if key in seen or face.axis in periodic:
            raise ValueError(
                f"`conditions` say twice what happens at {face.label}; keep one of them."
            )
        seen.add(key)
    return faces, periodic


def _on_faces(
    entry: Dirichlet, axis_names: Sequence[str], periodic: set[int], known: list[FaceData]
) -> list[FaceData]:
    kind = type(entry).__name__
    if entry.faces == "all":  # the faces that no condition with a name has claimed
        claimed = {(face.axis, face.upper) for face in known}
        started = {face.axis for face in known if face.label.startswith("Initial")}
        chosen = [
            (axis, upper)
            for axis in range(len(axis_names))
            for upper in (False, True)
            if axis not in periodic | started and (axis, upper) not in claimed
        ]
    else:
        chosen = [_face(name, axis_names) for name in _names(entry.faces)]
    return [
        FaceData(
            axis,
            upper,
            entry.normal_order,
            entry.value,
            -1.0 if entry.normal_order and not upper else 1.0,
            entry.noise_sd,
            f"{kind} at {axis_names[axis]}_{'max' if upper else 'min'}",
        )
        for axis, upper in chosen
    ]


def _initial(entry: Initial, axis_names: Sequence[str]) -> FaceData:
    axis = _axis_number("axis", entry.axis or axis_names[-1], axis_names)
    label = f"Initial at {axis_names[axis]}_min"
    return FaceData(axis, False, 0, entry.value, 1.0, entry.noise_sd, label)


def _names(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _face(name: str, axis_names: Sequence[str]) -> tuple[int, bool]:
    for axis, axis_name in enumerate(axis_names):
        for upper, end in ((False, "min"), (True, "max")):
            if name == f"{axis_name}_{end}":
                return axis, upper
    known = [f"{axis_name}_{end}" for axis_name in axis_names for end in ("min", "max")]
    raise ValueError(f"`faces` must be 'all' or names among {known}; got {name!r}.")


def _axis_number(argument: str, name: Any, axis_names: Sequence[str]) -> int:
    if name not in axis_names:
        raise ValueError(f"`{argument}` must name axes among {list(axis_names)}; got {name!r}.")
    return list(axis_names).index(name)


def face_values(face: FaceData, grid: Sequence[Tensor]) -> Tensor:
    """The data of a face on its nodes: the grid's shape without the face's axis.

    Args:
        face: which.
        grid: nodes of every axis.

    Raises:
        ValueError: on an array that fits neither the grid nor the face.
    """
    whole = tuple(len(axis) for axis in grid)
    node = whole[face.axis] - 1 if face.upper else 0
    points = mesh([axis[[node]] if j == face.axis else axis for j, axis in enumerate(grid)])
    if callable(face.function):
        return face.sign * values_at(face.label, face.function, points).squeeze(face.axis)
    warn_of_single_precision(face.label, face.function)
    array = as_tensor(face.label, face.function)
    if tuple(array.shape) == whole:
        array = array.select(face.axis, node)
    on_face = [c.squeeze(face.axis) for c in points]
    return face.sign * values_at(face.label, array, on_face)


def face_points(face: FaceData, grid: Sequence[Tensor]) -> Tensor:
    """Coordinates of the face's nodes, shape `(n, d)`, ordered as `face_values` flattened."""
    node = -1 if face.upper else 0
    axes = [axis[[node]] if j == face.axis else axis for j, axis in enumerate(grid)]
    return torch.cartesian_prod(*axes).reshape(-1, len(grid))
