"""The package's own exceptions and warnings."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch

_linalg: Any = torch.linalg
LinAlgError: type[Exception] = _linalg.LinAlgError
"""Torch's error on a singular matrix; torch does not export its type."""


class InferenceWarning(UserWarning):
    """Something about a run that makes its draws less trustworthy."""


class InitError(RuntimeError):
    """No starting point with a finite log density and gradient was found."""


class AllChainsDivergedError(RuntimeError):
    """Every chain met a non-finite log density or gradient; no usable draw remains."""


_held: ContextVar[list[str] | None] = ContextVar("held", default=None)


@contextmanager
def held_warnings() -> Generator[list[str]]:
    """Collect what `warn` is given instead of emitting it, as a task elsewhere must."""
    messages: list[str] = []
    token = _held.set(messages)
    try:
        yield messages
    finally:
        _held.reset(token)


def warn(message: str) -> None:
    """Emit an `InferenceWarning` that points at the first line outside this package."""
    held = _held.get()
    if held is not None:
        held.append(message)
        return
    here = str(Path(__file__).parent)
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_code.co_filename.startswith(here):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, InferenceWarning, stacklevel=level)
