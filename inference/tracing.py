"""Tracing functions of tensors into graphs, one at a time.

Torch keeps whether a trace is going on in one flag of the process, which a trace saves and puts
back. Two that overlap in threads put back each other's value, and the flag may stay set: every
later compilation then fails. Whatever traces or compiles therefore does it under one lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

_PATIENCE = 300.0

_LOCK = threading.RLock()


@contextmanager
def exclusive_tracing(timeout: float = _PATIENCE) -> Generator[None]:
    """Keep every other trace and compilation out while the block runs.

    Args:
        timeout: seconds to wait for one that is going on.

    Raises:
        RuntimeError: if that takes longer.
    """
    if not _LOCK.acquire(timeout=timeout):
        raise RuntimeError(f"another thread has been compiling for over {timeout:g} s")
    try:
        yield
    finally:
        _LOCK.release()


def trace(function: Callable[..., Any], *arguments: Tensor) -> GraphModule:
    """The tensor operations that `function` does on `arguments`, as a graph without dead code.

    Args:
        function: of tensors, which returns tensors.
        arguments: what it is called with, without gradients; the graph holds for their shapes.

    Raises:
        RuntimeError: if another thread compiles for too long.
    """
    with exclusive_tracing(), torch.no_grad():
        graph = make_fx(function)(*arguments)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph
