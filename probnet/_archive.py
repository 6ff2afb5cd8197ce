"""One file for any posterior.

It is an uncompressed ZIP archive of

    posterior.json        format version, family, method, diagnostics, configuration, versions
    tensors.safetensors   arrays by name
    draws.nc              the draws, where there are draws (netCDF in the ArviZ schema)

Nothing in it is executed on reading. A truncated file has lost the archive's directory and
damaged contents fail its checksums, so that neither is ever read as a posterior.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any
from uuid import uuid4
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

import inference
from inference import Draws

_FORMAT_VERSION = 1
_HEADER, _TENSORS, _DRAWS = "posterior.json", "tensors.safetensors", "draws.nc"
_HEADER_KEYS = {
    "config",
    "diagnostics",
    "draws",
    "family",
    "format_version",
    "method",
    "versions",
}
# What the readers of ZIP, JSON, safetensors and netCDF raise on damaged contents.
_UNREADABLE = (
    BadZipFile,
    EOFError,
    KeyError,
    OSError,
    RuntimeError,
    SafetensorError,
    ValueError,
)


@dataclass(frozen=True, eq=False)
class PosteriorState:
    """All that a posterior consists of, in the forms that a file can hold.

    Attributes:
        method: how inference was done.
        diagnostics: JSON-able findings of that inference.
        config: JSON-able settings: architecture, standardisers and likelihood by `to_dict`, ...
            Tuples come back from a file as lists.
        tensors: arrays by name.
        draws: posterior draws; `None` for a closed-form posterior.
    """

    method: str
    diagnostics: Mapping[str, Any]
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    draws: Draws | None = None


def write_posterior(path: str | os.PathLike[str], family: str, state: PosteriorState) -> Path:
    """Write a posterior; it appears under its name when complete, replacing an older one.

    Raises:
        FileNotFoundError: if the folder does not exist.
        TypeError: if the configuration or the diagnostics are not JSON-able.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"`path` is {os.fspath(path)!r}, but there is no folder {str(target.parent)!r}. "
            f"Create it first."
        )
    header = _header(family, state)
    partial = target.with_name(f".{target.name}.{uuid4().hex}.partial")
    try:
        with partial.open("xb") as stream:
            _write_members(stream, header, state)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON part of a saved posterior, its format checked.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a complete posterior, or of a newer format.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"`path`: there is no file {os.fspath(path)!r} to load.")
    try:
        with ZipFile(path) as archive:
            header = json.loads(archive.read(_HEADER))
    except _UNREADABLE as error:
        raise _broken(path, error) from error
    if not isinstance(header, dict) or not header.keys() >= _HEADER_KEYS:
        raise _broken(path, ValueError(f"{_HEADER} lacks some of {sorted(_HEADER_KEYS)}"))
    version, writer = header["format_version"], header["versions"]
    if version > _FORMAT_VERSION:
        raise ValueError(
            f"{os.fspath(path)!r} has format version {version}, written by probnet "
            f"{writer['probnet']}; this is probnet {inference.__version__}, which "
            f"reads versions up to {_FORMAT_VERSION}. Upgrade probnet-bayes to load it."
        )
    return header


def read_state(path: str | os.PathLike[str], header: Mapping[str, Any]) -> PosteriorState:
    """The contents of a saved posterior whose header has been read.

    Raises:
        ValueError: if a part is missing or damaged.
    """
    try:
        with ZipFile(path) as archive:
            tensors = safetensors.torch.load(archive.read(_TENSORS))
            draws = _read_draws(archive) if header["draws"] else None
    except _UNREADABLE as error:
        raise _broken(path, error) from error
    return PosteriorState(
        method=header["method"],
        diagnostics=header["diagnostics"],
        config=header["config"],
        tensors=tensors,
        draws=draws,
    )


def _header(family: str, state: PosteriorState) -> str:
    for name in ("diagnostics", "config"):
        try:
            json.dumps(dict(getattr(state, name)))
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"`{name}` must be JSON-able, to be saved: {error}. Convert NumPy and torch "
                f"numbers by `float()`; arrays belong into `tensors`."
            ) from error
    header = {
        "format_version": _FORMAT_VERSION,
        "family": family,
        "method": state.method,
        "diagnostics": dict(state.diagnostics),
        "config": dict(state.config),
        "draws": state.draws is not None,
        "versions": {"probnet": inference.__version__, "torch": torch.__version__},
    }
    return json.dumps(header, indent=1)


def _write_members(stream: IO[bytes], header: str, state: PosteriorState) -> None:
    # Copies: safetensors refuses tensors that are views or share their memory.
    tensors = {
        name: t.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, t in state.tensors.items()
    }
    with ZipFile(stream, "w", ZIP_STORED) as archive:
        archive.writestr(_HEADER, header)
        archive.writestr(_TENSORS, safetensors.torch.save(tensors))
        if state.draws is not None:
            with TemporaryDirectory() as folder:
                archive.write(state.draws.save(Path(folder, _DRAWS)), _DRAWS)


def _read_draws(archive: ZipFile) -> Draws:
    with TemporaryDirectory() as folder:
        return inference.load(archive.extract(_DRAWS, folder))


def _broken(path: str | os.PathLike[str], error: Exception) -> ValueError:
    return ValueError(
        f"{os.fspath(path)!r} is not a complete posterior: {error}. It is truncated, damaged "
        f"or of another kind (draws saved by `Draws.save` are read by `inference.load`)."
    )
