"""A matrix of pairs, computed tile by tile.

A tile stays in the processor's cache through all layers, the lower triangle of a symmetric
matrix is mirrored, and the backward pass computes each tile again instead of keeping what
every layer made of it: memory is that of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

PairFunction = Callable[..., Tensor]
"""`function(x1, x2, same, *shared)`: rows `(*batch, r, d)` and `(*batch, c, d)` to `(*batch, r,
c)`; `same` says that the two are the same rows."""


def tiled(
    function: PairFunction, x1: Tensor, x2: Tensor, *shared: Tensor, same: bool, tile: int
) -> Tensor:
    """`function` of all rows, in tiles of at most `tile`² pairs, square where possible.

    Args:
        function: of pairs of rows.
        x1: rows, shape `(*batch, n, d)`.
        x2: rows, shape `(*batch, m, d)`; equal to `x1` if `same`.
        shared: further tensors that every tile needs.
        same: whether the result is symmetric.
        tile: rows of a square tile, at least 1.

    Returns:
        Shape `(*batch, n, m)`. It can be differentiated once, or any number of times if it is
        a single tile.
    """
    if x1.shape[-2] * x2.shape[-2] <= tile**2:
        return function(x1, x2, same, *shared)
    result: Any = _Tiled.apply(function, same, tile, x1, x2, *shared)
    return result


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        function, same, tile, x1, x2, *shared = inputs
        ctx.function, ctx.same, ctx.tile = function, same, tile
        ctx.save_for_backward(x1, x2, *shared)
        out: Any = None
        for rows, columns in _tiles(x1.shape[-2], x2.shape[-2], tile, same=same):
            own = same and rows == columns
            block = function(x1[..., rows, :], x2[..., columns, :], own, *shared)
            if out is None:
                out = block.new_empty(*block.shape[:-2], x1.shape[-2], x2.shape[-2])
            out[..., rows, columns] = block
            if same and not own:
                out[..., columns, rows] = block.mT
        assert out is not None
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,) = grad_outputs
        x1, x2, *shared = ctx.saved_tensors
        wanted = ctx.needs_input_grad[3:]
        totals = [torch.zeros_like(t) if w else None for t, w in zip((x1, x2, *shared), wanted)]  # noqa: B905
        for rows, columns in _tiles(x1.shape[-2], x2.shape[-2], ctx.tile, same=ctx.same):
            own = ctx.same and rows == columns
            block_grad = grad[..., rows, columns]
            if ctx.same and not own:
                block_grad = block_grad + grad[..., columns, rows].mT
            sliced = (x1[..., rows, :], x2[..., columns, :], *shared)
            leaves = [t.detach().requires_grad_(w) for t, w in zip(sliced, wanted, strict=True)]
            with torch.enable_grad():
                block = ctx.function(leaves[0], leaves[1], own, *leaves[2:])
            tracked = [leaf for leaf in leaves if leaf.requires_grad]
            gradients: Any = torch.autograd.grad(block, tracked, block_grad, allow_unused=True)
            found = iter(gradients)
            places = [(..., rows, slice(None)), (..., columns, slice(None))]
            for number, total in enumerate(totals):
                if total is None:
                    continue
                part = next(found)
                if part is not None:
                    total[places[number] if number < 2 else ...] += part
        return None, None, None, *totals


def _tiles(n: int, m: int, tile: int, *, same: bool) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of every tile; only those on and below the diagonal if symmetric."""
    width = tile if same else max(tile, tile**2 // n)
    height = tile if same else max(tile, tile**2 // m)
    for start in range(0, n, height):
        rows = slice(start, min(start + height, n))
        for left in range(0, start + 1 if same else m, width):
            yield rows, slice(left, min(left + width, m))
