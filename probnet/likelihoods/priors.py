"""Priors on positive parameters, and how they are written down."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch.distributions import Distribution

_FIELDS: dict[str, tuple[str, ...]] = {
    "Exponential": ("rate",),
    "Gamma": ("concentration", "rate"),
    "HalfCauchy": ("scale",),
    "HalfNormal": ("scale",),
    "InverseGamma": ("concentration", "rate"),
    "LogNormal": ("loc", "scale"),
    "Uniform": ("low", "high"),
}


def checked_prior(name: str, prior: Distribution) -> Distribution:
    """Return `prior`, torch's or Pyro's, as Pyro's distribution in float64.

    Raises:
        TypeError: if it is of another kind than Exponential, Gamma, HalfCauchy, HalfNormal,
            InverseGamma, LogNormal and Uniform.
        ValueError: if it is not of a single number, or reaches below zero.
    """
    kind = type(prior).__name__
    if kind not in _FIELDS:
        raise TypeError(f"The prior of `{name}` must be one of {sorted(_FIELDS)}; got {kind}.")
    shape = tuple(prior.batch_shape + prior.event_shape)
    if shape:
        raise ValueError(f"The prior of `{name}` must be of one number; got shape {shape}.")
    if isinstance(prior, torch.distributions.Uniform) and float(prior.low) < 0:
        raise ValueError(f"The prior of `{name}` must not reach below 0; got {prior}.")
    return prior_from_dict(describe_prior(prior))


def describe_prior(prior: Distribution) -> dict[str, Any]:
    """The prior as a JSON-able dict of its kind and its numbers."""
    kind = type(prior).__name__
    return {"prior": kind, **{key: float(getattr(prior, key)) for key in _FIELDS[kind]}}


def prior_from_dict(described: dict[str, Any]) -> Distribution:
    """Rebuild the prior that `describe_prior` described, in float64."""
    kind = described["prior"]
    numbers = {key: torch.tensor(described[key], dtype=torch.float64) for key in _FIELDS[kind]}
    return getattr(dist, kind)(**numbers)


def half_normal() -> Distribution:
    """The default prior of a noise scale: half-normal of scale 1, in the units of y."""
    return dist.HalfNormal(torch.tensor(1.0, dtype=torch.float64))
