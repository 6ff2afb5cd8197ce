"""The joint density of latents (or weights), likelihood parameters and data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

from inference import Draws, LogDensity
from inference.rng import Stream, scoped_seed, stream_seed
from probnet.bnn.hierarchical import HierarchicalPrior
from probnet.bnn.networks import BayesianMLP, BayesianNetwork
from probnet.bnn.priors import Latents, WeightPrior, flatten, unflatten
from probnet.likelihoods import Likelihood

_WEIGHTS = "weights"
_START = (0.1, 1.0)  # of learned likelihood parameters, in standardised units


@dataclass(frozen=True, eq=False)
class Joint:
    """One density for every method of inference.

    Attributes:
        prior: of the weights.
        likelihood: of standardised targets.
        centered: whether the weights are the parameters, instead of the prior's latents.
    """

    prior: WeightPrior
    likelihood: Likelihood
    centered: bool = False

    def log_density(self, num_data: int, dtype: torch.dtype) -> LogDensity:
        """What `inference.sample` takes, with data `(x, y)` of that many rows."""
        start = {name: value.to(dtype) for name, value in self._draw_start(0).items()}
        positive = [name for name in start if name not in {"z", _WEIGHTS}]
        laws = self.likelihood.priors

        def log_prior(params: Latents) -> Tensor:
            if self.centered:
                weights = unflatten(params[_WEIGHTS], self.prior.network.shapes)
                total = self.prior.log_prob(weights)
            else:
                total = self.prior.log_prior(params)
            for name, law in laws.items():
                total = total + law.log_prob(params[name])
            return total.to(dtype)

        def log_lik(params: Latents, rows: tuple[Tensor, Tensor]) -> Tensor:
            f = self.outputs(rows[0], self.weights(params))
            values = {name: params[name] for name in laws}
            return self.likelihood.log_prob(f, rows[1], **values).to(dtype)

        return LogDensity(
            log_prior,
            log_lik,
            start,
            dict.fromkeys(positive, constraints.positive),
            num_data=num_data,
        )

    def weights(self, params: Latents) -> dict[str, Tensor]:
        """Weights by name of the sampled parameters."""
        if self.centered:
            return unflatten(params[_WEIGHTS], self.prior.network.shapes)
        return self.prior.weights(params)

    def outputs(self, x: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """Network outputs in the shape that the likelihood takes."""
        f = self.prior.network.functions(x, weights)
        return f.squeeze(-1) if self.likelihood.num_outputs == 1 else f

    def start(self, num_chains: int | None, seed: int) -> dict[str, Tensor]:
        """Draws from the prior to start from, one a chain; chain c knows only seed and c.

        Args:
            num_chains: `None` for a single start without a chain axis.
            seed: of the run.
        """
        draws = [
            self._draw_start(stream_seed(seed, Stream.INIT, chain))
            for chain in range(num_chains or 1)
        ]
        if num_chains is None:
            return draws[0]
        return {name: torch.stack([d[name] for d in draws]) for name in draws[0]}

    def named(self, draws: Draws, seed: int) -> Draws:
        """Draws of weights by layer, variances and likelihood parameters."""
        others = [n for n in draws.draws if n not in {"z", "mixing", _WEIGHTS}]

        def convert(params: Latents) -> dict[str, Tensor]:
            return self.weights(params) | {name: params[name] for name in others}

        arrays: dict[str, np.ndarray] = draws.predict(convert)
        if self.centered and isinstance(self.prior, HierarchicalPrior):
            weights = {n: torch.from_numpy(arrays[n]) for n in self.prior.network.shapes}
            with scoped_seed(stream_seed(seed, Stream.PREDICTIVE)):
                arrays["variances"] = self.prior.conditional_variances(weights).sample().numpy()
        return Draws(
            draws=arrays,
            sample_stats=draws.sample_stats,
            attrs=dict(draws.attrs),
            dims=_dims(self.prior.network, arrays),
            coords={"weight": list(self.prior.network.shapes)},
            optimization=draws.optimization,
        )

    def _draw_start(self, seed: int) -> dict[str, Tensor]:
        latents = self.prior.draw_latents(1, seed=seed)
        if self.centered:
            shapes = self.prior.network.shapes
            latents = {_WEIGHTS: flatten(self.prior.weights(latents), shapes)}
        start = {name: value[0].detach() for name, value in latents.items()}
        with scoped_seed(seed):
            for name, law in self.likelihood.priors.items():
                start[name] = law.sample().clamp(*_START)
        return start


def _dims(network: BayesianNetwork, arrays: Mapping[str, Any]) -> dict[str, list[str]]:
    """Names of the axes: units of a layer are an axis of their own."""
    found = {"variances": ["weight"]} if "variances" in arrays else {}
    if not isinstance(network, BayesianMLP):
        return found
    last = len(network.hidden) + 1
    units = ["input", *(f"hidden{layer}" for layer in range(1, last)), "output"]
    for name in network.shapes:
        layer = int(name[1:])
        found[name] = units[layer - 1 : layer + 1] if name[0] == "w" else [units[layer]]
    return found
