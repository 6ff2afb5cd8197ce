"""Checks of arguments shared by probnet: expected, got, what to try.

Checks of single numbers and choices live in `inference._checks`, which sits below.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference._checks import check_finite, check_fraction

Values: TypeAlias = Tensor | NDArray[np.generic] | Sequence[float] | float
"""Numbers as users hold them: a torch tensor, a NumPy array, nested lists or one number."""

_SUM_TOLERANCE = 1e-5  # float32 softmax over some thousand classes stays within this


def as_tensor(name: str, values: Values) -> Tensor:
    """Return `values` as a float64 tensor; a tensor keeps its device and its gradient.

    Raises:
        TypeError: if `values` is not made of real numbers.
    """
    if not isinstance(values, Tensor):
        return torch.from_numpy(_numeric(name, np.asarray(values)).copy())
    if values.is_complex():
        raise TypeError(f"`{name}` must hold real numbers; got a tensor of {values.dtype}.")
    return values.to(torch.float64)


def as_array(name: str, values: Values) -> NDArray[np.float64]:
    """Return `values` as a float64 NumPy array, off any device and autograd graph."""
    if isinstance(values, Tensor):
        return as_tensor(name, values.detach().cpu()).numpy()
    return _numeric(name, np.asarray(values))


def check_shape(name: str, got: Sequence[int], expected: Sequence[int], reason: str) -> None:
    """Raise unless a shape is as expected; a transposed or unsqueezed one gets a hint.

    Args:
        name: the argument, as the user wrote it.
        got: its shape.
        expected: the shape it must have.
        reason: why, to follow "must have shape (...),".
    """
    got, expected = tuple(got), tuple(expected)
    if got == expected:
        return
    hint = ""
    if len(got) > 1 and got == expected[::-1]:
        hint = f" Did you mean `{name}.T`?"
    elif got == (*expected, 1):
        hint = f" Did you mean `{name}.squeeze(-1)`?"
    elif expected == (*got, 1):
        hint = f" Did you mean `{name}[..., None]`?"
    raise ValueError(f"`{name}` must have shape {expected}, {reason}; got {got}.{hint}")


def check_table(x: Values, y: Values) -> tuple[Tensor, Tensor]:
    """Return a table of cases as float64 tensors.

    Args:
        x: inputs, shape `(n, d)`; finite.
        y: targets, shape `(n,)` or `(n, m)`; finite.

    Returns:
        The inputs and the targets, on the device that each was on.

    Raises:
        ValueError: on an empty table, other shapes, unequal row counts, NaN or infinity.
    """
    inputs = check_finite("x", check_matrix("x", x))
    targets = as_tensor("y", y)
    if targets.ndim not in {1, 2}:
        raise ValueError(
            f"`y` must have shape (n,) or (n, m), one row per case; got {tuple(targets.shape)}."
        )
    if len(targets) != len(inputs):
        raise ValueError(
            f"`x` and `y` must have the same number of rows, one per case; got {len(inputs)} "
            f"rows in `x` and {len(targets)} in `y`."
        )
    return inputs, check_finite("y", targets)


def check_matrix(name: str, values: Values, num_columns: int | None = None) -> Tensor:
    """Return a non-empty float64 matrix `(n, d)`, or raise; `num_columns` fixes d."""
    matrix = as_tensor(name, values)
    if matrix.ndim != 2:
        hint = f" Did you mean `{name}[:, None]`?" if matrix.ndim == 1 else ""
        raise ValueError(
            f"`{name}` must have shape (n, d), one row per case and one column per feature; "
            f"got {tuple(matrix.shape)}.{hint}"
        )
    if not matrix.numel():
        raise ValueError(f"`{name}` must not be empty; got shape {tuple(matrix.shape)}.")
    if num_columns is not None and matrix.shape[1] != num_columns:
        raise ValueError(
            f"`{name}` must have {num_columns} columns, as the training inputs had; "
            f"got {matrix.shape[1]}."
        )
    return matrix


def check_all_positive(name: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `values`, or raise unless every entry is above zero and finite."""
    bad = ~((values > 0) & np.isfinite(values))
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"`{name}` must be finite and > 0 everywhere; {int(bad.sum())} of {bad.size} "
            f"entries are not (first: {values[first]} at index {first})."
        )
    return values


def check_class_probabilities(name: str, values: Values) -> NDArray[np.float64]:
    """Return probabilities of shape `(n, C)`; a vector is read as P(class 1) of two classes.

    Raises:
        ValueError: on other shapes, entries outside [0, 1] or rows that do not sum to one.
    """
    p = as_array(name, values)
    if p.ndim not in {1, 2} or not p.size:
        raise ValueError(
            f"`{name}` must have shape (n, C), one row of class probabilities per case, or "
            f"(n,), the probability of class 1 of two; got {p.shape}."
        )
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(
            f"`{name}` must hold probabilities in [0, 1]; got values from {p.min():.4g} to "
            f"{p.max():.4g}. Logits must go through a softmax first."
        )
    if p.ndim == 1:
        return np.stack([1 - p, p], axis=-1)
    sums = p.sum(-1)
    worst = int(np.abs(sums - 1).argmax())
    if abs(sums[worst] - 1) > _SUM_TOLERANCE:
        raise ValueError(
            f"`{name}` must sum to one over the classes of each case; row {worst} sums to "
            f"{sums[worst]:.6g}."
        )
    return p


def check_labels(name: str, labels: Values, num_classes: int) -> NDArray[np.int64]:
    """Return class numbers of shape `(n,)`, or raise unless all are whole and in 0..C-1."""
    raw = as_array(name, labels)
    if raw.ndim != 1:
        raise ValueError(
            f"`{name}` must have shape (n,), one class number per case; got {raw.shape}. "
            f"One-hot rows become labels by `.argmax(-1)`."
        )
    bad = (raw != np.floor(raw)) | (raw < 0) | (raw >= num_classes)
    if bad.any():
        first = int(bad.argmax())
        raise ValueError(
            f"`{name}` must hold whole class numbers 0..{num_classes - 1}; got {raw[first]:g} "
            f"at index {first}."
        )
    return raw.astype(np.int64)


def check_levels(name: str, levels: Sequence[float] | NDArray[np.float64]) -> list[float]:
    """Return probability levels as floats, or raise unless all lie strictly in (0, 1)."""
    return [
        check_fraction(f"{name}[{i}]", float(level), closed=False)
        for i, level in enumerate(levels)
    ]


def _numeric(name: str, array: NDArray[np.generic]) -> NDArray[np.float64]:
    if array.dtype.kind not in "biuf":
        raise TypeError(f"`{name}` must hold real numbers; got an array of {array.dtype}.")
    return array.astype(np.float64, copy=False)
