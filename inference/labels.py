"""Names of axes, and the attributes that say how draws were made."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from inference._version import __version__
from inference.model_target import ModelTarget
from inference.targets import Target

Dims = Mapping[str, Sequence[str]]

_LIBRARIES = {
    "torch": ("torch", "pyro-ppl", "numpy"),
    "jax": ("jax", "numpyro", "torch", "numpy"),
}


def label_axes(
    target: Target, position: Tensor, dims: Dims | None, coords: Mapping[str, Any] | None
) -> dict[str, list[str]]:
    """Axis names of every variable: the user's, else Pyro's plates, else `name_dim_i`.

    Args:
        target: whose variables are labelled.
        position: any at which the target can be evaluated, shape (dim,).
        dims: the user's names, by variable.
        coords: the user's coordinates, by dimension.

    Raises:
        ValueError: if `dims` or `coords` do not fit the variables.
    """
    with torch.no_grad():
        shapes = {name: tuple(v.shape) for name, v in target.constrain(position).items()}
    for name, axes in (dims or {}).items():
        if isinstance(axes, str):
            raise TypeError(f"`dims[{name!r}]` must be a list of names; got {axes!r}.")
    found = {name: plate_axes(target, name, len(shapes[name]), shapes) for name in shapes}
    found |= {name: list(axes) for name, axes in (dims or {}).items()}
    check_labels(shapes, found, coords or {})
    return found


def plate_axes(target: Target, name: str, count: int, taken: Collection[str]) -> list[str]:
    """Default names of a variable's `count` axes; none may be the name of a variable."""
    plates = target.plates.get(name, {}) if isinstance(target, ModelTarget) else {}
    axes = [plates.get(axis, f"{name}_dim_{axis}") for axis in range(count)]
    return [f"{axis}_dim" if axis in taken else axis for axis in axes]


def check_labels(
    shapes: Mapping[str, tuple[int, ...]], dims: Dims, coords: Mapping[str, Any]
) -> None:
    """Raise `ValueError` unless `dims` and `coords` fit variables of these shapes."""
    sizes: dict[str, tuple[str, int]] = {}
    for name, axes in dims.items():
        if name not in shapes:
            raise ValueError(f"`dims` names {name!r}, not among {sorted(shapes)}.")
        shape = shapes[name]
        if len(axes) != len(shape):
            raise ValueError(
                f"`dims[{name!r}]` must name {len(shape)} axes (shape {shape}); got {axes}."
            )
        if len(set(axes)) < len(axes) or not {"chain", "draw"}.isdisjoint(axes):
            raise ValueError(
                f"`dims[{name!r}]` must name every axis differently, and none 'chain' or "
                f"'draw'; got {axes}."
            )
        for axis, size in zip(axes, shape, strict=True):
            if axis in shapes:
                raise ValueError(f"dimension {axis!r} of {name!r} is named like a variable.")
            if axis in coords and len(coords[axis]) != size:
                raise ValueError(
                    f"`coords[{axis!r}]` has {len(coords[axis])} entries, but axis {axis!r} of "
                    f"{name!r} has {size}."
                )
            other, known = sizes.setdefault(axis, (name, size))
            if known != size:
                raise ValueError(
                    f"`dims` gives the name {axis!r} to axes of different lengths: {known} in "
                    f"{other!r}, {size} in {name!r}."
                )


def run_attributes(target: Target, *, method: str, seed: int, started: float) -> dict[str, Any]:
    """Attributes common to every method, JSON-able."""
    return {
        "inference_library": "probnet-bayes",
        "inference_library_version": __version__,
        "method": method,
        "seed": seed,
        "wall_time": time.perf_counter() - started,
        "versions": {name: version(name) for name in _LIBRARIES[target.backend]},
        "backend": target.backend,
        "target": target.describe(),
        "nested_parameters": not isinstance(target, ModelTarget),
    }
