"""The log joint density, ranked beside the parameters."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from inference.data import Leaves
from inference.errors import warn
from inference.targets import Named, Target

Arrays = dict[str, np.ndarray]

_LP = "lp"
_GROUP_VALUES = 1 << 22


def with_log_joint(
    target: Target, truth: Arrays, draws: Arrays, leaves: Leaves, chain_method: str
) -> tuple[Arrays, Arrays]:
    """Truths and draws with `lp` among them.

    Args:
        target: the model with all rows of a data set.
        truth: parameters (replication, *shape).
        draws: parameters (replication, chain, draw, *shape).
        leaves: data of every replication.
        chain_method: as for `inference.sample`.
    """
    together = {
        n: torch.as_tensor(np.concatenate([v[:, None], _flat(draws[n])], 1))
        for n, v in truth.items()
    }
    lp = _log_joint(target, together, leaves, chain_method).numpy(force=True)
    if _LP in truth or not np.isfinite(lp).all():
        warn(
            "the log joint density is not ranked: a parameter has its name, `lp`, or it is "
            "not finite at some draws, at the edge of their support."
        )
        return truth, draws
    shape = next(iter(draws.values())).shape[:3]
    return {**truth, _LP: lp[:, 0]}, {**draws, _LP: lp[:, 1:].reshape(shape)}


def _flat(draws: np.ndarray) -> np.ndarray:
    """(replication, chain · draw, *shape)."""
    return draws.reshape(len(draws), -1, *draws.shape[3:])


def _log_joint(target: Target, values: Named, leaves: Leaves, chain_method: str) -> Tensor:
    """Log joint density (replication, draw) of parameters (replication, draw, *shape)."""

    def one(params: Named, rows: Leaves) -> Tensor:
        position = target.unconstrain(params)
        return target.log_density(position, rows) - target.log_jacobian(position)

    def group(start: int, stop: int) -> tuple[Named, Leaves]:
        return {n: v[start:stop] for n, v in values.items()}, tuple(
            x[start:stop] for x in leaves
        )

    count, length = next(iter(values.values())).shape[:2]
    with torch.no_grad():
        if chain_method == "sequential":
            found = [
                one({n: v[i, j] for n, v in values.items()}, tuple(x[i] for x in leaves))
                for i in range(count)
                for j in range(length)
            ]
            return torch.stack(found).reshape(count, length)
        size = max(1, _GROUP_VALUES // (length * sum(x[0].numel() for x in leaves)))
        every = torch.func.vmap(torch.func.vmap(one, in_dims=(0, None)))
        return torch.cat([every(*group(i, i + size)) for i in range(0, count, size)])
