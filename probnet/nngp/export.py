"""Posteriors of scale mixtures in the ArviZ schema."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from inference.export import build_datatree
from inference.rng import Stream, generator, scoped_seed, stream_seed

if TYPE_CHECKING:
    import xarray

    from probnet.nngp.posterior import ScaleMixturePosterior

_NUM_DRAWS = 1000


def scale_mixture_tree(posterior: ScaleMixturePosterior) -> xarray.DataTree:
    """Draws of σ² and hyper-parameters, data, and leave-one-out log densities where closed.

    Hyper-parameters are on their unconstrained scale, logarithms for neural kernels.
    """
    with scoped_seed(stream_seed(0, Stream.PREDICTIVE)):
        if posterior.vectors is None:
            scale = posterior.scale_posterior.sample(torch.Size((1, _NUM_DRAWS)))
            groups: dict[str, Any] = {"posterior": {"scale": scale.numpy()}}
        else:
            groups = {"posterior": _with_hyperparameters(posterior)}
    if posterior.draws is not None:
        groups["sample_stats"] = dict(posterior.draws.sample_stats)
    data = posterior.data
    targets = data.y[:, 0] if data.vector_target else data.y
    groups["observed_data"] = {"y": targets.numpy()}
    groups["constant_data"] = {"x": data.x.numpy()}
    exact = posterior.vectors is None and posterior.inducing is None
    if exact and posterior.noise_df is None:
        log_prob = posterior.leave_one_out().log_prob
        groups["leave_one_out"] = {"log_prob": log_prob.numpy()[None, None]}
    attrs = {
        "method": posterior.method,
        "diagnostics": dict(posterior.diagnostics),
        "noise_ratio": posterior.noise_ratio,
    }
    if posterior.method != "nuts":
        attrs["log_evidence"] = posterior.log_evidence
    if posterior.draws is None:
        attrs["draws"] = "independent"
    dims = {
        "y": ["row", "output"][: targets.ndim],
        "x": ["row", "feature"] if data.x.ndim == 2 else ["row", "height", "width", "channel"],
        "log_prob": ["row"],
        "hyperparameters": ["hyperparameter"],
    }
    coords = {"hyperparameter": posterior.hyperparameter_names}
    return build_datatree(groups, coords=coords, dims=dims, attrs=attrs)


def _with_hyperparameters(posterior: ScaleMixturePosterior) -> dict[str, Any]:
    """Draws of both, equally weighted: chains of NUTS, or resampled by their weights."""
    vectors, weights = posterior.vectors, posterior.weights
    assert vectors is not None and weights is not None  # noqa: PT018 - for the type checker
    scale: Any = posterior.scale_posterior
    values = scale.components.sample()
    if posterior.draws is not None:
        shape = posterior.draws.num_chains, posterior.draws.num_samples
    else:
        shape = 1, _NUM_DRAWS
        noise = generator(0, Stream.PREDICTIVE)
        picked = torch.multinomial(weights, _NUM_DRAWS, replacement=True, generator=noise)
        vectors, values = vectors[picked], values[picked]
    return {
        "scale": np.asarray(values).reshape(shape),
        "hyperparameters": vectors.numpy().reshape(*shape, -1),
    }
