"""Repeated evaluations of a target as a recorded graph of tensor operations.

Running a model costs more Python than arithmetic. After a number of calls with the same
shapes, the batched gradient is recorded once and replayed from then on: the same operations
on the same numbers, without the model's Python.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from inference.data import Leaves
from inference.tracing import trace

_LOGGER = logging.getLogger(__name__)
_LOGGER.addHandler(logging.NullHandler())
_RECORD_AFTER = 50

Evaluate = Callable[[Tensor, Leaves | None], tuple[Tensor, Tensor]]


class Recorded:
    """An evaluation that records itself once it has been called often enough.

    A recording is used only if it reproduces the evaluation it was made from; otherwise, and
    where a model cannot be recorded, the reason is logged and the model itself goes on.

    Args:
        evaluate: `(positions, batch) -> (log densities, gradients)`.
    """

    def __init__(self, evaluate: Evaluate) -> None:
        self._evaluate = evaluate
        self._calls: Counter[Any] = Counter()
        self._graphs: dict[Any, Callable[..., tuple[Tensor, Tensor]]] = {}

    def __call__(self, positions: Tensor, batch: Leaves | None) -> tuple[Tensor, Tensor]:
        """Log densities (chains,) and gradients (chains, dim)."""
        key = (positions.shape, None if batch is None else tuple(x.shape for x in batch))
        graph = self._graphs.get(key)
        if graph is not None:
            with torch.no_grad():
                return graph(positions, *(batch or ()))
        values = self._evaluate(positions, batch)
        if bool(values[0].isfinite().all()):  # a search for a starting point does not count
            self._calls[key] += 1
            if self._calls[key] == _RECORD_AFTER:
                self._record(key, positions, batch, values)
        return values

    def _record(
        self, key: Any, positions: Tensor, batch: Leaves | None, expected: tuple[Tensor, Tensor]
    ) -> None:
        def flat(positions: Tensor, *leaves: Tensor) -> tuple[Tensor, Tensor]:
            return self._evaluate(positions, None if batch is None else leaves)

        try:
            graph = trace(flat, positions, *(batch or ()))
            with torch.no_grad():
                found = graph(positions, *(batch or ()))
        except Exception as error:
            _LOGGER.info("the target is not recorded: %s", error)
            return
        pairs = zip(found, expected, strict=True)
        if all(torch.allclose(a, b, rtol=1e-4, equal_nan=True) for a, b in pairs):
            self._graphs[key] = graph
        else:
            _LOGGER.info("the target is not recorded: its recording gives other numbers")
