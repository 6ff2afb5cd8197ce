"""Priors by the name of their family: their defaults, and from what was saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from inference._checks import check_options
from probnet.bnn.flow import FlowPrior, flow_hyperparameters
from probnet.bnn.hierarchical import HierarchicalPrior, hierarchical_hyperparameters
from probnet.bnn.networks import BayesianNetwork
from probnet.bnn.priors import GaussianPrior, WeightPrior, check_names
from probnet.bnn.random_features import RandomFeaturePrior, SpectralDensity

_CLASSES: dict[str, type[WeightPrior]] = {
    cls.family: cls for cls in (FlowPrior, GaussianPrior, HierarchicalPrior, RandomFeaturePrior)
}
_TAKES = {
    "flow": ("stds",),
    "gaussian": ("stds",),
    "hierarchical": ("concentrations", "rates"),
    "rff": ("spectrum",),
}


def default_prior(network: BayesianNetwork, **hyperparameters: Any) -> WeightPrior:
    """The unmatched prior of the network's family; see `BayesianNetwork.prior`."""
    family = network.family
    check_options(f"family {family!r}", hyperparameters, _TAKES[family])
    if family == "rff":
        spectrum = hyperparameters.get("spectrum", SpectralDensity(1.0))
        return RandomFeaturePrior.from_spectrum(network, spectrum)
    given = {key: _completed(network, key, hyperparameters.get(key)) for key in _TAKES[family]}
    if family == "hierarchical":
        return HierarchicalPrior(network, hierarchical_hyperparameters(**given))
    if family == "flow":
        return FlowPrior(network, flow_hyperparameters(network, given["stds"]))
    return GaussianPrior(
        network, {n: torch.as_tensor(v, dtype=torch.float64) for n, v in given["stds"].items()}
    )


def family_prior(
    network: BayesianNetwork, stds: Mapping[str, float], concentration: float = 3.0
) -> WeightPrior:
    """A prior of the network's family whose entries have these standard deviations.

    Args:
        network: not of family `"rff"`.
        stds: by name.
        concentration: α > 1 of every variance, for the hierarchical family.
    """
    if network.family == "hierarchical":
        rates = {name: (concentration - 1) * std**2 for name, std in stds.items()}
        concentrations = dict.fromkeys(stds, concentration)
        return HierarchicalPrior(network, hierarchical_hyperparameters(concentrations, rates))
    if network.family == "flow":
        return FlowPrior(network, flow_hyperparameters(network, stds))
    values = {name: torch.as_tensor(std, dtype=torch.float64) for name, std in stds.items()}
    return GaussianPrior(network, values)


def prior_to_dict(prior: WeightPrior) -> dict[str, Any]:
    """The JSON-able part of a prior; its tensors are `prior.hyperparameters`."""
    return {"network": prior.network.to_dict(), "options": prior.options()}


def prior_from_dict(
    network: BayesianNetwork, options: Mapping[str, Any], hyperparameters: Mapping[str, Tensor]
) -> WeightPrior:
    """Rebuild a prior of the network's family."""
    return _CLASSES[network.family](network, hyperparameters, **options)


def _completed(
    network: BayesianNetwork, key: str, given: Mapping[str, Any] | None
) -> dict[str, Any]:
    values = dict.fromkeys(network.shapes, 1.0) | dict(given or {})
    check_names(values, network.shapes, key)
    return values
