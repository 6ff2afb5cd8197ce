"""Contexts and points of prediction, checked and in the form that networks take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inference._checks import check_finite
from probnet._checks import Values, as_tensor
from probnet.neural_process.base import NeuralProcess


@dataclass(frozen=True, eq=False)
class Context:
    """Observed points in float64, of one task or of several.

    Attributes:
        x: `(B, n, x_dim)`, zero at padded entries.
        y: `(B, n, y_dim)`, likewise.
        mask: `(B, n)`.
        batched: whether there was an axis of tasks; if not, B is 1.
    """

    x: Tensor
    y: Tensor
    mask: Tensor
    batched: bool


def check_context(
    network: NeuralProcess,
    xc: Values,
    yc: Values,
    mask: Any,
    *,
    allow_empty: bool,
    device: torch.device,
) -> Context:
    """Check a context, or raise; see `TrainedProcess.condition`."""
    _check_dtypes(xc, yc)
    x = _points("xc", xc, network.x_dim, "x_dim").to(device)
    y = _points("yc", yc, network.y_dim, "y_dim").to(device)
    if x.shape[:-1] != y.shape[:-1]:
        raise ValueError(
            f"`xc` and `yc` must have the same points, {tuple(x.shape[:-1])} in `xc`; got "
            f"{tuple(y.shape[:-1])} in `yc`."
        )
    valid = _mask(mask, x)
    if not allow_empty and not bool(valid.any(-1).all()):
        raise ValueError(
            "the context must have at least one point in every task; "
            + ("`mask` is all False in some. " if mask is not None else "it is empty. ")
            + "`allow_empty=True` lets it pass."
        )
    x = torch.where(valid.unsqueeze(-1), x, 0.0)
    y = torch.where(valid.unsqueeze(-1), y, 0.0)
    check_finite("xc", x)
    check_finite("yc", y)
    batched = x.ndim == 3
    if not batched:
        x, y, valid = x[None], y[None], valid[None]
    if not x.shape[1]:  # networks take sets of some length: one padded entry
        x, y = (t.new_zeros(len(t), 1, t.shape[-1]) for t in (x, y))
        valid = valid.new_zeros(len(x), 1)
    return Context(x, y, valid, batched)


def check_points(network: NeuralProcess, x: Values, context: Context) -> Tensor:
    """Points of prediction as `(B, m, x_dim)` in float64, or raise."""
    points = _points("x", x, network.x_dim, "x_dim").to(context.x.device)
    check_finite("x", points)
    if points.ndim == 2:
        return points.expand(len(context.x), *points.shape)
    if not context.batched or len(points) != len(context.x):
        expected = f"({len(context.x)}, m, " if context.batched else "(m, "
        raise ValueError(
            f"`x` must have shape {expected}{network.x_dim}), as the context has "
            f"{'its' if context.batched else 'no'} axis of tasks; got {tuple(points.shape)}."
        )
    return points


def _points(name: str, values: Values, dim: int, dim_name: str) -> Tensor:
    tensor = as_tensor(name, values)
    if tensor.ndim not in {2, 3}:
        hint = f" Did you mean `{name}[:, None]`?" if tensor.ndim == 1 else ""
        raise ValueError(
            f"`{name}` must have shape (n, {dim}), or (B, n, {dim}) for B tasks; got "
            f"{tuple(tensor.shape)}.{hint}"
        )
    if tensor.shape[-1] != dim:
        raise ValueError(
            f"`{name}` must have {dim} columns, the {dim_name} of the trained process; got "
            f"shape {tuple(tensor.shape)}."
        )
    return tensor


def _mask(mask: Any, x: Tensor) -> Tensor:
    if mask is None:
        return torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device)
    tensor = mask if isinstance(mask, Tensor) else torch.from_numpy(np.asarray(mask))
    if tensor.dtype != torch.bool:
        raise TypeError(
            f"`mask` must be boolean; got {tensor.dtype}. Did you mean `mask.bool()`?"
        )
    if tensor.shape != x.shape[:-1]:
        raise ValueError(
            f"`mask` must have shape {tuple(x.shape[:-1])}, one entry per context point; got "
            f"{tuple(tensor.shape)}."
        )
    return tensor.to(x.device)


def _check_dtypes(xc: Any, yc: Any) -> None:
    x_type, y_type = (str(getattr(v, "dtype", "")).removeprefix("torch.") for v in (xc, yc))
    if "float" in x_type and "float" in y_type and x_type != y_type:
        raise TypeError(
            f"`xc` and `yc` must have the same floating type; got {x_type} and {y_type}. "
            f"Convert one of them."
        )
