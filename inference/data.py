"""The user's data: checked once, moved to one dtype and device, cut into minibatches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inference._checks import check_finite
from inference.rng import Stream, generator, generator_states, set_generator_states

Leaves = tuple[Tensor, ...]


class Data:
    """One array, a tuple or a dict of arrays; other objects in it pass through untouched.

    Args:
        data: what the model or likelihood takes: a tensor or array, a tuple or list of them
            (positional arguments), a dict of them (keyword arguments), or None.
        dtype: floating-point arrays are converted to it; integers and booleans are kept.
        device: where the arrays go.

    Raises:
        ValueError: on an array without rows, or on non-finite numbers, with their count and
            first index.
        TypeError: on an array that holds neither numbers nor booleans.
    """

    def __init__(
        self, data: Any, *, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> None:
        if data is None:
            items: dict[Any, Any] = {}
        elif isinstance(data, Mapping):
            items = dict(data)
        elif isinstance(data, (tuple, list)):
            items = dict(enumerate(data))
        else:
            items = {0: data}
        self._kind = data if data is None else type(data)
        self._items = {
            key: _as_tensor(_label(key, items), value, dtype, device)
            for key, value in items.items()
        }
        self.device = device

    @property
    def tensors(self) -> dict[Any, Tensor]:
        """The arrays, by position or keyword."""
        return {key: v for key, v in self._items.items() if isinstance(v, Tensor)}

    @property
    def floating_dtype(self) -> torch.dtype | None:
        """The widest floating-point dtype among the arrays, None if there is none."""
        found = [t.dtype for t in self.tensors.values() if t.is_floating_point()]
        return max(found, key=lambda dtype: torch.finfo(dtype).bits) if found else None

    def check_rows(self, num_data: int | None) -> int:
        """The common number of rows.

        Raises:
            ValueError: if there is no array, no row, or the numbers of rows differ.
        """
        arrays = self.tensors
        if not arrays:
            raise ValueError(
                "`data` holds no array, so there are no rows to take minibatches of."
            )
        rows = {
            _label(key, arrays): t.shape[0] if t.ndim else None for key, t in arrays.items()
        }
        counts = set(rows.values())
        if len(counts) > 1 or None in counts:
            raise ValueError(
                f"every array of `data` must have one row per example; got {rows} rows. "
                "Pass constants by closure instead."
            )
        count = int(next(iter(counts)) or 0)
        if num_data is not None and count != num_data:
            raise ValueError(f"`data` has {count} rows but `num_data` is {num_data}.")
        return count

    @property
    def labels(self) -> list[str]:
        """Names of the arrays for messages, in order: `data['y']`."""
        return [_label(key, self._items) for key in self.tensors]

    @property
    def leaves(self) -> Leaves:
        """The arrays in order."""
        return tuple(self.tensors.values())

    def rebuild(self, leaves: Leaves | None) -> Any:
        """The user's own structure with `leaves` in place of the arrays (None: the arrays)."""
        if leaves is None:
            items = self._items
        else:
            items = dict(self._items)
            items.update(zip(self.tensors, leaves, strict=True))
        if self._kind is None:
            return None
        if issubclass(self._kind, Mapping):
            return items
        if issubclass(self._kind, (tuple, list)):
            return tuple(items.values())
        return items[0]

    def call(self, function: Any, leaves: Leaves | None = None) -> Any:
        """Call a model on the data: a tuple gives positional, a dict keyword arguments."""
        structure = self.rebuild(leaves)
        if structure is None:
            return function()
        if isinstance(structure, dict):
            return function(**structure)
        if isinstance(structure, tuple):
            return function(*structure)
        return function(structure)

    def describe(self) -> str:
        """Shapes, for messages."""
        shapes = {_label(k, self._items): tuple(t.shape) for k, t in self.tensors.items()}
        return ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "no arrays"


