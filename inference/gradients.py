"""Log density and gradient of all chains at once.

This is the one place that decides how a target is evaluated: under `vmap`, recorded, or chain
by chain. Samplers see only the result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from inference.data import Leaves
from inference.errors import LinAlgError
from inference.recording import Recorded
from inference.targets import Target

LogDensityAndGradient = Callable[[Tensor, Leaves | None], tuple[Tensor, Tensor]]
"""`(positions (chains, dim), batch or None) -> (log densities (chains,), gradients)`."""

CHAIN_METHODS = ("vectorized", "sequential")


def log_density_and_gradient(target: Target, chain_method: str) -> LogDensityAndGradient:
    """How to evaluate `target` for a block of chains.

    Chains do not interact, so the gradient of the summed log densities is every chain's own:
    one reverse pass through the batched graph, cheaper than `vmap` of a gradient.

    Args:
        target: the log density.
        chain_method: `"vectorized"` runs the target once under `vmap`; `"sequential"` runs it
            chain by chain, for models whose Python code branches on values.
    """
    if target.backend == "jax":
        native: Any = target
        return native.evaluate
    if chain_method == "sequential":
        return lambda positions, batch: _sequential(target, positions, batch)

    vectorized = Recorded(lambda positions, batch: _vectorized(target, positions, batch))

    def evaluate(positions: Tensor, batch: Leaves | None) -> tuple[Tensor, Tensor]:
        try:
            return vectorized(positions, batch)
        except LinAlgError:  # one chain's matrix is singular: find out whose
            return _sequential(target, positions, batch)
        except RuntimeError as error:
            if "vmap" not in str(error):
                raise
            raise RuntimeError(
                "the model cannot be vectorised over chains (it branches on a value, calls "
                ".item(), or uses an operation without a batching rule). Pass "
                f"chain_method='sequential'. torch said: {error}"
            ) from error

    return evaluate


def traceable(target: Target) -> LogDensityAndGradient:
    """The vectorised evaluation without fallbacks or recordings, to be traced into a graph."""
    return lambda positions, batch: _vectorized(target, positions, batch)


def map_chains(function: Callable[[Any], Any], argument: Any, *, chain_method: str) -> Any:
    """`function` of each entry of the leading axis, results stacked over it.

    Args:
        function: of one tensor, or one dict of tensors; returns a tensor or a dict of them.
        argument: a tensor or a dict of tensors with a leading axis of chains or draws.
        chain_method: as for `log_density_and_gradient`.
    """
    if chain_method == "vectorized":
        return torch.func.vmap(function)(argument)
    if isinstance(argument, dict):
        count = len(next(iter(argument.values())))
        entries: Any = ({n: t[i] for n, t in argument.items()} for i in range(count))
    else:
        entries = argument
    results = [function(entry) for entry in entries]
    if isinstance(results[0], dict):
        return {name: torch.stack([r[name] for r in results]) for name in results[0]}
    return torch.stack(results)


def _vectorized(
    target: Target, positions: Tensor, batch: Leaves | None
) -> tuple[Tensor, Tensor]:
    leaf = positions.detach().requires_grad_()
    with torch.enable_grad():
        if batch is None:
            values = torch.func.vmap(target.log_density)(leaf)
        else:
            shared = bool(batch) and batch[0].shape[0] == 1 != positions.shape[0]
            rows = tuple(x[0] for x in batch) if shared else batch
            values = torch.func.vmap(target.log_density, in_dims=(0, None if shared else 0))(
                leaf, rows
            )
        (gradient,) = torch.autograd.grad(values.sum(), leaf)
    return values.detach(), gradient


def _sequential(
    target: Target, positions: Tensor, batch: Leaves | None
) -> tuple[Tensor, Tensor]:
    values = positions.new_full(positions.shape[:1], torch.nan)
    gradients = torch.full_like(positions, torch.nan)
    for chain in range(positions.shape[0]):
        rows = None if batch is None else tuple(x[min(chain, x.shape[0] - 1)] for x in batch)
        leaf = positions[chain].detach().requires_grad_()
        try:
            with torch.enable_grad():
                value = target.log_density(leaf, rows)
                (gradients[chain],) = torch.autograd.grad(value, leaf)
            values[chain] = value.detach()
        except LinAlgError:  # reported as a diverged chain by the driver
            continue
    return values, gradients
