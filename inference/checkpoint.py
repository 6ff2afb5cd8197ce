"""Runs on disk: a directory of safetensors and JSON, consistent whenever the process dies.

`meta.json` says what was asked for and `start.safetensors` where the chains start;
`draws-000000.safetensors` and so on hold draws, each written once. `state.safetensors` says
how many of those files count and where every chain and random stream stands; it is replaced in
one move, and that is the moment at which a checkpoint exists. Nothing in the directory can
execute.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from inference.plan import Store

_FORMAT = 1
_SECONDS = 10.0


class Tensors(dict[str, Tensor]):
    """Tensors by dotted name."""

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Those whose names start with `prefix` and a dot, without it."""
        start = f"{prefix}."
        return {n.removeprefix(start): t for n, t in self.items() if n.startswith(start)}


@dataclass(frozen=True)
class Snapshot:
    """Where a run stands.

    Attributes:
        tensors: states of the chains and of the random streams.
        step: how many steps have been taken.
        died_at: step at which a chain was frozen, by chain.
        arrays: what has been stored so far, by store and variable.
    """

    tensors: Tensors
    step: int
    died_at: dict[int, int]
    arrays: Mapping[str, Mapping[str, np.ndarray]]

    @staticmethod
    def of(
        parts: Mapping[str, Mapping[str, Tensor]], *, step: int, died_at: Mapping[int, int]
    ) -> Snapshot:
        """A snapshot of named groups of tensors, without arrays."""
        flat = {f"{part}.{n}": t for part, tensors in parts.items() for n, t in tensors.items()}
        return Snapshot(Tensors(flat), step, dict(died_at), {})


class Checkpoint:
    """A directory that draws and states are saved in as a run goes.

    Args:
        path: the directory; made if it is not there.
        every: steps between two checkpoints; None: about every ten seconds.
        parts: number of files of draws that are there already (a run that goes on).
        stored: draws in them, by store.
    """

    def __init__(
        self,
        path: Path,
        every: int | None,
        *,
        parts: int = 0,
        stored: Mapping[str, int] | None = None,
    ) -> None:
        self._path, self._every = path, every
        self._parts, self._stored = parts, dict(stored or {})
        self._saved_at, self._saved_step = time.monotonic(), 0
        path.mkdir(parents=True, exist_ok=True)

    def due(self, step: int, *, last: bool) -> bool:
        """Whether to save after `step` steps."""
        if last:
            return True
        if self._every is not None:
            return step // self._every > self._saved_step // self._every
        return time.monotonic() - self._saved_at > _SECONDS

    def save(self, snapshot: Snapshot, stores: Mapping[str, Store]) -> None:
        """Write what is new, then make it count."""
        fresh = {
            f"{name}.{variable}": array[:, self._stored.get(name, 0) :]
            for name, store in stores.items()
            for variable, array in store.finished(store.filled).items()
        }
        if fresh:
            _write(self._path / _part(self._parts), _pieces(fresh))
            self._parts += 1
            self._stored = {name: store.filled for name, store in stores.items()}
        position = {
            "step": snapshot.step,
            "parts": self._parts,
            "died_at": {str(c): s for c, s in snapshot.died_at.items()},
        }
        tensors = {
            n: t.detach().cpu().contiguous().clone() for n, t in snapshot.tensors.items()
        }
        content = save_tensors(tensors, metadata={"position": json.dumps(position)})
        _write(self._path / "state.safetensors", content)
        self._saved_at, self._saved_step = time.monotonic(), snapshot.step


def begin(path: Path, meta: Mapping[str, Any], start: Mapping[str, Tensor]) -> None:
    """Make a directory for a run, and note what it is asked to do and where it starts.

    Raises:
        FileExistsError: if there is a run in the directory.
    """
    path.mkdir(parents=True, exist_ok=True)
    there = ("meta.json", "state.safetensors", "draws-*.safetensors", "chains-*")
    if any(next(path.glob(pattern), None) for pattern in there):
        raise FileExistsError(
            f"`checkpoint` {str(path)!r} holds a run already. Go on with it by "
            "inference.resume, or remove the directory."
        )
    tensors = {n: t.detach().cpu().contiguous().clone() for n, t in start.items()}
    _write(path / "start.safetensors", save_tensors(tensors))
    write_meta(path, meta)