class BatchStream:
    """Row numbers of minibatches, drawn without replacement within an epoch.

    Each chain walks through its own random permutations; the rows left over at the end of
    an epoch, fewer than a batch, are dropped (another permutation follows). The errors of an
    epoch's gradients add up to nearly nothing, which slow directions feel as less noise.

    Args:
        seed: the run's seed.
        chains: the chains' numbers.
        num_data: N.
        batch_size: n <= N.
        shared: every chain sees the batches of chain 0.
        device: where the row numbers are made.
        purpose: which stream.
        independent: draw every row with replacement instead, so that the errors of successive
            gradients are independent.

    Attributes:
        steps_per_epoch: batches in a permutation.
    """

    def __init__(
        self,
        seed: int,
        chains: Sequence[int],
        num_data: int,
        batch_size: int,
        *,
        shared: bool,
        device: torch.device,
        purpose: Stream = Stream.BATCH,
        independent: bool = False,
    ) -> None:
        streams = [0] if shared else chains
        self._generators = [generator(seed, purpose, c, device) for c in streams]
        self._num_data, self._batch_size = num_data, batch_size
        self._independent = independent
        self.steps_per_epoch = num_data // batch_size
        self._epoch = torch.empty(0)
        self._used = self.steps_per_epoch
        self._before = generator_states(self._generators)

    def take(self, count: int) -> Tensor:
        """Row numbers of the next `count` steps, shape (count, chains, batch_size).

        The axis of chains has length 1 if the batches are shared.
        """
        pieces: list[Tensor] = []
        while count:
            if self._used == self.steps_per_epoch:
                self._shuffle()
            some = min(count, self.steps_per_epoch - self._used)
            pieces.append(self._epoch[self._used : self._used + some])
            self._used += some
            count -= some
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def next(self) -> Tensor:
        """Row numbers of the next step, (chains, batch_size), or (1, batch_size) if shared."""
        return self.take(1)[0]

    def state(self) -> dict[str, Tensor]:
        """Where the stream stands, for `restore`."""
        done = self._used == self.steps_per_epoch
        now = generator_states(self._generators) if done else self._before
        return {"generators": now, "used": torch.tensor(self._used)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go where another stream of the same arguments stood."""
        set_generator_states(self._generators, state["generators"])
        self._used = int(state["used"])
        if self._used < self.steps_per_epoch:
            used = self._used
            self._shuffle()
            self._used = used

    def _shuffle(self) -> None:
        """Make the next epoch, shape (steps, chains, batch_size)."""
        self._before = generator_states(self._generators)
        used = self.steps_per_epoch * self._batch_size
        rows = [
            torch.randint(self._num_data, (used,), generator=g, device=g.device)
            if self._independent
            else torch.randperm(self._num_data, generator=g, device=g.device)[:used]
            for g in self._generators
        ]
        shape = (len(rows), self.steps_per_epoch, self._batch_size)
        self._epoch = torch.stack(rows).reshape(shape).transpose(0, 1)
        self._used = 0


def take_rows(leaves: Leaves, rows: Tensor) -> Leaves:
    """Rows of each array: numbers (*batch, n) give arrays (*batch, n, ...)."""
    flat = rows.reshape(-1)
    return tuple(
        leaf.index_select(0, flat).reshape(*rows.shape, *leaf.shape[1:]) for leaf in leaves
    )


def to_tensor(value: Any) -> Tensor:
    """As `torch.as_tensor`; an array is copied, for torch warns of read-only ones."""
    return torch.as_tensor(np.array(value) if isinstance(value, np.ndarray) else value)


def _label(key: Any, items: Mapping[Any, Any]) -> str:
    if isinstance(key, str):
        return f"data[{key!r}]"
    return "data" if len(items) == 1 else f"data[{key}]"


def _as_tensor(
    name: str, value: Any, dtype: torch.dtype | None, device: torch.device | None
) -> Any:
    if isinstance(value, np.ndarray) or hasattr(value, "to_numpy"):
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise TypeError(
                f"`{name}` must hold numbers or booleans; its dtype is {array.dtype}."
            )
        value = to_tensor(array)
    if not isinstance(value, Tensor):
        return value
    check_finite(name, value)
    if value.ndim and not len(value):
        raise ValueError(f"`{name}` is empty: its shape is {tuple(value.shape)}.")
    if dtype is not None and value.is_floating_point():
        value = value.to(dtype)
    return value.to(device) if device is not None else value
