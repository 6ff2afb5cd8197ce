"""Draws as an xarray tree in the ArviZ schema, and netCDF files of it."""
# pyright: basic
# xarray is only partly typed.

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray

SAMPLE_DIMS = ("chain", "draw")
_LEADING: dict[str, tuple[str, ...]] = {
    "optimization": ("step",),
    "observed_data": (),
    "constant_data": (),
    "predictions_constant_data": (),
    "ranks": ("replication",),
    "p_values": ("test",),
    "coverage": ("level",),
    "moments": ("moment",),
}
_JSON_PREFIX = "json:"


def leading_dims(group: str) -> tuple[str, ...]:
    """The dimensions that every variable of a group starts with."""
    return _LEADING.get(group, SAMPLE_DIMS)


def build_datatree(
    groups: Mapping[str, Mapping[str, np.ndarray]],
    *,
    coords: Mapping[str, Any],
    dims: Mapping[str, list[str]],
    attrs: Mapping[str, Any],
) -> xarray.DataTree:
    """An `xarray.DataTree` with one dataset a group.

    A slash in a name, which netCDF reserves, becomes a dot.

    Args:
        groups: group name to variables.
        coords: dimension name to its coordinates; numbers where absent or of another length.
        dims: variable name to the names of its axes after the sample dimensions.
        attrs: attributes of the root and of every group.

    Raises:
        ValueError: if an array lacks its group's leading dimensions.
    """
    import xarray

    shared = {"created_at": datetime.now(UTC).isoformat(), **_encode(attrs)}
    datasets = {}
    for group, variables in groups.items():
        leading = leading_dims(group)
        arrays = {}
        for name, values in variables.items():
            count = values.ndim - len(leading)
            if count < 0:
                raise ValueError(
                    f"{name!r} in group {group!r} must start with the axes {leading}; its "
                    f"shape is {values.shape}."
                )
            names = (*leading, *_axis_names(name, count, dims.get(name, [])))
            own = {
                d.replace("/", "."): coords[d] if len(coords.get(d, ())) == n else np.arange(n)
                for d, n in zip(names, values.shape, strict=True)
            }
            arrays[name.replace("/", ".")] = xarray.DataArray(
                values, dims=list(own), coords=own
            )
        datasets[f"/{group}"] = xarray.Dataset(arrays, attrs=shared)
    return xarray.DataTree.from_dict({"/": xarray.Dataset(attrs=shared), **datasets})


def to_arviz(tree: xarray.DataTree) -> Any:
    """What the installed ArviZ works on: `InferenceData` before 1.0, the tree itself after."""
    import arviz

    if int(arviz.__version__.split(".")[0]) >= 1:
        return tree
    datasets: Any = {name: node.to_dataset() for name, node in tree.children.items()}
    return arviz.InferenceData(attrs=dict(tree.attrs), **datasets)


def write_netcdf(tree: xarray.DataTree, path: str | os.PathLike[str]) -> Path:
    """Write uncompressed netCDF-4, under a temporary name first.

    Draws hardly compress: 7 % of space would cost eight times the time.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"no folder {os.fspath(target.parent)!r} to write draws to.")
    partial = target.with_name(f".{target.name}.partial")
    try:
        tree.to_netcdf(partial, engine="h5netcdf")
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def read_netcdf(
    path: str | os.PathLike[str],
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Groups of `(values, dims, coords)` by variable, and the decoded root attributes.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a netCDF file with a posterior group.
    """
    import xarray

    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {os.fspath(path)!r} to load draws from.")
    try:
        tree = xarray.load_datatree(path, engine="h5netcdf")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{os.fspath(path)!r} is not a readable netCDF file: {error}"
        ) from error
    if "posterior" not in tree.children:
        raise ValueError(
            f"{os.fspath(path)!r} has no group 'posterior'; it holds {sorted(tree.children)}."
        )
    groups = {
        group: {
            str(name): (
                variable.values,
                [str(d) for d in variable.dims],
                {str(d): c.values for d, c in variable.coords.items()},
            )
            for name, variable in node.to_dataset().data_vars.items()
        }
        for group, node in tree.children.items()
    }
    return groups, _decode(tree.attrs)


def _axis_names(name: str, count: int, given: list[str]) -> list[str]:
    """The given names, as far as they go: a log-likelihood has no event axes."""
    default = [f"{name}_dim_{axis}" for axis in range(count)]
    return [*given[:count], *default[len(given) :]]


def _encode(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes netCDF can hold: everything but text and numbers becomes JSON text."""
    return {
        key: value if _is_plain(value) else _JSON_PREFIX + _json(value)
        for key, value in attrs.items()
    }


def _json(value: Any) -> str:
    """JSON text; numbers of NumPy and torch count as numbers, what has no form as its name."""
    return json.dumps(
        value, sort_keys=True, default=lambda v: v.item() if hasattr(v, "item") else str(v)
    )


def _is_plain(value: Any) -> bool:
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 1 << 63
    return isinstance(value, (str, float))


def _decode(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in attrs.items():
        if isinstance(value, str) and value.startswith(_JSON_PREFIX):
            found[str(key)] = json.loads(value.removeprefix(_JSON_PREFIX))
        else:
            found[str(key)] = value.item() if isinstance(value, np.generic) else value
    return found
