"""The posterior of a neural process in the ArviZ schema."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from inference.export import build_datatree
from inference.rng import Stream, scoped_seed, stream_seed
from probnet._checks import Values

if TYPE_CHECKING:
    import xarray

    from probnet.neural_process.posterior import NeuralProcessPosterior

_CONSTANT_GROUPS = ("observed_data", "constant_data")


def posterior_tree(
    posterior: NeuralProcessPosterior, x: Values | None, *, num_functions: int, seed: int
) -> xarray.DataTree:
    """See `NeuralProcessPosterior.to_datatree`."""
    context, network = posterior.context, posterior.trained.network
    own = context.x if context.batched else context.x[0]
    y_own = context.y if context.batched else context.y[0]
    grid: Any = own if x is None else x
    groups: dict[str, dict[str, Tensor]] = {}
    if network.sampled:
        draws = {"num_functions": num_functions, "seed": seed}
        law: Any = posterior.function_laws(grid, **draws)
        groups["posterior"] = {"f": law.mean}
        groups["sample_stats"] = {"function": torch.arange(num_functions)}
        with scoped_seed(stream_seed(seed, Stream.PREDICTIVE)):
            y = law.sample()
        logs = posterior.function_laws(own, **draws).log_prob(y_own).sum(-1)
    else:
        y = posterior.sample(num_functions, grid, seed=seed)
        logs = posterior.predict(own).log_prob(y_own)
        logs = logs.expand(num_functions, *logs.shape)
    groups["posterior_predictive"] = {"y": y}
    groups["log_likelihood"] = {"y_ctx": logs}
    observed = torch.where(context.mask.unsqueeze(-1), context.y, torch.nan)
    groups["observed_data"] = {"y_ctx": observed if context.batched else observed[0]}
    groups["constant_data"] = {"x_ctx": own, "x_grid": torch.as_tensor(grid)}
    tasks = ["task"] if context.batched else []
    grid_tasks = tasks if torch.as_tensor(grid).ndim == 3 else []
    return build_datatree(
        {
            group: {
                name: (t if group in _CONSTANT_GROUPS else t[None]).cpu().numpy()
                for name, t in variables.items()
            }
            for group, variables in groups.items()
        },
        coords={},
        dims={
            "f": [*tasks, "x_id", "y_dim"],
            "y": [*tasks, "x_id", "y_dim"],
            "y_ctx": [*tasks, "ctx_id", "y_dim"],
            "x_ctx": [*tasks, "ctx_id", "x_dim"],
            "x_grid": [*grid_tasks, "x_id", "x_dim"],
        },
        attrs={
            "family": posterior.family,
            "model": type(network).__name__,
            "method": posterior.method,
            "draws": "independent",
            "seed": seed,
        },
    )