def write_meta(path: Path, meta: Mapping[str, Any]) -> None:
    """Note what the run in a directory is asked to do."""
    _write(path / "meta.json", json.dumps({"format": _FORMAT, **meta}, indent=1).encode())


def read_start(path: Path, device: torch.device) -> dict[str, Tensor]:
    """What `begin` was given as `start`.

    Raises:
        ValueError: if the file is missing or damaged.
    """
    tensors, _ = _read(path / "start.safetensors", "pt")
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def read_meta(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What was asked of the run saved in a directory.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it cannot be read.
    """
    file = Path(path) / "meta.json"
    if not file.is_file():
        raise FileNotFoundError(f"no checkpoint in {os.fspath(path)!r}: there is no meta.json.")
    try:
        meta = json.loads(file.read_text())
        found = meta["format"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{str(file)!r} is damaged: {error!r}.") from error
    if found != _FORMAT:
        raise ValueError(f"{str(file)!r} has format {found!r}; this version reads {_FORMAT}.")
    return meta


def read_snapshot(
    path: str | os.PathLike[str], device: torch.device
) -> tuple[Snapshot, int, dict[str, int]] | None:
    """Where the run stands, its number of files of draws, and the draws in them by store.

    None if the run ended before its first checkpoint.

    Raises:
        ValueError: if a file is missing or damaged.
    """
    folder = Path(path)
    if not (folder / "state.safetensors").is_file():
        return None
    tensors, metadata = _read(folder / "state.safetensors", "pt")
    position = json.loads(metadata["position"])
    pieces: dict[str, dict[str, list[np.ndarray]]] = {}
    for number in range(position["parts"]):
        arrays, _ = _read(folder / _part(number), "numpy")
        for name, array in arrays.items():
            store, variable = name.split(".", 1)
            pieces.setdefault(store, {}).setdefault(variable, []).append(array)
    joined = {
        store: {n: np.concatenate(p, axis=1) for n, p in variables.items()}
        for store, variables in pieces.items()
    }
    stored = {s: next(iter(v.values())).shape[1] for s, v in joined.items()}
    died = {int(chain): step for chain, step in position["died_at"].items()}
    moved = Tensors(
        {n: t if "generators" in n or "used" in n else t.to(device) for n, t in tensors.items()}
    )
    return Snapshot(moved, position["step"], died, joined), position["parts"], stored


def _read(path: Path, framework: str) -> tuple[dict[str, Any], dict[str, str]]:
    opened: Callable[..., Any] = safe_open
    try:
        with opened(path, framework=framework) as file:
            return {n: file.get_tensor(n) for n in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(f"the checkpoint's file {str(path)!r} is damaged: {error}.") from error


def _part(number: int) -> str:
    return f"draws-{number:06d}.safetensors"


def _pieces(arrays: Mapping[str, np.ndarray]) -> Iterator[memoryview | bytes]:
    """The content of a safetensors file of arrays (chain, ...), chain by chain.

    A library that returns it in one piece would copy draws twice, which costs as much as
    writing them.
    """
    header: dict[str, Any] = {}
    end = 0
    for name, array in sorted(arrays.items(), key=lambda item: -item[1].itemsize):  # aligned
        start, end = end, end + array.nbytes
        kind = array.dtype.kind
        code = "BOOL" if kind == "b" else f"{kind.upper()}{8 * array.itemsize}"
        header[name] = {"dtype": code, "shape": array.shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in header:
        for chain in arrays[name]:
            yield np.ascontiguousarray(chain).data if chain.size else b""


def _write(path: Path, content: bytes | Iterable[memoryview | bytes]) -> None:
    """Write a file so that it is there as a whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.writelines([content] if isinstance(content, bytes) else content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
