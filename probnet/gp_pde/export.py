"""The posterior as an xarray tree."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from inference import __version__
from inference.export import build_datatree
from probnet.gp_pde.dense import Conditioned

if TYPE_CHECKING:
    import xarray

    from probnet.gp_pde.posterior import SpectralGPPosterior

_NUM_DRAWS = 200
_STATISTICS = ("nll", "nugget", "min_abs_eig", "residual", "newton_residual")


def build_tree(posterior: SpectralGPPosterior, x: Tensor | None) -> xarray.DataTree:
    """Groups of the ArviZ schema: parameters, fit statistics, data, and draws of u at `x`."""
    names = posterior.axis_names
    coords: dict[str, Any] = {
        name: nodes.numpy() for name, nodes in zip(names, posterior.nodes, strict=True)
    }
    dims: dict[str, list[str]] = {"f": list(names)}
    groups: dict[str, dict[str, np.ndarray]] = {
        "posterior": {},
        "sample_stats": {},
        "observed_data": {"f": posterior.source.numpy()},
    }
    if posterior.draws is not None:
        groups["posterior"] = dict(posterior.draws.draws)
        groups["sample_stats"] = dict(posterior.draws.sample_stats)
        dims |= posterior.draws.dims
        coords |= posterior.draws.coords
    else:
        for name, prior in zip(names, posterior.spectrum(), strict=True):
            for field in ("weight", "frequency", "lengthscale"):
                key = f"{field}_{name}"
                groups["posterior"][key] = getattr(prior, field).detach().numpy()[None, None]
                dims[key] = [f"component_{name}"]
        groups["sample_stats"] = _statistics(posterior)
    core = posterior.solutions[0].core
    if isinstance(core, Conditioned) and posterior.draws is None:
        groups["log_likelihood"] = {"rows": _leave_one_out(core).numpy()[None, None]}
        dims["rows"] = ["row"]
    if x is not None:
        draws = posterior.sample(_NUM_DRAWS, x, seed=0)
        groups["predictions"] = {"u": draws.numpy()[None]}
        groups["predictions_constant_data"] = {"x_test": x.numpy()}
        dims |= {"u": ["point"], "x_test": ["point", "axis"]}
        coords["axis"] = list(names)
    attrs = {
        "inference_library": "probnet-bayes",
        "inference_library_version": __version__,
        "method": posterior.method,
        "draws": "markov chains" if posterior.draws is not None else "independent",
    }
    return build_datatree(groups, coords=coords, dims=dims, attrs=attrs)


def _statistics(posterior: SpectralGPPosterior) -> dict[str, np.ndarray]:
    found = {"kappa": posterior.scale}
    for name in _STATISTICS:
        value = posterior.diagnostics.get(name)
        if value is not None:
            found[name] = value
    return {name: np.array([[float(value)]]) for name, value in found.items()}


def _leave_one_out(core: Conditioned) -> Tensor:
    """Log density of every row given the others, in closed form."""
    inverse = core.factor.inverse().diagonal()
    residual = core.alpha / inverse
    return -0.5 * (math.log(2 * math.pi) - torch.log(inverse) + inverse * residual**2)
