"""Names of axes, and the attributes that say how draws were made."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np

from inference._version import __version__
from inference.pyro_model import PyroTarget
from inference.targets import Target


def label_axes(
    target: Target,
    draws: Mapping[str, np.ndarray],
    dims: Mapping[str, list[str]] | None,
) -> dict[str, list[str]]:
    """Axis names of every variable: the user's, else Pyro's plates, else `name_dim_i`."""
    plates = target.plates if isinstance(target, PyroTarget) else {}
    found: dict[str, list[str]] = {}
    for name, array in draws.items():
        own = plates.get(name, {})
        axes = [own.get(axis, f"{name}_dim_{axis}") for axis in range(array.ndim - 2)]
        found[name] = [f"{axis}_dim" if axis in draws else axis for axis in axes]
    return {**found, **{name: list(axes) for name, axes in (dims or {}).items()}}


def run_attributes(target: Target, *, method: str, seed: int, started: float) -> dict[str, Any]:
    """Attributes common to every method, JSON-able."""
    return {
        "inference_library": "probnet-bayes",
        "inference_library_version": __version__,
        "method": method,
        "seed": seed,
        "wall_time": time.perf_counter() - started,
        "versions": {name: version(name) for name in ("torch", "pyro-ppl", "numpy")},
        "target": target.describe(),
        "nested_parameters": not isinstance(target, PyroTarget),
    }
